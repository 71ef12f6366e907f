// Loads all that is left for a caller that cannot go on without it.
#ifndef RAMJET_LOADER_LOAD_FINISHER_H_
#define RAMJET_LOADER_LOAD_FINISHER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

#include "absl/status/status.h"
#include "loader/eager_queue.h"
#include "loader/huge_page_policy.h"
#include "loader/load_progress.h"
#include "loader/load_stats.h"
#include "loader/outcome.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/ram_map.h"
#include "loader/vm_stop.h"
#include "loader/window_loader.h"
#include "loader/window_trip.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// Loads in the calling thread, beside the eager threads if there are any. The caller counts as a
// guest that waits for every page: what cannot be read stays pending for the patience that a fault
// has (outcome.h), and is then given up, once its reason is told.
//
// Threads: belongs to the one that calls Run().
class LoadFinisher {
 public:
  // All outlive it.
  struct Parts {
    PageLoader& loader;
    WindowTrip& window_trip;
    EagerQueue& queue;
    HugePagePolicy& huge_pages;
    const RamMap& map;
    const VmStop& vm_stop;
    LoadProgress& progress;
    LoadStats& stats;
  };
  explicit LoadFinisher(const Parts& parts)
      : parts_(parts),
        windows_(parts.loader, parts.window_trip, parts.queue, parts.huge_pages, parts.stats) {}

  // Returns when everything is there, the VM has to be stopped, or PageLoader::Quit() was called.
  void Run();

 private:
  void LoadQueue();
  void LoadPending(RamBlock& block, FailingPages& failing);
  void LoseRun(RamBlock& block, PageRun run, const absl::Status& why, uint64_t& tell_by_ns);
  void LoseClaimed(RamBlock& block, PageRun run, const absl::Status& why, uint64_t& tell_by_ns);
  bool HaveBuffer(uint64_t page_bytes);

  const Parts parts_;
  WindowLoader windows_;
  std::optional<PageBuffer> buffer_;          // for a page
  std::map<size_t, FailingPages> failing_{};  // by the block's index
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_LOAD_FINISHER_H_
