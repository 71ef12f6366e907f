// The one door through which a page's content comes into guest memory.
#ifndef RAMJET_LOADER_PAGE_LOADER_H_
#define RAMJET_LOADER_PAGE_LOADER_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "loader/install_gate.h"
#include "loader/load_progress.h"
#include "loader/load_stats.h"
#include "loader/outcome.h"
#include "loader/page_buffer.h"
#include "loader/ram_block.h"
#include "loader/vm_stop.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// Takes pages on their trip: claim, read, install, receive, wake; or, ahead of need: read, claim,
// install, receive, wake.
//
// Threads: every method may be called concurrently, each with a buffer of the calling thread. No
// lock is taken; what a call may wait for is the source's I/O and InstallGate. Nothing is allocated
// but where something fails.
class PageLoader {
 public:
  // What it works with; all outlive the loader. `progress` is told when a block becomes complete
  // and when something fails.
  struct Parts {
    const PageSource& demand;       // to read a page that somebody sleeps on
    const PageSource& demand_bulk;  // to read much at once that somebody sleeps on
    const PageSource& bulk;         // to read ahead
    const Userfaultfd& uffd;
    InstallGate& gate;
    LoadStats& stats;
    LoadProgress& progress;
    VmStop& vm_stop;
    bool may_poison = true;  // where the kernel and the memory can; else the VM is stopped
  };
  explicit PageLoader(const Parts& parts) : parts_(parts) {}

  // Zeros for blocks of pages that the kernel can only copy. Before the first of such `page_bytes`
  // is in use; by one thread at a time.
  absl::Status PrepareZeros(uint64_t page_bytes);

  // How long a page that is lost waits until somebody has told the reason: the disk to which it is
  // written may be the one that has failed.
  static constexpr uint64_t kMaxTellingNs = 1'000'000'000;

  // Brings a page that a thread sleeps on. `buffer` holds at least one page of the block.
  // `failing` has noted all outcomes before; in the end kUnread and kDamaged become kLost.
  Outcome LoadFaulted(RamBlock& block, uint64_t page, PageBuffer& buffer,
                      const FailingSince& failing = {});
  // Poisons a page whose outcome was kLost, once its reason has been told: LoadStats::told().
  // kAgain and kNoMemory: it stays claimed, ask again soon.
  Outcome GiveUp(RamBlock& block, uint64_t page);

  // For a thread that no longer waits for `run`, which it has claimed: counts its pages as lost and
  // notes the reason. kLost: it is to call GiveUp() for each; kReceived: all were discarded
  // meanwhile; kFailed: they cannot be poisoned, and the VM is being stopped.
  Outcome Lose(const RamBlock& block, PageRun run, const absl::Status& why);
  // Why a page is lost that was read and could not be installed.
  static absl::Status RefusedError(const RamBlock& block, uint64_t page);

  // LoadFaulted() will ask for the page soon: lets the disk begin, if it is pending.
  void PrefetchFaulted(const RamBlock& block, uint64_t page) const;

  // Brings `run` ahead of need: what of it is nonzero and pending. Waits out mappings that are
  // changing. `buffer` holds run.count pages. What arrives is counted in LoadStats::eager, and in
  // `extra_counter` if that is given. Pages that cannot be had just now, for want of memory or for
  // an error of the disk, stay pending. With `short_of_memory` the content comes through the page
  // cache: a kernel that has to take memory away finds there what it can take at once. It kills a
  // process that has nothing but memory in use, however much swap there is.
  void LoadAhead(RamBlock& block, PageRun run, PageBuffer& buffer,
                 std::atomic<uint64_t>* extra_counter = nullptr, bool short_of_memory = false);

  // For those that stand above it, WindowTrip and LoadFinisher.
  // Installs `content`, which is that of all of `run`, where it is pending. The outcome is that of
  // the last page, or of the first that has stopped it.
  Outcome InstallAhead(RamBlock& block, PageRun run, const uint8_t* content,
                       std::atomic<uint64_t>* extra_counter = nullptr);
  // Saves what can be saved of a run that could not be read whole. `content` has room for a page.
  void LoadSingly(RamBlock& block, PageRun run, uint8_t* content,
                  std::atomic<uint64_t>* extra_counter = nullptr);
  void Wake(const RamBlock& block, PageRun run) const;
  // A page is between its claim and its wake until EndTrip().
  void BeginTrip() { trips_.fetch_add(1); }
  void EndTrip() { trips_.fetch_sub(1); }
  const Parts& parts() const { return parts_; }

  // The guest is discarding [start, end) of the block: none of it may arrive from now on. Waits for
  // installs under way.
  void Discard(RamBlock& block, uintptr_t start, uintptr_t end);
  // The same for the thread that serves faults, which keeps the gate closed.
  void DiscardInClosedGate(RamBlock& block, uintptr_t start, uintptr_t end);

  // Loads ahead that are under way, and all that are asked for from now on, stop where they are.
  void Quit() { quit_ = true; }
  bool quitting() const { return quit_; }

  // No page is between its claim and its wake just now.
  bool idle() const { return trips_.load() == 0; }

 private:
  class Trip {
   public:
    explicit Trip(PageLoader& loader) : loader_(loader) { loader_.BeginTrip(); }
    ~Trip() { loader_.EndTrip(); }
    Trip(const Trip&) = delete;
    Trip& operator=(const Trip&) = delete;

   private:
    PageLoader& loader_;
  };

  Outcome InstallFaulted(RamBlock& block, uint64_t page, const uint8_t* content,
                         const FailingSince& failing);
  Outcome InstallZeroAgain(RamBlock& block, uint64_t page);
  Outcome StopVm(const absl::Status& why);
  Installed InstallContent(const RamBlock& block, PageRun run, const uint8_t* content) const;
  Installed InstallZero(const RamBlock& block, uint64_t page) const;

  const Parts parts_;
  std::optional<PageBuffer> zeros_;
  std::atomic<int> trips_{0};
  std::atomic<bool> quit_{false};
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_PAGE_LOADER_H_
