// The thread that answers page faults.
#ifndef RAMJET_LOADER_FAULT_THREAD_H_
#define RAMJET_LOADER_FAULT_THREAD_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "loader/eager_queue.h"
#include "loader/fault_watchdog.h"
#include "loader/fault_windows.h"
#include "loader/huge_page_policy.h"
#include "loader/install_gate.h"
#include "loader/load_stats.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/parked_faults.h"
#include "loader/ram_map.h"
#include "loader/thread.h"
#include "loader/touch_record.h"
#include "loader/vm_stop.h"
#include "loader/window_offers.h"
#include "loader/window_trip.h"
#include "uffd/event_reader.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// Reads events, notes discards, and brings each page that somebody sleeps on, one after the other,
// in the order of the events.
//
// What it may bring whole, FaultWindows does. A fault that cannot be answered yet is parked, and
// comes back on a timer: a mapping is changing, its block is not in the map, the disk or the
// kernel's memory does not give its page, or the reason for losing it is still to be told. The
// thread reads on meanwhile, for it is itself the one whose reading ends the first of these. It
// allocates nothing and touches no guest memory, so no thread that sleeps on a page can hold it up;
// and takes a lock only where a window could not be had after all.
//
// A guest that has been given a page soon asks for the next. The thread therefore looks for it for
// some microseconds before it sleeps, since to be woken takes longer than to serve a cached page;
// and no more once that has been in vain a few times in a row, until faults come in quick
// succession again.
//
// Threads: created and destroyed by one thread; Sync() and Grow() may be called by any.
class FaultThread {
 public:
  // What it works with; all outlive it.
  struct Parts {
    const Userfaultfd& uffd;
    const RamMap& map;
    PageLoader& loader;
    WindowTrip& window_trip;
    EagerQueue& eager_queue;
    const HugePagePolicy& huge_pages;
    WindowOffers& offers;
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
  FaultThread(const Parts& parts, EventReader reader, PageBuffer buffer);
  void Run();
  void AwaitEvents(int64_t timeout_ns);
  bool ReadAndServe();
  void ServeBatch(absl::Span<const MissingFault> events);
  void Translate(Fault& fault) const;
  void Prefetch(absl::Span<const Fault> faults) const;
  void Serve(Fault fault);
  void GiveUp(Fault fault);
  void Park(const Fault& fault);
  void RetryParked();

  // Constant after construction.
  const Parts parts_;
  const bool can_spin_;  // without holding up the vCPU that would fault

  // Of the thread itself, but for reader_.Poke().
  EventReader reader_;
  PageBuffer buffer_;
  std::array<Fault, EventReader::kBatch> batch_;  // being served
  ParkedFaults parked_;
  FaultWindows windows_;
  FaultWatchdog watchdog_;
  uint64_t served_ns_ = 0;   // when the last batch of faults was dealt with
  unsigned vain_spins_ = 0;  // in a row

  // Written by others.
  std::atomic<bool> stop_{false};
  std::atomic<PageBuffer*> grown_{nullptr};  // a larger buffer, to be taken over
  std::atomic<uint32_t> sync_wanted_{0};     // Sync() counts up, and waits for
  std::atomic<uint32_t> sync_done_{0};       // this to follow

  std::unique_ptr<Thread> thread_;  // last, so that it ends first
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_FAULT_THREAD_H_
