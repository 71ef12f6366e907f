// The thread that loads what the guest will touch first.
#ifndef RAMJET_LOADER_WORKING_SET_THREAD_H_
#define RAMJET_LOADER_WORKING_SET_THREAD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loader/eager_queue.h"
#include "loader/load_stats.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/thread.h"
#include "loader/window_loader.h"
#include "loader/working_set.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"

namespace ramjet {

// Reads a working set, makes sure that it belongs to the snapshot, and loads its pages in their
// order, a batch at a time; within a batch in the file's. Once everything is to be loaded, windows
// of huge pages that the page cache holds come whole, and eager threads help with these; but for
// the first few batches, their pages wait for that a while. What is wrong with the file is noted as
// an error in the statistics, and nothing is loaded then.
//
// Blocks may be attached while it is at work: runs of those that are not are left out, and come as
// soon as they are. The thread ends when all its pages are there, and waits, at no cost, while the
// rest belongs to blocks that are not attached.
//
// Threads: created and destroyed by one thread; the other methods may be called concurrently.
class WorkingSetThread {
 public:
  // What it works with; all outlive it.
  struct Parts {
    const Snapshot& snapshot;
    const PageSource& source;  // told what will be read soon
    PageLoader& loader;
    EagerQueue& queue;  // knows where huge pages are wanted, and gets the windows that are claimed
    LoadStats& stats;
  };
  static absl::StatusOr<std::unique_ptr<WorkingSetThread>> Start(std::string path,
                                                                 const Parts& parts);

  // Waits for the run in hand; PageLoader::Quit() shortens that.
  ~WorkingSetThread();

  // `block` is attached; it outlives the thread. `loaded` is called once, by this thread or the
  // caller's, when nothing of what is attached is left to load, or nothing can be: the disk is free
  // for others. Not once the thread is being destroyed.
  void Add(RamBlock& block, std::function<void()> loaded) ABSL_LOCKS_EXCLUDED(mu_);

  // The guest runs by now, so the disk need not be spared for whoever resumes it; and all the rest
  // is to be loaded, too.
  void Hurry() ABSL_LOCKS_EXCLUDED(mu_);

  uint64_t cpu_ns() const { return thread_->cpu_ns(); }

 private:
  // Bytes of a block, wherever pages begin there.
  struct Extent {
    size_t block;  // its index in Snapshot::blocks()
    uint64_t offset;
    uint64_t length;
  };
  struct BlockRun {
    RamBlock* block;
    PageRun pages;
  };
  using Batch = std::vector<BlockRun>;
  struct WantedWindow {
    RamBlock* block;
    PageRun window;
    uint64_t pages = 0;  // of the set
  };
  struct Added {
    RamBlock* block;
    std::function<void()> loaded;
  };

  WorkingSetThread(std::string path, const Parts& parts);
  void Run();
  absl::Status ReadFile();
  void LoadAttached();
  bool TakeAdded() ABSL_LOCKS_EXCLUDED(mu_);
  bool AwaitAdded() ABSL_LOCKS_EXCLUDED(mu_);
  bool AddedOrQuit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AwaitsWindow(const Batch& batch) const;
  void AwaitHurry() ABSL_LOCKS_EXCLUDED(mu_);
  bool HurriedOrQuit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReleaseTaken();
  Batch NextBatch();
  static PageRun PagesOf(const Extent& extent, const RamBlock& block);
  void FindWindows(const std::deque<Batch>& ahead);
  void ClaimWindows();
  void LoadWindows();
  Batch Joined(Batch runs) const;
  uint64_t FileOffset(const BlockRun& run) const;
  void Prefetch(const Batch& batch) const;
  void Load(const Batch& batch);
  bool MayHurry() const;

  // Constant after construction.
  const std::string path_;
  const Parts parts_;
  const absl::Time started_;

  // Of the thread itself.
  WindowLoader windows_;
  std::vector<Extent> todo_;  // in order; from next_ on
  size_t next_ = 0;
  uint64_t batch_bytes_ = 0;          // of the last batch
  std::vector<Extent> skipped_;       // of blocks that are not attached
  std::vector<RamBlock*> blocks_;     // by index in Snapshot::blocks(); nullptr: not attached
  std::vector<Added> taken_;          // whose `loaded` is still to be called
  int begun_ = 0;                     // batches
  std::vector<WantedWindow> wanted_;  // by their first page in the set

  // Written under mu_.
  std::atomic<bool> quit_{false};
  std::atomic<bool> hurried_{false};  // relaxed: seen late, it only takes a little longer

  absl::Mutex mu_;
  std::vector<Added> added_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // nobody will take what is added

  std::unique_ptr<Thread> thread_;  // last, so that it ends first
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WORKING_SET_THREAD_H_
