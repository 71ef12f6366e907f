// What the guest of the benchmark's own VM does: its vCPUs are threads that touch memory directly,
// a page of the snapshot's content at a time, and note how long they had to wait.
//
//   touch-all  reads every page once, in order of address
//   read-25    reads a quarter of them, chosen at random, in random order
//   write-25   writes the same quarter
//   zipf       reads as many times as there are pages: few of them often, most of them never
//   faults     reads 5,000 random pages: for the figures of a single fault
//   idle       nothing
//
// The vCPUs share the pages out among them. The seed is fixed: everybody does the same.
#ifndef RAMJET_TOOLS_BENCH_WORKLOAD_H_
#define RAMJET_TOOLS_BENCH_WORKLOAD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace ramjet::bench {

struct Workload {
  bool write = false;
  std::vector<std::vector<uint32_t>> pages;  // by vCPU, in order
};

// `nonzero`: numbers of the pages with content, ascending. InvalidArgument: there is no workload of
// that name.
absl::StatusOr<Workload> MakeWorkload(const std::string& name, std::vector<uint32_t> nonzero,
                                      int vcpus);

// A touch that took longer than a touch of present memory ever does.
struct Stall {
  uint32_t page;
  uint32_t ns;
};

// One vCPU's share.
class Toucher {
 public:
  // How many touches are the first useful work of a guest.
  static constexpr size_t kFirstWork = 100;
  static constexpr uint64_t kStallNs = 2000;

  Toucher(const std::vector<uint32_t>& pages, bool write);

  // Once. The calling thread is the vCPU. Allocates nothing.
  void Run(absl::Span<uint8_t> memory, uint64_t page_size);

  // By CLOCK_MONOTONIC.
  uint64_t first_work_ns() const { return first_work_ns_; }
  uint64_t done_ns() const { return done_ns_; }
  const std::vector<Stall>& stalls() const { return stalls_; }
  // Faults that the kernel counted for the thread, in the meantime.
  uint64_t kernel_faults() const { return kernel_faults_; }
  // Of the thread, from its beginning.
  double cpu_seconds() const { return cpu_seconds_; }

 private:
  const std::vector<uint32_t>& pages_;
  const bool write_;
  uint64_t first_work_ns_ = 0;
  uint64_t done_ns_ = 0;
  std::vector<Stall> stalls_;
  uint64_t kernel_faults_ = 0;
  double cpu_seconds_ = 0;
};

uint64_t MonotonicNs();

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_WORKLOAD_H_
