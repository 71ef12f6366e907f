// Whole windows for threads that fault on one of their pages.
#ifndef RAMJET_LOADER_FAULT_WINDOWS_H_
#define RAMJET_LOADER_FAULT_WINDOWS_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "loader/eager_queue.h"
#include "loader/huge_page_policy.h"
#include "loader/load_stats.h"
#include "loader/page_buffer.h"
#include "loader/parked_faults.h"
#include "loader/ram_block.h"
#include "loader/window_offers.h"
#include "loader/window_trip.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// Given its page alone, a guest soon asks for the next, and the huge page that memory is wanted to
// be has to be put together from small ones: several times the work. So, where HugePagePolicy wants
// a window whole and its content is at hand, the thread that touches an untouched one waits longer
// once and has all of it.
//
// At hand is what the page cache has. A disk is waited for only where a guest has asked for many
// pages, few of its vCPUs wait at a time, and the disk is a fast one.
//
// Threads: belongs to the fault thread. Allocates nothing after construction.
class FaultWindows {
 public:
  // All outlive it.
  struct Parts {
    WindowTrip& trip;
    EagerQueue& queue;
    const HugePagePolicy& policy;
    WindowOffers& offers;
    LoadStats& stats;
  };
  // Without memory for windows it brings none.
  explicit FaultWindows(const Parts& parts);

  // For the next window, while no thread waits: to have a huge page from the kernel takes a tenth
  // of a millisecond.
  void TouchAhead();

  // So many faults were read at once.
  void BeginBatch(size_t faults);
  bool MayComeFromDisk() const;

  // Offers the windows of a batch to the threads that load ahead, except the first: of several
  // threads that wait for windows each would wait for those before its own, too. Which ones they
  // are; their blocks are known.
  using Offered = std::bitset<WindowOffers::kMost + 1>;
  Offered Offer(absl::Span<const Fault> faults);
  // Brings the window that was offered for `fault` if nobody has taken it. False: it could not be
  // had, and the fault is to be served as any other.
  bool LoadOffered(const Fault& fault);

  // Brings the window around the page. False: the page is to be had alone. REQUIRES: its block is
  // known.
  bool Load(const Fault& fault);

 private:
  bool HaveStaging() const { return staging_ && staging_->fit(); }
  WindowOutcome LoadOrTakeOver(RamBlock& block, PageRun window, uint64_t page);

  const Parts parts_;
  std::optional<HugeStaging> staging_;  // nothing where there are no huge pages
  bool staging_spent_ = false;          // on a window: it has none of its memory left
  bool crowded_ = false;                // several faults were read at once
  int came_alone_ = 0;  // pages whose windows were wanted whole, since the last slow window
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_FAULT_WINDOWS_H_
