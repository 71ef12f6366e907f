// The file that `ramjet run --stats` asks for.
#ifndef RAMJET_TOOLS_PRELOAD_STATS_FILE_H_
#define RAMJET_TOOLS_PRELOAD_STATS_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "loader/load_stats.h"
#include "loader/snapshot_loader.h"

namespace ramjet {

// What the file says, beside the numbers that LoadStats has. docs/stats.md describes the JSON.
struct StatsContent {
  struct Block {
    std::string idstr;
    uint64_t pages = 0;
    uint64_t nonzero = 0;
    bool lazy = false;
  };
  bool complete = false;
  std::string fallback;  // empty: null
  std::vector<Block> blocks;
  SnapshotLoader::PageCounts lazy_pages;
  absl::Duration to_resume;
  absl::Duration to_complete;
  absl::Duration cpu;
};

// The JSON object, with a newline. `stats` may be nullptr: nothing was lazy.
std::string FormatStats(const StatsContent& content, const LoadStats* stats);

// Replaces `path` atomically: a reader sees the old file or the new one.
absl::Status ReplaceFile(const std::string& path, const std::string& text);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_STATS_FILE_H_
