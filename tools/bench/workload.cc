#include "tools/bench/workload.h"

#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ramjet::bench {
namespace {

constexpr unsigned kSeed = 20261121;
constexpr size_t kFaultTouches = 5000;

uint64_t KernelFaults() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return static_cast<uint64_t>(usage.ru_minflt + usage.ru_majflt);
}

uint64_t ClockNs(clockid_t clock) {
  timespec time = {};
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Rank r with a probability of about 1/r.
std::vector<uint32_t> Zipf(const std::vector<uint32_t>& shuffled, std::mt19937_64& random) {
  std::uniform_real_distribution<double> uniform;
  const auto count = static_cast<double>(shuffled.size());
  std::vector<uint32_t> pages;
  pages.reserve(shuffled.size());
  for (size_t i = 0; i < shuffled.size(); ++i) {
    const auto rank = static_cast<size_t>(std::pow(count, uniform(random))) - 1;
    pages.push_back(shuffled[std::min(rank, shuffled.size() - 1)]);
  }
  return pages;
}

}  // namespace

uint64_t MonotonicNs() { return ClockNs(CLOCK_MONOTONIC); }

absl::StatusOr<Workload> MakeWorkload(const std::string& name, std::vector<uint32_t> nonzero,
                                      int vcpus) {
  std::mt19937_64 random(kSeed);
  std::vector<uint32_t> pages = std::move(nonzero);
  if (name != "touch-all") std::shuffle(pages.begin(), pages.end(), random);
  if (name == "read-25" || name == "write-25") {
    pages.resize(pages.size() / 4);
  } else if (name == "zipf") {
    pages = Zipf(pages, random);
  } else if (name == "faults") {
    pages.resize(std::min(pages.size(), kFaultTouches));
  } else if (name == "idle") {
    pages.clear();
  } else if (name != "touch-all") {
    return absl::InvalidArgumentError(absl::StrCat("there is no workload \"", name, "\""));
  }
  Workload workload;
  workload.write = name == "write-25";
  workload.pages.resize(static_cast<size_t>(vcpus));
  for (size_t i = 0; i < pages.size(); ++i) {
    workload.pages[i % workload.pages.size()].push_back(pages[i]);
  }
  return workload;
}

Toucher::Toucher(const std::vector<uint32_t>& pages, bool write, absl::Span<uint8_t> memory,
                 uint64_t page_size)
    : pages_(pages), write_(write), memory_(memory), page_size_(page_size) {
  stalls_.resize(pages.size());  // present from here on
  stalls_.clear();
}

size_t Toucher::first_work() const { return std::min(kFirstWork, pages_.size()); }

void Toucher::NoteStall(uint32_t page, uint64_t ns) {
  constexpr uint64_t kMost = std::numeric_limits<uint32_t>::max();
  stalls_.push_back({page, static_cast<uint32_t>(std::min(ns, kMost))});
}

absl::Status Toucher::Run() {
  const uint64_t faults_before = KernelFaults();
  const uint64_t cpu_ns_before = ClockNs(CLOCK_THREAD_CPUTIME_ID);
  absl::Status touched = Touch();
  kernel_faults_ = KernelFaults() - faults_before;
  cpu_seconds_ = static_cast<double>(ClockNs(CLOCK_THREAD_CPUTIME_ID) - cpu_ns_before) / 1e9;
  return touched;
}

absl::Status Toucher::Touch() {
  uint64_t before = MonotonicNs();
  first_work_ns_ = before;
  for (size_t i = 0; i < pages_.size(); ++i) {
    volatile uint8_t* const byte = memory_.data() + pages_[i] * page_size_;
    if (write_) {
      *byte = 1;
    } else {
      (void)*byte;
    }
    const uint64_t after = MonotonicNs();
    if (after - before > kStallNs) NoteStall(pages_[i], after - before);
    if (i + 1 == first_work()) first_work_ns_ = after;
    before = after;
  }
  done_ns_ = before;
  return absl::OkStatus();
}

}  // namespace ramjet::bench
