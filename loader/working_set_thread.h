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
#include "loader/eager_queue.h"
#include "loader/huge_page_policy.h"
#include "loader/load_stats.h"
#include "loader/moments.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/thread.h"
#include "loader/window_loader.h"
#include "loader/window_trip.h"
#include "loader/working_set_order.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"

namespace ramjet {

// Reads a working set, makes sure that it belongs to the snapshot, and loads it as WorkingSetOrder
// has it: pages at once, but windows, with which eager threads help, only when everything is to be
// loaded. Until then, but for the first few batches, pages that could come with their window wait a
// while. What is wrong with the file is noted as an error in the statistics, and nothing is loaded
// then.
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
    const PageSource& source;  // told what will be read soon, and asked what is in memory
    PageLoader& loader;
    WindowTrip& window_trip;
    EagerQueue& queue;  // gets windows that are claimed
    HugePagePolicy& huge_pages;
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

  // The guest runs by now, so the disk need not be spared for the thread that resumes it; and all
  // the rest is to be loaded, too.
  void Hurry() ABSL_LOCKS_EXCLUDED(mu_);

  uint64_t cpu_ns() const { return thread_->cpu_ns(); }

 private:
  using BlockRun = WorkingSetOrder::BlockRun;
  using Step = WorkingSetOrder::Step;
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
  void LookAhead();
  WorkingSetOrder::Windows HowWindowsCome();
  void AwaitHurry();
  void ReleaseTaken();
  bool PutFirst(const BlockRun& window);
  void LoadWindows();
  void Prefetch(const Step& step) const;
  void Load(const Step& step);
  bool MayHurry() const;

  // Constant after construction.
  const std::string path_;
  const Parts parts_;
  const uint64_t started_ns_;

  // Of the thread itself.
  WindowLoader windows_;
  WorkingSetOrder order_;
  std::deque<Step> ahead_;         // their pages are prefetched
  uint64_t batch_bytes_ = 0;       // of the last batch
  int begun_ = 0;                  // batches
  bool windows_may_come_ = false;  // the guest runs, and it is known which may be huge
  std::vector<Added> taken_;       // whose `loaded` is still to be called

  // Written under mu_.
  std::atomic<bool> quit_{false};
  std::atomic<bool> hurried_{false};  // relaxed: seen late, it only takes a little longer

  Moments changes_;  // of these two

  absl::Mutex mu_;
  std::vector<Added> added_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;  // nobody will take what is added

  std::unique_ptr<Thread> thread_;  // last, so that it ends first
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WORKING_SET_THREAD_H_
