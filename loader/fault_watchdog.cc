#include "loader/fault_watchdog.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

namespace ramjet {
namespace {

constexpr int64_t kPauseNs = 1'000'000'000;
// So many more looks, this far apart, have to see somebody before anything is believed to be lost.
constexpr unsigned kMoreLooks = 10;
constexpr int64_t kShortPauseNs = 20'000'000;

}  // namespace

int64_t FaultWatchdog::pause_ns() const { return suspicions_ > 0 ? kShortPauseNs : kPauseNs; }

// A fault that was left to the claimant of its page shows by that trip. With no trip under way, a
// thread that still sleeps has been forgotten.
//
// Not all in the kernel's queue sleep. A thread that a signal woke first is not taken out of it by
// our wake: if it then waits for a processor, on a machine that has too few, it stays there until
// it runs.
void FaultWatchdog::Watch() {
  const uint64_t now_ns = MonotonicNs();
  if (now_ns - watched_ns_ < static_cast<uint64_t>(pause_ns())) return;
  watched_ns_ = now_ns;
  // A thread that waits for a page that cannot be had, while the VM is being stopped, is to go on
  // waiting.
  if (parts_.vm_stop.stopped() || !parts_.loader.idle()) return;
  const unsigned suspicions = std::exchange(suspicions_, 0);
  const std::optional<FaultQueue::Sleepers> before = queue_.Look();
  if (!before || before->owed == 0) return;
  if (suspicions < kMoreLooks) {
    suspicions_ = suspicions + 1;
    return;
  }
  WakeAll();
  const std::optional<FaultQueue::Sleepers> after = queue_.Look();
  const uint64_t awake = after ? std::min(after->owed, before->owed) : 0;
  parts_.stats.rescued.fetch_add(before->owed - awake, std::memory_order_relaxed);
}

void FaultWatchdog::WakeAll() const {
  for (RamBlock* block = parts_.map.FindFrom(0); block != nullptr;
       block = parts_.map.FindFrom(block->host() + block->length())) {
    parts_.uffd.Wake(block->host(), block->length());
  }
}

}  // namespace ramjet
