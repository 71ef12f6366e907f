#include "loader/moments.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

#include "loader/load_stats.h"

namespace ramjet {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

constexpr uint64_t kNsPerSecond = 1'000'000'000;

}  // namespace

void Moments::Note() {
  count_.fetch_add(1);
  if (waiters_.load() == 0) return;
  syscall(SYS_futex, &count_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

bool Moments::AwaitNext(uint32_t seen, uint64_t deadline_ns) const {
  const timespec deadline{.tv_sec = static_cast<time_t>(deadline_ns / kNsPerSecond),
                          .tv_nsec = static_cast<long>(deadline_ns % kNsPerSecond)};
  const timespec* const until = deadline_ns == kNever ? nullptr : &deadline;
  waiters_.fetch_add(1);
  bool noted = count_.load() != seen;
  for (; !noted && MonotonicNs() < deadline_ns; noted = count_.load() != seen) {
    // Of the two kinds of futex waits this one takes a point in time, and of CLOCK_MONOTONIC.
    syscall(SYS_futex, &count_, FUTEX_WAIT_BITSET_PRIVATE, seen, until, nullptr,
            FUTEX_BITSET_MATCH_ANY);
  }
  waiters_.fetch_sub(1);
  return noted;
}

}  // namespace ramjet
