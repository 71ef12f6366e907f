// What the guest of the benchmark's own VM does: its vCPUs touch memory, a page of the snapshot's
// content at a time, and note how long they had to wait.
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

#include "absl/status/status.h"
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

// One vCPU's share, done by the calling thread itself: it is the vCPU. (The other kind of vCPU:
// kvm_toucher.h.)
class Toucher {
 public:
  // How many touches are the first useful work of a guest.
  static constexpr size_t kFirstWork = 100;
  static constexpr uint64_t kStallNs = 2000;

  // Touches a byte of each of `pages`, which outlive it, in `memory`.
  Toucher(const std::vector<uint32_t>& pages, bool write, absl::Span<uint8_t> memory,
          uint64_t page_size);
  virtual ~Toucher() = default;
  Toucher(const Toucher&) = delete;
  Toucher& operator=(const Toucher&) = delete;

  // What need not be timed. Once, by the thread that calls Run() then.
  virtual absl::Status Prepare() { return absl::OkStatus(); }
  // Once. Allocates nothing.
  absl::Status Run();

  // By CLOCK_MONOTONIC.
  uint64_t first_work_ns() const { return first_work_ns_; }
  uint64_t done_ns() const { return done_ns_; }
  const std::vector<Stall>& stalls() const { return stalls_; }
  // Faults that the kernel counted for the thread, in the meantime.
  uint64_t kernel_faults() const { return kernel_faults_; }
  // Of the thread, during Run().
  double cpu_seconds() const { return cpu_seconds_; }

 protected:
  // Has to set the two times.
  virtual absl::Status Touch();
  size_t first_work() const;  // the number of touches that are it
  void NoteStall(uint32_t page, uint64_t ns);

  const std::vector<uint32_t>& pages_;
  const bool write_;
  const absl::Span<uint8_t> memory_;
  const uint64_t page_size_;
  uint64_t first_work_ns_ = 0;
  uint64_t done_ns_ = 0;

 private:
  std::vector<Stall> stalls_;
  uint64_t kernel_faults_ = 0;
  double cpu_seconds_ = 0;
};

uint64_t MonotonicNs();

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_WORKLOAD_H_
