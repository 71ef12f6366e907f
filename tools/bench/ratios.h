// What ramjet is judged by: ratios between contestants of one run, each with its bar.
#ifndef RAMJET_TOOLS_BENCH_RATIOS_H_
#define RAMJET_TOOLS_BENCH_RATIOS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tools/bench/limits.h"
#include "tools/bench/measurement.h"

namespace ramjet::bench {

struct Ratio {
  std::string name;
  std::string cache;  // "warm", "cold"; empty: of neither
  double value = 0;
  std::string bar;  // ">= 30"
  bool met = false;
  // Whether the middle half of what was measured on either side leaves no doubt about `met`.
  bool reliable = false;
  std::string note;  // if not met: the limit that may stand in the way, as measured
};

struct Judged {
  const Summary& summary;
  const Limits& limits;
  uint64_t nonzero_bytes = 0;     // of all blocks: what QEMU loads
  uint64_t vm_nonzero_bytes = 0;  // of the largest block: what our own VM loads
  uint64_t pages = 0;
  int rounds = 0;
  int cpus = 0;
  SparseResumes sparse_1_gib;
  SparseResumes sparse_64_gib;
};

// Those that can be computed from what was run.
std::vector<Ratio> ComputeRatios(const Judged& judged);
nlohmann::json ToJson(const std::vector<Ratio>& ratios);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_RATIOS_H_
