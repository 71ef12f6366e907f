// Under which conditions something was measured.
#ifndef RAMJET_TOOLS_BENCH_CONDITIONS_H_
#define RAMJET_TOOLS_BENCH_CONDITIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace ramjet::bench {

// "machine" of ramjet.bench/1, but for what the vCPUs are; `path` is on the file system in
// question.
nlohmann::json DescribeMachine(const std::string& path);

// "snapshot" of ramjet.bench/1, and what else has to be known of it.
struct SnapshotSummary {
  nlohmann::json object;
  uint64_t largest_block_bytes = 0;
  uint64_t largest_block_nonzero_bytes = 0;
  uint64_t nonzero_bytes = 0;  // of all blocks
  uint64_t pages = 0;
  std::string uri_options;  // behind file:PATH in QEMU's URI: where the stream begins
};
absl::StatusOr<SnapshotSummary> DescribeSnapshot(const std::string& path);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_CONDITIONS_H_
