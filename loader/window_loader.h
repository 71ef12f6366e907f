// Loads windows of a block, ahead of need above all.
#ifndef RAMJET_LOADER_WINDOW_LOADER_H_
#define RAMJET_LOADER_WINDOW_LOADER_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "loader/eager_queue.h"
#include "loader/huge_window.h"
#include "loader/load_stats.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/window_offers.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// PageLoader with the memory that loading ahead takes, made once it is wanted: what is pending in a
// window comes as one huge page, where that is wanted and nobody was faster, else in runs as long
// as the processor's cache likes.
//
// Threads: belongs to one.
class WindowLoader {
 public:
  // All outlive it.
  WindowLoader(PageLoader& loader, EagerQueue& queue, LoadStats& stats)
      : loader_(loader), queue_(queue), stats_(stats) {}

  // Without the memory for it, a claimed window is put back into the queue: its pages come singly.
  void LoadWindow(EagerQueue::Window window);

  // A window that somebody waits for and nobody has begun (EagerQueue::offers()): all of it if the
  // page cache still has it, else the page alone, and the window is put back. False: there is none.
  bool LoadOffered();

  // What is pending in `run`, of any length, with what lies between if that is quicker. It is
  // counted in `also`, too, if that is given.
  void LoadRuns(RamBlock& block, PageRun run, std::atomic<uint64_t>* also = nullptr);

 private:
  bool HaveStaging();
  bool HaveBuffer(uint64_t page_bytes);

  PageLoader& loader_;
  EagerQueue& queue_;
  LoadStats& stats_;
  std::optional<PageBuffer> buffer_;
  std::optional<HugeStaging> staging_;
  bool staging_refused_ = false;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WINDOW_LOADER_H_
