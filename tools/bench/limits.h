// What this machine can do at best, for comparison: the limits under every load.
#ifndef RAMJET_TOOLS_BENCH_LIMITS_H_
#define RAMJET_TOOLS_BENCH_LIMITS_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "tools/bench/measurement.h"

namespace ramjet::bench {

// Measured between the rounds, as often as there are rounds. In GB/s, but for the last three:
//   memcpy       from present memory to present memory
//   pread        the snapshot, from the page cache into present memory
//   fill         the same into huge pages that are still to be laid in, 1 to N threads: what a load
//                from the page cache comes to, done by a bare loop
//   uffdio-copy  UFFDIO_COPY of 256 KiB from present memory, 1 to N threads
//   uffdio-move  UFFDIO_MOVE of huge pages (Linux 6.8)
//   disk-direct  the snapshot's content by O_DIRECT, 2 MiB at a time, one read and several at once
//   fill-direct  the same into fresh huge pages, 1 to 4 threads: what a load from a disk comes to
//   thread-start           us: until the starter of a thread goes on
//   thread-wake            us: until a sleeper on the same processor goes on, or on another (2)
//   fault-loop-p50, -p99   us: a touch that a bare poll-read-pread-copy loop serves
class Limits {
 public:
  // Measures all but fault-loop once. Those that the machine cannot do are left out.
  absl::Status Measure(const std::string& snapshot);
  void Add(const std::string& name, int threads, double value);

  std::optional<Spread> Find(const std::string& name, int threads = 1) const;
  nlohmann::json AsJson() const;

 private:
  std::map<std::pair<std::string, int>, std::vector<double>> samples_;
};

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_LIMITS_H_
