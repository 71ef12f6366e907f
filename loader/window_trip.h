// The trip of a whole window: what is to arrive as one huge page, by moving it.
#ifndef RAMJET_LOADER_WINDOW_TRIP_H_
#define RAMJET_LOADER_WINDOW_TRIP_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/read_queue.h"

namespace ramjet {

// How a window's trip ended for the thread that touched one of its pages.
enum class WindowOutcome {
  kLoaded,     // all of it is there now, and every thread that slept on it is awake
  kNotCached,  // it is not in the page cache, or somebody was faster: nothing has changed
  kReleased,   // it was claimed and could not be had: threads that load ahead may have passed it by
};

class WindowTrip;

// A whole window, claimed before it is read: a thread that touches a page of it from now on waits
// for all of it. For what is soon to be loaded, and needs no disk or will be touched all over. The
// claim is given back at the end of the object's life.
class ClaimedWindow {
 public:
  ClaimedWindow(ClaimedWindow&& other) noexcept
      : trip_(std::exchange(other.trip_, nullptr)), block_(other.block_), run_(other.run_) {}
  ClaimedWindow& operator=(ClaimedWindow&& other) noexcept {
    std::swap(trip_, other.trip_);
    std::swap(block_, other.block_);
    std::swap(run_, other.run_);
    return *this;
  }
  ~ClaimedWindow();

  RamBlock& block() const { return *block_; }
  PageRun run() const { return run_; }

 private:
  friend class WindowTrip;
  ClaimedWindow(WindowTrip* trip, RamBlock* block, PageRun run)
      : trip_(trip), block_(block), run_(run) {}

  WindowTrip* trip_;  // nullptr: nothing is claimed any more
  RamBlock* block_;
  PageRun run_;
};

// Takes windows, each of which fills one huge page of the host, on the trip that PageLoader takes
// pages on: ahead of need they are read, claimed, moved to the guest, received, and woken. A window
// may also be claimed first. What cannot be moved goes PageLoader's way.
//
// Threads: every method may be called concurrently, each with memory of the calling thread. No lock
// is taken. REQUIRES, for all that bring a window: private anonymous memory of small pages, and
// uffd's features().move.
class WindowTrip {
 public:
  // `pages` outlives it.
  explicit WindowTrip(PageLoader& pages) : pages_(pages), parts_(pages.parts()) {}

  // How the pages of a window that have content are counted.
  struct MoveCounts {
    std::atomic<uint64_t>* extra_counter = nullptr;  // as for PageLoader::LoadAhead()
    uint64_t faulted = 0;                            // not ahead of need
  };

  // --- For a thread that faulted ---

  // Loads all of `run` for a thread that faulted on `page`, if none of it is claimed and the page
  // cache has all its content; with `even_from_disk`, also if the cache lacks even `page`.
  // Otherwise kNotCached: load `page` alone.
  WindowOutcome LoadFaulted(RamBlock& block, PageRun run, uint64_t page, HugeStaging& staging,
                            bool even_from_disk = false);
  // The same for a window that is claimed; never from a disk.
  WindowOutcome LoadFaulted(ClaimedWindow window, HugeStaging& staging, const MoveCounts& counts);

  // --- Ahead of need ---

  // Brings `run` as a huge page, zero pages included, if nothing of it was claimed before; else
  // what of it is nonzero and pending, as PageLoader::LoadAhead().
  void LoadAhead(RamBlock& block, PageRun run, HugeStaging& staging,
                 std::atomic<uint64_t>* extra_counter = nullptr);
  void LoadAhead(ClaimedWindow window, HugeStaging& staging,
                 std::atomic<uint64_t>* extra_counter = nullptr);

  // LoadAhead() in two halves, between which the content is on its way to `staging`, in a slot of
  // `queue`.
  struct QueuedRun {
    RamBlock* block;
    PageRun run;
    RamBlock::Extent request;  // OnlyRequest()
  };
  // False: nothing has begun, for it comes from no disk or would hold others up.
  bool BeginAhead(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue,
                  size_t slot) const;
  void EndAhead(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue, size_t slot);

  // HugeStaging::Touch() when loading ahead has its turn: faults have the disk meanwhile.
  bool TouchInTurn(HugeStaging& staging) const;

  // --- For both ---

  // Claims all of `run`, or nothing if something of it is claimed already: nullopt.
  std::optional<ClaimedWindow> Claim(RamBlock& block, PageRun run);

  // Whether the page cache holds the run's content.
  bool IsCached(const RamBlock& block, PageRun run) const;

 private:
  friend class ClaimedWindow;
  struct Moved {
    uint64_t pages = 0;
    bool completed = false;  // the block, by this
  };

  void GiveBack(RamBlock& block, PageRun run);
  void InstallAhead(RamBlock& block, PageRun run, const absl::Status& read, HugeStaging& staging,
                    std::atomic<uint64_t>* extra_counter);
  WindowOutcome InstallFaulted(ClaimedWindow window, const absl::Status& read, HugeStaging& staging,
                               const MoveCounts& counts);
  Moved Move(ClaimedWindow window, HugeStaging& staging, const MoveCounts& counts);
  Moved MoveClaimed(RamBlock& block, PageRun claimed, HugeStaging& staging,
                    const MoveCounts& counts);
  void InstallUnmoved(RamBlock& block, PageRun run, const Moved& moved, HugeStaging& staging,
                      std::atomic<uint64_t>* extra_counter);

  PageLoader& pages_;
  const PageLoader::Parts& parts_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WINDOW_TRIP_H_
