// What a load has done so far, counted without getting in its way.
#ifndef RAMJET_LOADER_LOAD_STATS_H_
#define RAMJET_LOADER_LOAD_STATS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace ramjet {

// Durations, in buckets of which each is at most 1/16 wider than it is long: good for percentiles
// to 6 %.
//
// Threads: Add() and the readings may be called concurrently; a reading during an Add() may miss
// it.
class LatencyHistogram {
 public:
  void Add(uint64_t ns);
  uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  uint64_t max_ns() const { return max_ns_.load(std::memory_order_relaxed); }
  // The duration that `fraction` (0 to 1) of all durations do not exceed; 0 if there is none.
  uint64_t QuantileNs(double fraction) const;

 private:
  static constexpr unsigned kSubBits = 4;
  static constexpr size_t kBuckets = (64 - kSubBits + 1) << kSubBits;
  static size_t BucketOf(uint64_t ns);
  static uint64_t UpperEndNs(size_t bucket);

  // relaxed throughout: only a statistic.
  std::array<std::atomic<uint64_t>, kBuckets> buckets_{};
  std::atomic<uint64_t> count_{0};
  std::atomic<uint64_t> max_ns_{0};
};

// The clock by which durations are measured.
inline uint64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

inline void Count(std::atomic<uint64_t>& counter, uint64_t pages) {
  counter.fetch_add(pages, std::memory_order_relaxed);  // only a statistic
}

// Counts pages unless it says otherwise.
//
// Threads: all may be called concurrently.
struct LoadStats {
  // Where the pages with content came from, or what else became of them.
  std::atomic<uint64_t> eager{0};        // from the file, ahead of need
  std::atomic<uint64_t> queued{0};       // of eager, from a disk that had more to do: ReadQueue
  std::atomic<uint64_t> moved{0};        // of eager and faulted, in a huge page
  std::atomic<uint64_t> working_set{0};  // of eager, first, since a working set says so
  std::atomic<uint64_t> faulted{0};      // from the file, because somebody touched them
  std::atomic<uint64_t> removed{0};      // discarded by the guest before they came
  std::atomic<uint64_t> poisoned{0};     // unreadable: a SIGBUS, in a guest a machine check

  std::atomic<uint64_t> zeroed{0};     // installed as zeros because somebody touched them
  std::atomic<uint64_t> redundant{0};  // were there already when they were to be installed

  // Faults.
  std::atomic<uint64_t> faults{0};     // read from the kernel, whatever became of them
  std::atomic<uint64_t> in_flight{0};  // left to the thread that had claimed the page
  std::atomic<uint64_t> parked{0};     // had to wait: for a mapping to settle, memory, or the disk
  std::atomic<uint64_t> rescued{0};    // lost, and woken by the watchdog: a bug of our own
  LatencyHistogram fault_ns;           // event read -> page installed and its waiter woken
  LatencyHistogram window_ns;          // of those: event read -> whole huge page there
  void AddWindow(uint64_t took_ns) {
    fault_ns.Add(took_ns);
    window_ns.Add(took_ns);
  }

  std::atomic<uint64_t> postponed{0};     // eager installs that waited for a mapping to settle
  std::atomic<uint64_t> no_memory{0};     // installs for which the kernel had no page just then
  std::atomic<uint64_t> read_retries{0};  // reads of the file that failed and came again later

  // What went wrong for good. Keeps the first kMaxErrors messages and counts the rest; one that is
  // known already is not counted again. Allocates: for the way out, not the way through.
  static constexpr size_t kMaxErrors = 16;
  void AddError(const absl::Status& error) ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<std::string> errors() const ABSL_LOCKS_EXCLUDED(mu_);

  // A read ahead of need has failed, and is repeated later: counted, and noted as below unless only
  // memory was missing.
  void NoteFailedRead(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  // A page could not be had ahead of need, and comes later.
  void NoteUnread(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  // The latest of these reasons, and for how long such reads have failed without a pause of
  // seconds. Empty: none has failed for a while.
  struct Unread {
    std::string why;
    uint64_t for_ns = 0;
  };
  Unread unread() const ABSL_LOCKS_EXCLUDED(mu_);

  // Errors are to be told to somebody before anybody can die of them: by the one caller of these.
  // Before the load begins.
  void TellErrors() { tells_ = true; }
  // Those that came since the last call; of more than kMaxUntold, how many more. MarkTold() when
  // they are told.
  struct Untold {
    std::vector<std::string> messages;
    uint64_t upto = 0;
  };
  Untold TakeUntold() ABSL_LOCKS_EXCLUDED(mu_);
  bool any_untold() const ABSL_LOCKS_EXCLUDED(mu_);
  void MarkTold(uint64_t upto) { told_.store(upto, std::memory_order_release); }
  // How many there were so far, and whether the first `count` of them are told, as far as anybody
  // tells them. Takes no lock.
  uint64_t error_count() const { return count_.load(std::memory_order_acquire); }
  bool told(uint64_t count) const {
    return !tells_ || told_.load(std::memory_order_acquire) >= count;
  }

  // What is no error, and worth a line to the person who runs the VM. A few in a load.
  void AddNote(std::string note) ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<std::string> notes() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  static constexpr size_t kMaxUntold = 64;

  bool tells_ = false;              // constant once the load has begun
  std::atomic<uint64_t> count_{0};  // written under mu_
  std::atomic<uint64_t> told_{0};
  mutable absl::Mutex mu_;
  std::vector<std::string> errors_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> untold_ ABSL_GUARDED_BY(mu_);
  uint64_t more_untold_ ABSL_GUARDED_BY(mu_) = 0;
  std::string unread_ ABSL_GUARDED_BY(mu_);
  uint64_t unread_first_ns_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t unread_last_ns_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_LOAD_STATS_H_
