// The thread that answers page faults.
#ifndef RAMJET_LOADER_FAULT_THREAD_H_
#define RAMJET_LOADER_FAULT_THREAD_H_

#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "loader/eager_queue.h"
#include "loader/install_gate.h"
#include "loader/load_stats.h"
#include "loader/outcome.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/ram_map.h"
#include "loader/thread.h"
#include "loader/touch_record.h"
#include "loader/vm_stop.h"
#include "loader/window_offers.h"
#include "uffd/event_reader.h"
#include "uffd/fault_queue.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// Reads events, notes discards, and brings each page that somebody sleeps on, one after the other,
// in the order of the events.
//
// Where EagerQueue wants a window whole, and the page cache has all of it, it brings that. Of
// several that are waited for at once it brings the first, and meanwhile offers the others to the
// threads that load ahead (WindowOffers); what nobody has begun comes in its turn. It waits
// for a disk for single pages, and for a window only where a guest has waited for many pages, has
// few vCPUs that wait for it at a time, and the disk is a fast one. A fault that cannot be answered
// yet, because a mapping is changing, its block is not in the map, the disk or the kernel's memory
// does not give its page, or the reason for losing it is still to be told, is parked: the thread
// reads on, for it is itself the one whose reading ends the first of these, and comes back on
// a timer. It allocates nothing and touches no guest memory, so no thread that sleeps on a page can
// hold it up; and takes a lock only where a window could not be had after all.
//
// A guest that has been given a page soon asks for the next. The thread therefore looks for it for
// some microseconds before it sleeps, since to be woken takes longer than to serve a cached page;
// and no more once that has been in vain a few times in a row, until faults come in quick
// succession again.
//
// It is its own watchdog, too: once a second it asks the kernel whether somebody sleeps on a page
// that nobody is working on. There is no way known for that to happen; but if it does, a vCPU would
// hang for ever, so after some more looks all are woken, and it is counted (LoadStats::rescued).
//
// Threads: created and destroyed by one thread; Sync() and Grow() may be called by any.
class FaultThread {
 public:
  // What it works with; all outlive it.
  struct Parts {
    const Userfaultfd& uffd;
    const RamMap& map;
    PageLoader& loader;
    EagerQueue& eager_queue;
    InstallGate& gate;
    LoadStats& stats;
    const VmStop& vm_stop;
    TouchRecord* record = nullptr;  // of the pages that faults ask for; nullptr: none is wanted
  };
  static absl::StatusOr<std::unique_ptr<FaultThread>> Start(const Parts& parts);
  // Stops. Faults that are parked or come later stay unanswered: unregister first.
  ~FaultThread();

  // Returns when every event that was read before the call has been acted upon.
  void Sync();

  // Before the first block of pages of `page_bytes` gets into the map.
  absl::Status Grow(uint64_t page_bytes);

  uint64_t cpu_ns() const { return thread_->cpu_ns(); }

 private:
  // Times are of MonotonicNs(); 0: never.
  struct Fault {
    uintptr_t addr = 0;
    uint64_t read_ns = 0;  // when its event was read
    uint32_t attempts = 0;
    FailingSince failing = {};
    uint64_t retry_ns = 0;    // not tried again before
    uint64_t tell_by_ns = 0;  // its page is lost, and given up then at the latest,
    uint64_t errors = 0;      // or when so many errors are told
  };
  // Pages that can be parked. Reading goes on when it is full, for a read may be what ends the
  // state that parks them; faults that find no room are woken later, and come again.
  static constexpr size_t kMaxParked = 1024;

  FaultThread(const Parts& parts, EventReader reader, PageBuffer buffer);
  void Run();
  void AwaitEvents(int64_t timeout_ns);
  bool ReadAndServe();
  void Prefetch(absl::Span<const MissingFault> faults) const;
  // Which of a batch of faults; never the first.
  using Offered = std::bitset<WindowOffers::kMost + 1>;
  Offered OfferWindows(absl::Span<const MissingFault> faults, uint64_t read_ns);
  bool ServeOffered(uintptr_t addr);
  void Serve(Fault fault);
  void GiveUp(Fault fault, RamBlock& block, uint64_t page);
  bool LoadWindow(RamBlock& block, uint64_t page);
  PageLoader::Whole LoadOrTakeOver(RamBlock& block, PageRun window, uint64_t page);
  bool WindowsMayComeFromDisk() const;
  void Park(Fault fault);
  bool IsParked(uintptr_t addr) const;
  void WakeAll();
  void RetryParked();
  void Watch();

  // Constant after construction.
  const Parts parts_;
  const bool can_spin_;  // without holding up who would fault

  // Of the thread itself, but for reader_.Poke().
  EventReader reader_;
  PageBuffer buffer_;
  std::optional<HugeStaging> staging_;  // for windows; nothing where there are no huge pages
  bool staging_spent_ = false;          // on a window: it has none of its memory left
  std::array<Fault, kMaxParked> parked_;
  size_t parked_count_ = 0;
  bool overflowed_ = false;  // a fault found no room
  FaultQueue queue_;
  uint64_t served_ns_ = 0;   // when the last batch of faults was dealt with
  unsigned vain_spins_ = 0;  // in a row
  uint64_t watched_ns_ = 0;  // when it last looked
  unsigned suspicions_ = 0;  // how often, up to then, it saw somebody each time
  bool crowded_ = false;     // several faults were read at once
  int came_alone_ = 0;       // pages whose windows were wanted whole, since the last slow window

  // Written by others.
  std::atomic<bool> stop_{false};
  std::atomic<PageBuffer*> grown_{nullptr};  // a larger buffer, to be taken over
  std::atomic<uint32_t> sync_wanted_{0};     // Sync() counts up, and waits for
  std::atomic<uint32_t> sync_done_{0};       // this to follow

  std::unique_ptr<Thread> thread_;  // last, so that it ends first
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_FAULT_THREAD_H_
