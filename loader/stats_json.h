// A load's statistics as JSON (schema ramjet.stats/1): what `ramjet run --stats` writes and
// ramjet_stats_json() returns. docs/stats.md describes each field.
#ifndef RAMJET_LOADER_STATS_JSON_H_
#define RAMJET_LOADER_STATS_JSON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "loader/load_stats.h"

namespace ramjet {

// What the object says, beside the numbers that LoadStats has.
struct StatsContent {
  struct Block {
    std::string idstr;
    uint64_t pages = 0;
    uint64_t nonzero = 0;
    bool lazy = false;
  };
  bool lazy = true;  // "mode": false if it is known that no block is
  bool complete = false;
  std::string fallback = {};  // empty: null
  std::vector<Block> blocks = {};
  uint64_t lazy_pages = 0;  // of all lazy blocks
  uint64_t lazy_nonzero_pages = 0;
  uint64_t missing_pages = 0;                             // of those, that have not arrived
  absl::Duration to_resume = absl::InfiniteDuration();    // infinite: null
  absl::Duration to_complete = absl::InfiniteDuration();  // infinite: null
  absl::Duration cpu = absl::ZeroDuration();
};

// The JSON object, with a newline. `stats` may be nullptr: nothing was lazy.
std::string FormatStats(const StatsContent& content, const LoadStats* stats);

}  // namespace ramjet

#endif  // RAMJET_LOADER_STATS_JSON_H_
