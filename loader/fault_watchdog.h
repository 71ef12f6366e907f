// Notices threads that sleep on a page which nobody is working on.
#ifndef RAMJET_LOADER_FAULT_WATCHDOG_H_
#define RAMJET_LOADER_FAULT_WATCHDOG_H_

#include <cstdint>

#include "loader/load_stats.h"
#include "loader/page_loader.h"
#include "loader/ram_map.h"
#include "loader/vm_stop.h"
#include "uffd/fault_queue.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// Once a second it asks the kernel whether a thread sleeps on a page that nobody is working on.
// There is no way known for that to happen; but if it does, a vCPU would hang for ever, so after
// some more looks all are woken, and it is counted (LoadStats::rescued).
//
// Threads: belongs to the fault thread.
class FaultWatchdog {
 public:
  // All outlive it.
  struct Parts {
    const Userfaultfd& uffd;
    const RamMap& map;
    const PageLoader& loader;
    const VmStop& vm_stop;
    LoadStats& stats;
  };
  explicit FaultWatchdog(const Parts& parts) : parts_(parts), queue_(parts.uffd) {}

  // How long the fault thread may sleep before Watch() is due.
  int64_t pause_ns() const;

  // REQUIRES: every fault that was read has been answered, or left to the claimant of its page.
  void Watch();

  // Wakes every thread that sleeps on a page: it faults again if its page is not there.
  void WakeAll() const;

 private:
  const Parts parts_;
  FaultQueue queue_;
  uint64_t watched_ns_ = 0;  // when it last looked
  unsigned suspicions_ = 0;  // how often, up to then, it saw somebody each time
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_FAULT_WATCHDOG_H_
