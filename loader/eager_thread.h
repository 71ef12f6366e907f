// The threads that load what nobody has touched yet.
#ifndef RAMJET_LOADER_EAGER_THREAD_H_
#define RAMJET_LOADER_EAGER_THREAD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "loader/load_stats.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/thread.h"

namespace ramjet {

// Where a block may arrive as transparent huge pages, which also bring memory for the pages of zeros
// among them.
enum class HugePages {
  kNever,            // not private anonymous memory of small pages, or the kernel cannot move them
  kWhereHalfFull,    // in ranges of which at least half has content
  kWhereAnyContent,  // wherever a plain read into the memory would have made one: memory for which
                     // the host or its owner wants them
};

// Whether `window`, which is one huge page, is to be one.
bool IsHugeWindow(const RamBlock& block, PageRun window, HugePages huge);

// What is left to load ahead, handed out a window at a time, each window to one thread.
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

  // Blocks are served in the order in which they are added; they outlive the queue.
  void Add(RamBlock& block, HugePages huge) ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until there is a window or the queue is closed: nullopt.
  std::optional<Window> Next() ABSL_LOCKS_EXCLUDED(mu_);

  void Close() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    RamBlock* block;
    HugePages huge;
    uint64_t next_page;
  };
  void SkipEmpty() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasNextOrClosed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mu_);
  size_t current_ ABSL_GUARDED_BY(mu_) = 0;  // the entry being handed out
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

// Takes windows from a queue and loads what is pending in them, in file order. ReadPacer keeps its
// reads out of the way of faults.
class EagerThread {
 public:
  // All outlive it.
  static absl::StatusOr<std::unique_ptr<EagerThread>> Start(EagerQueue& queue, PageLoader& loader,
                                                            LoadStats& stats);

  // REQUIRES: the queue is closed. Waits for the window in hand; PageLoader::Quit() shortens that.
  ~EagerThread() = default;

  uint64_t cpu_ns() const { return thread_->cpu_ns(); }

 private:
  EagerThread(EagerQueue& queue, PageLoader& loader, LoadStats& stats, PageBuffer buffer);
  void Run();
  void LoadWindow(const EagerQueue::Window& window);
  bool HaveStaging();
  bool HaveBuffer(uint64_t page_bytes);

  EagerQueue& queue_;
  PageLoader& loader_;
  LoadStats& stats_;

  // Of the thread itself.
  PageBuffer buffer_;
  std::optional<HugeStaging> staging_;  // once it is wanted
  bool staging_refused_ = false;

  std::unique_ptr<Thread> thread_;  // last, so that it ends first
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_EAGER_THREAD_H_
