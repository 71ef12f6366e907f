// What is left to load ahead, and in which order.
#ifndef RAMJET_LOADER_EAGER_QUEUE_H_
#define RAMJET_LOADER_EAGER_QUEUE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "loader/huge_window.h"
#include "loader/moments.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/window_hints.h"
#include "loader/window_offers.h"

namespace ramjet {

// What is left to load ahead, handed out a window at a time: around what was touched last, else in
// file order. A window may go to two threads, if one finds it by a hint: whoever claims a page
// loads it.
//
// Threads: every method may be called concurrently. The lock is held for a few instructions once in
// 2 MiB of memory, and while what has nothing to load is skipped.
class EagerQueue {
 public:
  struct Window {
    RamBlock* block;
    PageRun run;  // see WindowOf()
    // Of all of it, for a working set.
    std::optional<PageLoader::ClaimedWindow> claim = std::nullopt;
  };

  // `blocks` are in the snapshot. No more than `bytes_per_s` of content are handed out, in the
  // mean; 0: no limit.
  explicit EagerQueue(size_t blocks, uint64_t bytes_per_s = 0)
      : huge_(blocks), entry_of_(blocks, kNoEntry), bytes_per_s_(bytes_per_s) {}

  // Blocks are served in the order in which they are added; they outlive the queue.
  void Add(RamBlock& block, HugePages huge) ABSL_LOCKS_EXCLUDED(mu_);

  // A page of the block has been touched: the window around it comes next, for who touches one page
  // soon touches its neighbours. Takes no lock and is forgotten if more important things, which are
  // later ones, have come up meanwhile. By one thread at a time.
  void Hint(const RamBlock& block, uint64_t page) { hints_.Give(block, page); }

  // `window` comes before all others, even during a Hold(), but behind what was put here before; or
  // at once if it is claimed, and somebody waits for it. Close() gives its claim back.
  void PutFirst(Window window) ABSL_LOCKS_EXCLUDED(mu_);
  // Somebody waits for the page, which is claimed. As Hint().
  void HintWaiting(const RamBlock& block, uint64_t page) { waits_.Give(block, page); }
  // For who answers the one that waits: the claim to a window that was put first and handed out to
  // nobody; nullopt if there is none, or somebody holds the lock just now. Frees no memory.
  std::optional<PageLoader::ClaimedWindow> TryTakeClaim(const RamBlock& block, PageRun window)
      ABSL_LOCKS_EXCLUDED(mu_);
  // One that was put first; nullopt: there is none just now.
  std::optional<Window> NextFirst() ABSL_LOCKS_EXCLUDED(mu_);

  // Windows that are waited for while others are brought: the first eager thread that gets to one
  // brings it. Who has offered it takes it back otherwise. Takes no lock.
  WindowOffers& offers() { return offers_; }

  // What is pending in `window`, a WindowOf(), was claimed by somebody who could not load it: it is
  // handed out once more.
  void PutBack(const RamBlock& block, PageRun window) ABSL_LOCKS_EXCLUDED(mu_);

  // Pages of `window` that are pending could not be loaded just now. The window is handed out again
  // when nothing else is left, after a pause that doubles as long as windows keep coming back here.
  void PutBackForLater(const RamBlock& block, PageRun window) ABSL_LOCKS_EXCLUDED(mu_);

  // What was said of the block, or decided since; kUndecided if it was not added. Takes no lock.
  HugePages huge(const RamBlock& block) const { return huge_[block.index()].load(); }
  // The same, but decides what is undecided first.
  HugePages DecideHuge(const RamBlock& block) ABSL_LOCKS_EXCLUDED(asking_, mu_);
  // Decides for all blocks. To ask takes a while: not when a block is attached.
  void DecideHuge() ABSL_LOCKS_EXCLUDED(asking_, mu_);

  // From now on, unless there is a limit on what is handed out, who touches a page may be given the
  // whole window around it.
  void AllowWindows() ABSL_LOCKS_EXCLUDED(mu_);
  // Whether `window`, of which a page was touched, is to come whole: as a huge page. Takes no lock.
  bool WantsWhole(const RamBlock& block, PageRun window) const {
    return windows_allowed_.load() && IsHugeWindow(block, window, huge(block));
  }

  // Between a Hold() and its Release() nothing is handed out but what was put first: more important
  // reads are under way.
  void Hold() ABSL_LOCKS_EXCLUDED(mu_);
  void Release() ABSL_LOCKS_EXCLUDED(mu_);

  // From now on there is no limit on what is handed out.
  void LiftRate() ABSL_LOCKS_EXCLUDED(mu_);
  // From now on there is no limit, and a Hold() holds nothing back: all that is left is needed.
  void Hurry() ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until there is a window or the queue is closed: nullopt.
  std::optional<Window> Next() ABSL_LOCKS_EXCLUDED(mu_);
  // The same for who has something else to do: nullopt, too, if there is none just now.
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

  struct First {
    Window window;
    bool taken = false;  // its claim was, so there is nothing to do
  };

  std::optional<Window> TakeFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Window Extract(std::map<uint64_t, First>::iterator at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<Window> NextHinted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<Window> TakeNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Window NextInOrder() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SkipEmpty() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t NextAtNs() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BeginNextRound() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  WindowHints hints_;  // of what was touched
  WindowHints waits_;  // of what is claimed, and waited for
  WindowOffers offers_;
  std::atomic<bool> windows_allowed_{false};
  std::vector<std::atomic<HugePages>> huge_;  // by index in the snapshot

  absl::Mutex asking_ ABSL_ACQUIRED_BEFORE(mu_);  // so that one asks for all
  mutable absl::Mutex mu_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::vector<size_t> entry_of_ ABSL_GUARDED_BY(mu_);  // by index in the snapshot
  size_t current_ ABSL_GUARDED_BY(mu_) = 0;            // the entry being handed out
  // What comes before all else, by the order of its coming, and each window's number by its place.
  std::map<uint64_t, First> first_ ABSL_GUARDED_BY(mu_);
  std::map<WindowHints::Hint, uint64_t> first_at_ ABSL_GUARDED_BY(mu_);
  static constexpr uint64_t kMiddle = uint64_t{1} << 63;
  uint64_t next_number_ ABSL_GUARDED_BY(mu_) = kMiddle;  // upwards
  uint64_t next_urgent_ ABSL_GUARDED_BY(mu_) = kMiddle;  // downwards
  // Waited for, and not there.
  std::set<WindowHints::Hint> missed_ ABSL_GUARDED_BY(mu_);
  int holds_ ABSL_GUARDED_BY(mu_) = 0;
  bool hurried_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t bytes_per_s_ ABSL_GUARDED_BY(mu_);
  // By MonotonicNs().
  uint64_t next_at_ns_ ABSL_GUARDED_BY(mu_) = 0;      // the next window comes not earlier
  uint64_t next_round_ns_ ABSL_GUARDED_BY(mu_) = 0;   // nor what was put back for later
  uint64_t round_pause_ns_ ABSL_GUARDED_BY(mu_) = 0;  // before that
  uint64_t failed_ns_ ABSL_GUARDED_BY(mu_) = 0;       // the last, of all rounds
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  Moments changes_;  // that Next() waits for
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_EAGER_QUEUE_H_
