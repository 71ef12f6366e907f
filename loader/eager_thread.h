// The threads that load what nobody has touched yet.
#ifndef RAMJET_LOADER_EAGER_THREAD_H_
#define RAMJET_LOADER_EAGER_THREAD_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "loader/eager_queue.h"
#include "loader/huge_page_policy.h"
#include "loader/load_stats.h"
#include "loader/page_loader.h"
#include "loader/read_pacer.h"
#include "loader/thread.h"
#include "loader/window_loader.h"
#include "loader/window_offers.h"
#include "loader/window_trip.h"

namespace ramjet {

// Takes windows from a queue and loads what is pending in them: as one huge page, where huge pages
// are wanted and nobody was faster. Windows that somebody waits for come before all others.
// ReadPacer keeps its reads out of the way of faults.
class EagerThread {
 public:
  struct Parts {
    EagerQueue& queue;
    HugePagePolicy& huge_pages;
    WindowOffers& offers;
    PageLoader& loader;
    WindowTrip& window_trip;
    const ReadPacer& pacer;
    LoadStats& stats;
  };
  // All parts outlive it. A `spare` thread is one too many for the machine's processors, which
  // helps only while the others wait for a disk. It ends when pages turn out to come from the page
  // cache: then it would take a processor from a vCPU.
  static absl::StatusOr<std::unique_ptr<EagerThread>> Start(const Parts& parts, bool spare);

  // REQUIRES: the queue is closed. Waits for the windows in hand; PageLoader::Quit() shortens that.
  ~EagerThread() = default;

  uint64_t cpu_ns() const { return thread_->cpu_ns(); }

 private:
  EagerThread(const Parts& parts, bool spare)
      : parts_(parts),
        spare_(spare),
        windows_(parts.loader, parts.window_trip, parts.queue, parts.huge_pages, parts.stats) {}
  void Run();

  const Parts parts_;
  const bool spare_;
  WindowLoader windows_;  // of the thread itself

  std::unique_ptr<Thread> thread_;  // last, so that it ends first
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_EAGER_THREAD_H_
