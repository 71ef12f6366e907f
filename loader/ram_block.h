// A block of guest RAM while it is being loaded: where it lies and what has become of each of its
// pages.
#ifndef RAMJET_LOADER_RAM_BLOCK_H_
#define RAMJET_LOADER_RAM_BLOCK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "mappedram/page_bitmap.h"

namespace ramjet {

// States of a page. `pending` is kept inverted, as `claimed`, so that the state before loading is
// all zeros in memory:
//
//   nonzero   the file holds content for it; cleared when the guest discards the page, which is
//             zero for ever after
//   claimed   somebody loads it, or has; its claimant, and nobody else, installs it and then wakes
//             whoever waits
//   received  nothing is owed for it any more: it is installed, poisoned, or was discarded
//
//   claimed received
//      0       0     pending: a fault claims and loads it
//      1       0     in flight: a fault here is left to the claimant's wake
//      1       1     received: a fault here is stale, or the page was discarded since
//      0       1     never
//
// Threads: every method may be called concurrently. What keeps installs and discards of one page
// apart is InstallGate: the methods marked (gate) are called inside it, Discard() while it is
// closed. Addresses are of this process. Page size is the block's; its length is a multiple of it.
class RamBlock {
 public:
  // REQUIRES: nonzero.size() == length / page_size; `host` is a multiple of page_size.
  RamBlock(size_t index, std::string idstr, uintptr_t host, uint64_t length, uint64_t page_size,
           PageBitmap nonzero);

  size_t index() const { return index_; }  // in Snapshot::blocks()
  const std::string& idstr() const { return idstr_; }
  uintptr_t host() const { return host_; }
  uint64_t length() const { return length_; }
  uint64_t page_size() const { return page_size_; }
  uint64_t pages() const { return nonzero_.size(); }
  uint64_t nonzero_pages() const { return nonzero_pages_; }  // in the file

  // The only arithmetic between addresses, bytes and pages.
  bool Contains(uintptr_t addr) const { return addr - host_ < length_; }
  uintptr_t AddrOf(uint64_t page) const { return host_ + page * page_size_; }
  uint64_t PageOf(uintptr_t addr) const { return (addr - host_) / page_size_; }
  uint64_t BytesOf(uint64_t pages) const { return pages * page_size_; }
  // The pages that lie wholly inside [start, end).
  PageRun PagesInside(uintptr_t start, uintptr_t end) const;

  bool nonzero(uint64_t page) const { return nonzero_.Test(page); }
  bool received(uint64_t page) const { return received_.Test(page); }
  bool pending(uint64_t page) const { return !claimed_.Test(page); }

  // The first run of pages in [page, limit) that are nonzero and pending; count 0 if there is none.
  PageRun FindPending(uint64_t page, uint64_t limit) const;
  // The first run in [page, limit) that still has content to install; count 0 if there is none.
  // (gate)
  PageRun FindNonzero(uint64_t page, uint64_t limit) const;

  uint64_t CountNonzero(PageRun run) const { return nonzero_.CountRun(run); }
  bool AnyReceived(PageRun run) const { return received_.CountRun(run) > 0; }

  // Claims the longest run of pending pages that begins at run.first and stays in `run`; returns
  // its length, 0 if run.first was claimed already.
  uint64_t Claim(PageRun run);
  // Gives a claim back. The caller wakes the run, or retries it.
  void Unclaim(PageRun run);

  // Notes the arrival of a claimed run. True if the block now has everything it is owed: for
  // exactly one caller. (gate)
  bool MarkReceived(PageRun run);

  // Notes that nothing is owed for the pages of a claimed run that hold nothing. (gate)
  void MarkZeroReceived(PageRun run);

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
  const uintptr_t host_;
  const uint64_t length_;
  const uint64_t page_size_;

  // Thread-safe themselves.
  PageBitmap nonzero_;
  PageBitmap claimed_;
  PageBitmap received_;
  const uint64_t nonzero_pages_;
  std::atomic<uint64_t> remaining_pages_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_RAM_BLOCK_H_
