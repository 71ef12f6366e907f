// What is left to load ahead, and in which order.
#ifndef RAMJET_LOADER_EAGER_QUEUE_H_
#define RAMJET_LOADER_EAGER_QUEUE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "loader/ram_block.h"

namespace ramjet {

// Where a block may arrive as transparent huge pages, which also bring memory for the pages of
// zeros among them.
enum class HugePages {
  kUndecided,        // perhaps: what its owner and the host want is still to be asked
  kNever,            // not private anonymous memory of small pages, or the kernel cannot move them
  kWhereHalfFull,    // in ranges of which at least half has content
  kWhereAnyContent,  // wherever a plain read into the memory would have made one: memory for which
                     // the host or its owner wants them
};

// Whether `window`, which is one huge page, is to be one.
bool IsHugeWindow(const RamBlock& block, PageRun window, HugePages huge);

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
    PageRun run;     // of a huge page, where the block has that much
    HugePages huge;  // kNever unless it is just one huge page
  };

  // `blocks` are in the snapshot. No more than `bytes_per_s` of content are handed out, in the
  // mean; 0: no limit.
  explicit EagerQueue(size_t blocks, uint64_t bytes_per_s = 0)
      : bytes_per_s_(bytes_per_s), entry_of_(blocks, kNoEntry) {}

  // Blocks are served in the order in which they are added; they outlive the queue.
  void Add(RamBlock& block, HugePages huge) ABSL_LOCKS_EXCLUDED(mu_);

  // A page of the block has been touched: the window around it comes next, for who touches one page
  // soon touches its neighbours. Takes no lock and is forgotten if more important things, which are
  // later ones, have come up meanwhile. By one thread at a time.
  void Hint(const RamBlock& block, uint64_t page);

  // `decide` says what the blocks that are kUndecided are to be.
  void Decide(absl::FunctionRef<HugePages(const RamBlock&)> decide) ABSL_LOCKS_EXCLUDED(mu_);
  HugePages huge(const RamBlock& block) const ABSL_LOCKS_EXCLUDED(mu_);

  // Between a Hold() and its Release() nothing is handed out: more important reads are under way.
  void Hold() ABSL_LOCKS_EXCLUDED(mu_);
  void Release() ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until there is a window or the queue is closed: nullopt.
  std::optional<Window> Next() ABSL_LOCKS_EXCLUDED(mu_);

  void Close() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    RamBlock* block;
    HugePages huge;
    uint64_t next_page;
  };
  static constexpr size_t kNoEntry = SIZE_MAX;
  static constexpr size_t kHints = 16;  // kept

  std::optional<Window> NextHinted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Window NextInOrder() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static Window WindowAt(const Entry& entry, uint64_t page);
  void SkipEmpty() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasNextOrClosed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint64_t bytes_per_s_;

  // Each 0, or a block's index + 1 above kPageBits bits of page number. relaxed: what is said of
  // the block is believed only after a look at its own bits.
  static constexpr unsigned kPageBits = 48;
  std::array<std::atomic<uint64_t>, kHints> hints_{};
  std::atomic<size_t> next_hint_{0};

  mutable absl::Mutex mu_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::vector<size_t> entry_of_ ABSL_GUARDED_BY(mu_);  // by index in the snapshot
  size_t current_ ABSL_GUARDED_BY(mu_) = 0;            // the entry being handed out
  int holds_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Time next_at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();  // not earlier
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_EAGER_QUEUE_H_
