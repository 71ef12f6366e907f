// Which ranges of guest memory come whole, as transparent huge pages.
#ifndef RAMJET_LOADER_HUGE_PAGE_POLICY_H_
#define RAMJET_LOADER_HUGE_PAGE_POLICY_H_

#include <atomic>
#include <cstddef>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "loader/huge_window.h"
#include "loader/ram_block.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// Knows for each block where huge pages are wanted, and whether a thread that touches one page is
// to be given the whole window around it (WindowOf()).
//
// Threads: every method may be called concurrently. Only Add() and the two that decide take locks.
class HugePagePolicy {
 public:
  // `blocks` are in the snapshot.
  explicit HugePagePolicy(size_t blocks) : of_(blocks) {}

  // The block outlives the policy. kUndecided: the host and the block's owner are asked when
  // somebody wants it decided, which takes too long for the moment when a block is attached.
  void Add(const RamBlock& block, HugePages huge) ABSL_LOCKS_EXCLUDED(mu_);

  // What was said of the block, or decided since; kUndecided if it was not added.
  HugePages of(const RamBlock& block) const { return of_[block.index()].load(); }

  // Asks the host for all blocks that are undecided.
  void DecideAll() ABSL_LOCKS_EXCLUDED(asking_, mu_);

  // Whether `window` is to arrive as a huge page, as far as that is decided.
  bool IsHuge(const RamBlock& block, PageRun window) const {
    return IsHugeWindow(block, window, of(block));
  }
  // The same, after DecideAll() if it is not decided.
  bool DecideIsHuge(const RamBlock& block, PageRun window) ABSL_LOCKS_EXCLUDED(asking_, mu_);

  // From now on a thread that touches a page may be given the whole window around it.
  void AllowWhole() { whole_allowed_.store(true); }
  // Whether `window`, of which a page was touched, is to come whole.
  bool WantsWhole(const RamBlock& block, PageRun window) const {
    return whole_allowed_.load() && IsHuge(block, window);
  }

 private:
  std::atomic<bool> whole_allowed_{false};
  std::vector<std::atomic<HugePages>> of_;  // by index in the snapshot

  absl::Mutex asking_ ABSL_ACQUIRED_BEFORE(mu_);  // so that one thread asks for all
  absl::Mutex mu_;
  std::vector<const RamBlock*> added_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_HUGE_PAGE_POLICY_H_
