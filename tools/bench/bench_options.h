// What `ramjet bench` is told.
#ifndef RAMJET_TOOLS_BENCH_BENCH_OPTIONS_H_
#define RAMJET_TOOLS_BENCH_BENCH_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ramjet::bench {

struct BenchOptions {
  std::string snapshot;                   // empty: a test guest is booted and saved
  std::vector<std::string> qemu_command;  // arguments, or emulator and arguments, for `snapshot`
  std::string against = {};               // another ramjet; empty: no builds are compared
  int rounds = 0;                         // 0: 5, with `against` 20, quick 1
  std::string cache;                      // "warm", "cold", "both"; empty: both, quick warm
  std::vector<std::string> contestants;   // empty: all
  std::vector<std::string> workloads;     // empty: all
  int vcpus = 1;                          // of the benchmark's own VM
  std::string vcpu = "thread";            // what they are: or "kvm"
  uint64_t memory_mib = 0;                // of the test guest; 0: 1024, quick 256
  uint64_t fill_mib = 0;                  // of it random; 0: 424, quick 64
  bool json = false;
  bool pictures = false;
  std::string report_directory;  // not empty: also index.html there, with pictures
  bool quick = false;
  std::optional<bool> scaling;  // nullopt: if QEMU takes part, and not quick
};

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_BENCH_OPTIONS_H_
