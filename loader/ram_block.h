// A block of guest RAM while it is being loaded: where it lies and what has become of each of its
// pages.
#ifndef RAMJET_LOADER_RAM_BLOCK_H_
#define RAMJET_LOADER_RAM_BLOCK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

// A page is what the kernel installs at once: the system's page, or a huge page of hugetlb. What
// the file calls a page may be smaller, then a page here has content if any of its parts has; or
// larger, then it is several pages here.
//
// States of a page. `pending` is kept inverted, as `claimed`, so that the state before loading is
// all zeros in memory:
//
//   nonzero   the file holds content for it; cleared when the guest discards the page, which is
//             zero for ever after
//   claimed   somebody loads it, or has; its claimant, and nobody else, installs it and then wakes
//             whoever waits
//   received  nothing is owed for it any more: it is installed, poisoned, or was discarded
//   poisoned  of those received: it is so for want of its content; it must never become zeros
//
//   claimed received
//      0       0     pending: a fault claims and loads it
//      1       0     in flight: a fault here is left to the claimant's wake
//      1       1     received: a fault here is stale, or the page was discarded since
//      0       1     being discarded: a claimant finds nothing to install
//
// Threads: every method may be called concurrently. What keeps installs and discards of one page
// apart is InstallGate: the methods marked (gate) are called inside it, Discard() while it is
// closed. Addresses are of this process. Page size is the block's; its length is a multiple of it.
//
// Memory: three bits a page, a fourth where pages were poisoned, and one for each page of the file
// where that is smaller.
class RamBlock {
 public:
  // What is to be known of the memory.
  struct Memory {
    uintptr_t host = 0;      // a multiple of page_size
    uint64_t page_size = 0;  // a power of two
    uintptr_t alias = 0;     // a second mapping of it, to fill it through, or 0
    bool zeroable = true;    // the kernel can install zero pages there
    // Poison stays: it lies in a mapping, and shared memory has others, later ones too.
    bool poisonable = true;
  };
  // `nonzero` has a bit for each page of `stored`, which is number `index` in Snapshot::blocks().
  RamBlock(size_t index, const SnapshotBlock& stored, const Memory& memory, PageBitmap nonzero);

  size_t index() const { return index_; }
  const std::string& idstr() const { return idstr_; }
  uintptr_t host() const { return memory_.host; }
  uint64_t length() const { return BytesOf(pages()); }  // the block's, rounded up to whole pages
  uint64_t page_size() const { return memory_.page_size; }
  const Memory& memory() const { return memory_; }
  uint64_t pages() const { return nonzero_.size(); }
  uint64_t nonzero_pages() const { return nonzero_pages_; }  // in the file

  // The only arithmetic between addresses, bytes and pages.
  bool Contains(uintptr_t addr) const { return addr - host() < length(); }
  uintptr_t AddrOf(uint64_t page) const { return host() + BytesOf(page); }
  uint64_t PageOf(uintptr_t addr) const { return PageAt(addr - host()); }
  uint64_t PageAt(uint64_t offset) const { return offset >> page_shift_; }  // in the block
  uint64_t BytesOf(uint64_t pages) const { return pages << page_shift_; }
  // The pages that lie wholly inside [start, end).
  PageRun PagesInside(uintptr_t start, uintptr_t end) const;

  // Bytes [offset, offset + length) of the block.
  struct Extent {
    uint64_t offset = 0;
    uint64_t length = 0;
    uint64_t end() const { return offset + length; }
  };
  // The first extent at or after byte `offset` of `run` that the file holds; what lies between them
  // is zero, whatever the file holds there. Length 0: there is none.
  Extent FindStored(PageRun run, uint64_t offset) const;

  bool nonzero(uint64_t page) const { return nonzero_.Test(page); }
  bool received(uint64_t page) const { return received_.Test(page); }
  // Unreadable, and not discarded since.
  bool poisoned(uint64_t page) const { return poisoned_.Test(page) && nonzero(page); }
  bool pending(uint64_t page) const { return !claimed_.Test(page); }

  // The first run of pages in [page, limit) that are nonzero and pending; count 0 if there is none.
  PageRun FindPending(uint64_t page, uint64_t limit) const;
  uint64_t CountNonzero(PageRun run) const { return nonzero_.CountRun(run); }
  bool AnyClaimed(PageRun run) const { return claimed_.CountRun(run) > 0; }
  bool AnyReceived(PageRun run) const { return received_.CountRun(run) > 0; }

  // Claims the longest run of pending pages that begins at run.first and stays in `run`; returns
  // its length, 0 if run.first was claimed already.
  uint64_t Claim(PageRun run);
  // Gives a claim back, but for what was discarded meanwhile. The caller wakes the run, or retries
  // it. (gate)
  void Unclaim(PageRun run);

  // Notes the arrival of a claimed run. True if the block now has everything it is owed: for
  // exactly one caller. (gate)
  bool MarkReceived(PageRun run);

  // Notes that a claimed page is poisoned, which settles what it was owed. (gate)
  void MarkPoisoned(uint64_t page);

  // The guest has given up the contents of `run`: whatever is not received yet never will be.
  // REQUIRES: the gate is closed.
  struct Discarded {
    uint64_t pages;        // that had content in the file and will not get it
    bool block_completed;  // as MarkReceived() returns it
  };
  Discarded Discard(PageRun run);

  // Nonzero pages that are neither received nor discarded. 0: the block is complete.
  uint64_t remaining_pages() const { return remaining_pages_.load(std::memory_order_acquire); }

 private:
  bool Settle(uint64_t pages);

  // Constant after construction.
  const size_t index_;
  const std::string idstr_;
  const Memory memory_;
  const unsigned page_shift_;
  const uint64_t stored_page_size_;
  const PageBitmap stored_;  // pages of the file that it holds; empty where those are not smaller

  // Thread-safe themselves.
  PageBitmap nonzero_;
  PageBitmap claimed_;
  PageBitmap received_;
  PageBitmap poisoned_;
  const uint64_t nonzero_pages_;
  std::atomic<uint64_t> remaining_pages_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_RAM_BLOCK_H_
