// How a VM's memory fills, watched from outside while it does, for the report's pictures.
#ifndef RAMJET_TOOLS_BENCH_SAMPLER_H_
#define RAMJET_TOOLS_BENCH_SAMPLER_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "nlohmann/json.hpp"
#include "tools/bench/process_figures.h"
#include "tools/bench/workload.h"

namespace ramjet::bench {

// Looks at a process every few milliseconds, in a thread of its own, from construction to Stop():
// how much memory it has, and which pages of `ram` are present. It costs the process time.
class Sampler {
 public:
  Sampler(pid_t pid, AddressRange ram);
  ~Sampler() { Stop(); }
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // The moment from which time is counted, by MonotonicNs(): the construction, if not set.
  void SetStart(uint64_t ns) { start_ns_ = ns; }
  void Stop();

  // REQUIRES, for both: stopped.
  // [[seconds, bytes]], bytes beyond what was there at first.
  nlohmann::json Resident() const;
  // {"columns", "cells": [[why, ms]]}: `page_is_zero`, and why a page came that is not, if it did.
  nlohmann::json Map(absl::FunctionRef<bool(uint64_t page)> page_is_zero,
                     absl::FunctionRef<const char*(uint64_t page)> why) const;

 private:
  static constexpr uint64_t kNever = UINT64_MAX;

  void Watch();
  void NoteNewPages(int pagemap, uint64_t now_ns, std::vector<uint64_t>* entries);

  const pid_t pid_;
  const AddressRange ram_;
  const uint64_t page_size_;
  const uint64_t first_bytes_;
  std::atomic<uint64_t> start_ns_;
  std::atomic<bool> stop_{false};
  // The thread's own until it has ended.
  std::vector<std::pair<uint64_t, uint64_t>> resident_;  // ns, bytes
  std::vector<uint64_t> present_since_ns_;               // by page, or kNever

  std::thread thread_;
};

// [[us, fraction]]: which part of the stalls took at most that long; at most 200 points.
nlohmann::json StallDistribution(std::vector<Stall> stalls);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_SAMPLER_H_
