// What is left to load ahead, and in which order.
#ifndef RAMJET_LOADER_EAGER_QUEUE_H_
#define RAMJET_LOADER_EAGER_QUEUE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "loader/moments.h"
#include "loader/priority_windows.h"
#include "loader/ram_block.h"
#include "loader/window_hints.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// What is left to load ahead, handed out a window at a time: around what was touched last, else in
// file order. A window may go to two threads if one finds it by a hint; the thread that claims a
// page loads it.
//
// Threads: every method may be called concurrently. The lock is held for a few instructions once in
// 2 MiB of memory, and while what has nothing to load is skipped.
class EagerQueue {
 public:
  using Window = PriorityWindows::Window;

  // `blocks` are in the snapshot. No more than `bytes_per_s` of content are handed out, in the
  // mean; 0: no limit.
  explicit EagerQueue(size_t blocks, uint64_t bytes_per_s = 0)
      : entry_of_(blocks, kNoEntry), bytes_per_s_(bytes_per_s) {}

  // Blocks are served in the order in which they are added; they outlive the queue.
  void Add(RamBlock& block) ABSL_LOCKS_EXCLUDED(mu_);

  // A page of the block has been touched: the window around it comes next, because a guest that
  // touches one page soon touches its neighbours. Takes no lock and is forgotten if more important
  // things, which are later ones, have come up meanwhile. By one thread at a time.
  void Hint(const RamBlock& block, uint64_t page) { hints_.Give(block, page); }

  // What comes before all that is in the queue, even during a Hold().
  PriorityWindows& priority() { return priority_; }

  // What is pending in `window`, a WindowOf(), was claimed by a thread that could not load it. It
  // is handed out once more.
  void PutBack(const RamBlock& block, PageRun window) ABSL_LOCKS_EXCLUDED(mu_);

  // Pages of `window` that are pending could not be loaded just now. The window is handed out again
  // when nothing else is left, after a pause that doubles as long as windows keep coming back here.
  void PutBackForLater(const RamBlock& block, PageRun window) ABSL_LOCKS_EXCLUDED(mu_);

  // Between a Hold() and its Release() only priority() is handed out: more important reads are
  // under way.
  void Hold() ABSL_LOCKS_EXCLUDED(mu_);
  void Release() ABSL_LOCKS_EXCLUDED(mu_);

  bool has_limit() const ABSL_LOCKS_EXCLUDED(mu_);
  // From now on there is no limit on what is handed out.
  void LiftRate() ABSL_LOCKS_EXCLUDED(mu_);
  // From now on there is no limit, and a Hold() holds nothing back: all that is left is needed.
  void Hurry() ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until there is a window or the queue is closed: nullopt.
  std::optional<Window> Next() ABSL_LOCKS_EXCLUDED(mu_);
  // As Next(), but does not wait: nullopt, too, if there is no window just now.
  std::optional<Window> TryNext() ABSL_LOCKS_EXCLUDED(mu_);

  void Close() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    RamBlock* block;
    uint64_t next_page;
    uint64_t later_page = kNoPage;  // where the next round begins
  };
  static constexpr size_t kNoEntry = SIZE_MAX;
  static constexpr uint64_t kNoPage = UINT64_MAX;

  std::optional<Window> NextHinted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<Window> TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Window NextInOrder() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SkipEmpty() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t NextAtNs() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BeginNextRound() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Moments changes_;    // that Next() waits for
  WindowHints hints_;  // of what was touched
  PriorityWindows priority_{changes_};

  std::atomic<bool> closed_{false};

  mutable absl::Mutex mu_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::vector<size_t> entry_of_ ABSL_GUARDED_BY(mu_);  // by index in the snapshot
  size_t current_ ABSL_GUARDED_BY(mu_) = 0;            // the entry being handed out
  int holds_ ABSL_GUARDED_BY(mu_) = 0;
  bool hurried_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t bytes_per_s_ ABSL_GUARDED_BY(mu_);
  // By MonotonicNs().
  uint64_t next_at_ns_ ABSL_GUARDED_BY(mu_) = 0;      // the next window comes not earlier
  uint64_t next_round_ns_ ABSL_GUARDED_BY(mu_) = 0;   // nor what was put back for later
  uint64_t round_pause_ns_ ABSL_GUARDED_BY(mu_) = 0;  // before that
  uint64_t failed_ns_ ABSL_GUARDED_BY(mu_) = 0;       // the last, of all rounds
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_EAGER_QUEUE_H_
