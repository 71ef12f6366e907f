// The one door through which a page's content comes into guest memory.
#ifndef RAMJET_LOADER_PAGE_LOADER_H_
#define RAMJET_LOADER_PAGE_LOADER_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "loader/install_gate.h"
#include "loader/load_progress.h"
#include "loader/load_stats.h"
#include "loader/page_buffer.h"
#include "loader/ram_block.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// How a page's trip ended for the one who asked.
enum class Outcome {
  kLoaded,    // it is there now, and whoever slept on it is awake
  kInFlight,  // somebody else has claimed it; the claimant's wake will come
  kReceived,  // it had arrived before; the page was there, or, if discarded since, is zero now
  kAgain,     // the mapping is changing: nothing is claimed, the waiter sleeps on, ask again soon
  kNoMemory,  // the kernel had no page to give: as kAgain, but worth asking only so often
  kFailed,    // it cannot be had: poisoned, or, where the kernel cannot poison, see unanswerable()
};

// Takes pages on their trip: claim, read, install, receive, wake.
//
// Threads: every method may be called concurrently, each with a buffer of the calling thread. No
// lock is taken; what a call may wait for is the source's I/O and InstallGate. Nothing is allocated
// but where something fails.
class PageLoader {
 public:
  // All outlive the loader. `progress` is told when a block becomes complete and when something
  // fails.
  PageLoader(const PageSource& source, const Userfaultfd& uffd, InstallGate& gate, LoadStats& stats,
             LoadProgress& progress)
      : source_(source), uffd_(uffd), gate_(gate), stats_(stats), progress_(progress) {}

  // Brings a page that somebody sleeps on. `buffer` holds at least one page of the block.
  Outcome LoadFaulted(RamBlock& block, uint64_t page, PageBuffer& buffer);

  // Gives up on a page for which LoadFaulted() said kNoMemory too often.
  Outcome GiveUp(RamBlock& block, uint64_t page);

  // Brings the pending pages at the start of `run`, all nonzero, ahead of need; returns how many
  // pages of `run` need no more care, at least one. Waits out mappings that are changing. `buffer`
  // holds run.count pages.
  uint64_t LoadAhead(RamBlock& block, PageRun run, PageBuffer& buffer);

  // LoadAhead() for `run` that fills one huge page of the host, zero pages included, which then
  // arrives as a huge page if nothing of it was claimed before. REQUIRES: private anonymous memory;
  // uffd's features().move.
  uint64_t LoadAheadHuge(RamBlock& block, PageRun run, HugeStaging& staging);

  // The guest is discarding [start, end) of the block: none of it may arrive from now on. Waits for
  // installs under way.
  void Discard(RamBlock& block, uintptr_t start, uintptr_t end);
  // The same for a caller that keeps the gate closed.
  void DiscardInClosedGate(RamBlock& block, uintptr_t start, uintptr_t end);

  // A page cannot be read and this kernel cannot poison: its users sleep until the owner ends the
  // VM. Never goes back.
  bool unanswerable() const { return unanswerable_.load(std::memory_order_acquire); }

 private:
  Outcome InstallFaulted(RamBlock& block, uint64_t page, const uint8_t* content);
  Outcome InstallZeroAgain(RamBlock& block, uint64_t page);
  void InstallAhead(RamBlock& block, PageRun run, const uint8_t* content);
  void LoadSingly(RamBlock& block, PageRun run, uint8_t* content);
  Outcome Poison(RamBlock& block, uint64_t page, const absl::Status& why);
  void PoisonPatiently(RamBlock& block, uint64_t page, const absl::Status& why);
  bool ReadNonzero(const RamBlock& block, PageRun run, uint8_t* content) const;
  uint64_t MoveHuge(RamBlock& block, PageRun run, uint8_t* content);
  absl::Status Read(const RamBlock& block, PageRun run, absl::Span<uint8_t> buffer) const;
  void Wake(const RamBlock& block, PageRun run) const;

  const PageSource& source_;
  const Userfaultfd& uffd_;
  InstallGate& gate_;
  LoadStats& stats_;
  LoadProgress& progress_;
  std::atomic<bool> unanswerable_{false};
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_PAGE_LOADER_H_
