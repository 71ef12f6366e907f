// The one door through which a page's content comes into guest memory.
#ifndef RAMJET_LOADER_PAGE_LOADER_H_
#define RAMJET_LOADER_PAGE_LOADER_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

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
#include "mappedram/read_queue.h"
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

  // Brings what is pending in the block, for a caller who cannot go on without it. What cannot be
  // read stays pending until `failing`, which is of this block, tells that it is lost; then it is
  // given up, as soon as the reason is told, or kMaxTellingNs after the first reason of the call.
  // `buffer` holds a page.
  void LoadAwaited(RamBlock& block, PageBuffer& buffer, FailingPages& failing);

  // What became of a window that somebody touched.
  enum class Whole {
    kLoaded,     // all of it is there now, and whoever slept on it is awake
    kNotAtHand,  // it is not in the page cache, or somebody was faster: nothing has changed
    kGivenBack,  // it was claimed and could not be had: who loads ahead may have passed by
  };
  // Brings all of `run`, which fills one huge page of the host, for who sleeps on `page` of it, if
  // the page cache has its content, or, with `even_from_disk`, not even that of the page, and
  // nothing of it was claimed before. Else the page is to be asked for by itself. REQUIRES: as
  // LoadAheadHuge().
  Whole LoadFaultedHuge(RamBlock& block, PageRun run, uint64_t page, HugeStaging& staging,
                        bool even_from_disk = false);

  // A whole window, claimed before it is read: who touches a page of it from now on waits for all
  // of it. For what is soon to be loaded, and needs no disk or will be touched all over. The claim
  // is given back at the end of the object's life. Movable.
  class ClaimedWindow;
  // How its pages with content are counted.
  struct MoveCounts {
    std::atomic<uint64_t>* also = nullptr;  // as for LoadAhead()
    uint64_t faulted = 0;                   // not ahead of need
  };
  // The same for a window that is claimed, and never from a disk.
  Whole LoadFaultedHuge(ClaimedWindow window, HugeStaging& staging, const MoveCounts& counts);

  // LoadFaulted() will ask for the page soon: lets the disk begin, if it is pending.
  void PrefetchFaulted(const RamBlock& block, uint64_t page) const;

  // Brings `run` ahead of need: what of it is nonzero and pending. Waits out mappings that are
  // changing. `buffer` holds run.count pages. What arrives is counted in LoadStats::eager, and in
  // `also` if that is given. Pages that cannot be had just now, for want of memory or for an error
  // of the disk, stay pending. With `short_of_memory` the content comes through the page cache: a
  // kernel that has to take memory away finds there what it can take at once. It kills whoever has
  // nothing but memory that is in use, however much swap there is.
  void LoadAhead(RamBlock& block, PageRun run, PageBuffer& buffer,
                 std::atomic<uint64_t>* also = nullptr, bool short_of_memory = false);

  // Touch() when loading ahead has its turn, which leaves the disk to faults meanwhile.
  bool TouchInTurn(HugeStaging& staging) const;

  // LoadAhead() for `run` that fills one huge page of the host, zero pages included, which then
  // arrives as a huge page if nothing of it was claimed before. REQUIRES: private anonymous memory
  // of small pages; uffd's features().move.
  void LoadAheadHuge(RamBlock& block, PageRun run, HugeStaging& staging,
                     std::atomic<uint64_t>* also = nullptr);

  // LoadAheadHuge() in two halves, between which the content is on its way to `staging`, in a slot
  // of `queue`.
  struct QueuedRun {
    RamBlock* block;
    PageRun run;
    RamBlock::Extent request;  // OnlyRequest()
  };
  // False: nothing has begun, for it comes from no disk or would hold others up. REQUIRES: as
  // LoadAheadHuge().
  bool BeginAheadHuge(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue,
                      size_t slot) const;
  void EndAheadHuge(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue, size_t slot);

  // Such a run: all of it, or nothing if something of it is claimed already.
  std::optional<ClaimedWindow> ClaimWindow(RamBlock& block, PageRun run);
  void LoadAheadHuge(ClaimedWindow window, HugeStaging& staging,
                     std::atomic<uint64_t>* also = nullptr);

  // Whether the page cache holds the run's content.
  bool IsCached(const RamBlock& block, PageRun run) const;

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
  // Counts itself among trips_.
  class Trip {
   public:
    explicit Trip(std::atomic<int>& trips) : trips_(trips) { trips_.fetch_add(1); }
    ~Trip() { trips_.fetch_sub(1); }
    Trip(const Trip&) = delete;
    Trip& operator=(const Trip&) = delete;

   private:
    std::atomic<int>& trips_;
  };
  struct Moved {
    uint64_t pages = 0;
    bool completed = false;  // the block, by this
  };

  Outcome InstallFaulted(RamBlock& block, uint64_t page, const uint8_t* content,
                         const FailingSince& failing);
  Outcome InstallZeroAgain(RamBlock& block, uint64_t page);
  Outcome InstallAhead(RamBlock& block, PageRun run, const uint8_t* content,
                       std::atomic<uint64_t>* also = nullptr);
  void LoadSingly(RamBlock& block, PageRun run, uint8_t* content,
                  std::atomic<uint64_t>* also = nullptr);
  void InstallAheadHuge(RamBlock& block, PageRun run, const absl::Status& read,
                        HugeStaging& staging, std::atomic<uint64_t>* also);
  Moved MoveClaimed(RamBlock& block, PageRun claimed, HugeStaging& staging,
                    const MoveCounts& counts);
  Whole InstallFaultedHuge(ClaimedWindow window, const absl::Status& read, HugeStaging& staging,
                           const MoveCounts& counts);
  Moved MoveWindow(ClaimedWindow window, HugeStaging& staging, const MoveCounts& counts);
  void InstallUnmoved(RamBlock& block, PageRun run, const Moved& moved, HugeStaging& staging,
                      std::atomic<uint64_t>* also);
  void NoteUnread(const absl::Status& read) const;
  Outcome Lose(const RamBlock& block, PageRun run, const absl::Status& why);
  void LoseRun(RamBlock& block, PageRun run, const absl::Status& why, uint64_t& tell_by_ns);
  void LoseClaimed(RamBlock& block, PageRun run, const absl::Status& why, uint64_t& tell_by_ns);
  Outcome StopVm(const absl::Status& why);
  Installed InstallContent(const RamBlock& block, PageRun run, const uint8_t* content) const;
  Installed InstallZero(const RamBlock& block, uint64_t page) const;
  void Wake(const RamBlock& block, PageRun run) const;

  const Parts parts_;
  std::optional<PageBuffer> zeros_;
  std::atomic<int> trips_{0};
  std::atomic<bool> quit_{false};
};

class PageLoader::ClaimedWindow {
 public:
  ClaimedWindow(ClaimedWindow&& other) noexcept
      : loader_(std::exchange(other.loader_, nullptr)), block_(other.block_), run_(other.run_) {}
  ClaimedWindow& operator=(ClaimedWindow&& other) noexcept {
    std::swap(loader_, other.loader_);
    std::swap(block_, other.block_);
    std::swap(run_, other.run_);
    return *this;
  }
  ~ClaimedWindow();

  RamBlock& block() const { return *block_; }
  PageRun run() const { return run_; }

 private:
  friend class PageLoader;
  ClaimedWindow(PageLoader* loader, RamBlock* block, PageRun run)
      : loader_(loader), block_(block), run_(run) {}

  PageLoader* loader_;  // nullptr: nothing is claimed any more
  RamBlock* block_;
  PageRun run_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_PAGE_LOADER_H_
