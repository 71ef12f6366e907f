// In which order a working set is loaded, and what of it as whole windows.
#ifndef RAMJET_LOADER_WORKING_SET_ORDER_H_
#define RAMJET_LOADER_WORKING_SET_ORDER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "loader/huge_page_policy.h"
#include "loader/ram_block.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

// What is left of a working set, handed out in the order of the guest's touches: a batch of pages,
// or a window that is better brought whole, since a guest that is given one page of it pays for all
// others singly. Such a window is one that may be a huge page, and that the page cache holds, or of
// which the set has many pages: then the disk brings it in less time than these.
//
// Pages of blocks that are not attached are left out until they are.
//
// Threads: belongs to one.
class WorkingSetOrder {
 public:
  // Bytes of a block, wherever pages begin there.
  struct Extent {
    size_t block;  // its index in the snapshot
    uint64_t offset;
    uint64_t length;
  };
  struct BlockRun {
    RamBlock* block;
    PageRun pages;
  };
  // Nothing, pages, or a window.
  struct Step {
    std::vector<BlockRun> runs = {};  // in the file's order
    std::optional<BlockRun> window = std::nullopt;
    bool cached = false;  // the window is

    bool empty() const { return runs.empty() && !window; }
  };
  // What is to become of windows that are better brought whole.
  enum class Windows {
    kBreak,  // they come by their pages
    kLater,  // those in the page cache wait for ResumeLater(); others come by their pages
    kWhole,
  };

  // `stored` is what the snapshot has, `source` knows what of it is in memory, `huge_pages` where
  // huge pages are wanted. All outlive it.
  WorkingSetOrder(const std::vector<SnapshotBlock>& stored, const PageSource& source,
                  const HugePagePolicy& huge_pages)
      : stored_(stored),
        source_(source),
        huge_pages_(huge_pages),
        blocks_(stored.size()),
        places_(stored.size()) {}

  // Before all else: the set, in order of first touch.
  void Set(std::vector<Extent> extents) { todo_ = std::move(extents); }

  // The block's pages come, too, from now on; in their place, if those behind them are not there
  // yet. It outlives the object.
  void Attach(RamBlock& block);
  bool awaits_blocks() const { return !skipped_.empty(); }

  // What comes next: pages of no more than `most_bytes`, or of one more page. Empty if there is
  // nothing but what waits for ResumeLater() or Attach(). kWhole takes huge pages to be decided
  // upon. What is loaded meanwhile by somebody else is left out.
  Step Next(uint64_t most_bytes, Windows windows);

  // The cached `window`, the last step, cannot be had: it comes by its pages.
  void Break(const BlockRun& window) { WindowAt(*window.block, window.pages.first).broken = true; }

  // What kLater has put off comes next.
  void ResumeLater();
  bool any_later() const { return !later_.empty(); }

 private:
  // One with pages in the set.
  struct Window {
    uint64_t pages = 0;       // of the set
    bool broken = false;      // comes by its pages
    bool cached = false;      // as far as that has been asked
    bool handed_out = false;  // as a whole
  };

  static PageRun PagesOf(const Extent& extent, const RamBlock& block);
  void Count(RamBlock& block, PageRun pages);
  Window& WindowAt(const RamBlock& block, uint64_t page);
  bool IsMostlyCached(const RamBlock& block, PageRun run) const;
  bool IsWorthWhole(const RamBlock& block, PageRun run, Window& window) const;
  bool MayWait(const RamBlock& block, PageRun run, Window& window) const;
  void Advance(uint64_t end);
  std::vector<BlockRun> Joined(std::vector<BlockRun> runs) const;
  uint64_t FileOffset(const BlockRun& run) const;

  const std::vector<SnapshotBlock>& stored_;
  const PageSource& source_;
  const HugePagePolicy& huge_pages_;

  std::vector<Extent> todo_;  // in order; from next_ on
  size_t next_ = 0;
  std::vector<Extent> later_;      // put off
  std::vector<Extent> skipped_;    // of blocks that are not attached
  std::vector<RamBlock*> blocks_;  // by index in stored_; nullptr: not attached
  std::vector<Window> windows_;    // by their first page in the set
  // By block and window: its place in windows_, from 1; 0: it has no page in the set.
  std::vector<std::vector<uint32_t>> places_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WORKING_SET_ORDER_H_
