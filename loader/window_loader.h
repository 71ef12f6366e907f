// Loads windows of a block, ahead of need above all.
#ifndef RAMJET_LOADER_WINDOW_LOADER_H_
#define RAMJET_LOADER_WINDOW_LOADER_H_

#include <array>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "loader/eager_queue.h"
#include "loader/huge_page_policy.h"
#include "loader/load_stats.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/window_offers.h"
#include "loader/window_trip.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/read_queue.h"

namespace ramjet {

// PageLoader with the memory that loading ahead takes, made once it is wanted: what is pending in a
// window comes as one huge page, where that is wanted and nobody was faster, else in runs as long
// as the processor's cache likes.
//
// Threads: belongs to one.
class WindowLoader {
 public:
  // All outlive it.
  WindowLoader(PageLoader& loader, WindowTrip& trip, EagerQueue& queue, HugePagePolicy& huge_pages,
               LoadStats& stats)
      : loader_(loader), trip_(trip), queue_(queue), huge_pages_(huge_pages), stats_(stats) {}
  // REQUIRES: !any_begun().
  ~WindowLoader() { assert(begun_ == 0); }
  WindowLoader(const WindowLoader&) = delete;
  WindowLoader& operator=(const WindowLoader&) = delete;

  // Without the memory for it, a claimed window is put back into the queue: its pages come singly.
  // One from a disk may only have begun to come when this returns, so that the disk has the next
  // before it has brought this one.
  void LoadWindow(EagerQueue::Window window);

  // Whether windows have begun to come, and are still to be waited for.
  bool any_begun() const { return begun_ > 0; }
  // Waits for the first of them, and loads it. REQUIRES: any_begun().
  void EndOldest();

  // A window that a thread waits for and nobody has begun: all of it if the page cache still has
  // it, else the page alone, and the window is put back. False: there is none.
  bool LoadOffered(WindowOffers& offers);

  // What is pending in `run`, of any length, with what lies between if that is quicker. It is
  // counted in `extra_counter`, too, if that is given.
  void LoadRuns(RamBlock& block, PageRun run, std::atomic<uint64_t>* extra_counter = nullptr);

 private:
  // Of reads_, with the memory that it reads to.
  struct Slot {
    std::optional<HugeStaging> staging;
    WindowTrip::QueuedRun window{};
  };

  bool BeginInTime(RamBlock& block, PageRun run);
  bool Begin(const WindowTrip::QueuedRun& window);
  void PutBackUnread(const RamBlock& block, PageRun run);
  // A huge page to read to.
  bool HaveStaging();
  bool HaveBuffer(uint64_t page_bytes);

  PageLoader& loader_;
  WindowTrip& trip_;
  EagerQueue& queue_;
  HugePagePolicy& huge_pages_;
  LoadStats& stats_;
  std::optional<PageBuffer> buffer_;
  std::optional<HugeStaging> staging_;
  bool staging_refused_ = false;
  bool short_of_memory_ = false;  // when the last huge page was asked for

  ReadQueue reads_;
  std::array<Slot, ReadQueue::kMost> slots_;
  size_t oldest_ = 0;  // that has begun; from there on, in turn, are
  size_t begun_ = 0;   // so many
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WINDOW_LOADER_H_
