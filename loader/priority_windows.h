// What is loaded ahead before everything else.
#ifndef RAMJET_LOADER_PRIORITY_WINDOWS_H_
#define RAMJET_LOADER_PRIORITY_WINDOWS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "loader/moments.h"
#include "loader/ram_block.h"
#include "loader/window_hints.h"
#include "loader/window_trip.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// Windows that a working set has claimed or wants first, in the order in which they were put here,
// except that a window for which a thread waits moves to the front.
//
// Threads: every method may be called concurrently. The lock is held for a few instructions.
class PriorityWindows {
 public:
  struct Window {
    RamBlock* block;
    PageRun run;  // see WindowOf()
    // Of all of it, for a working set.
    std::optional<ClaimedWindow> claim = std::nullopt;
  };

  // `changes` is noted when there is a window more. It outlives the object.
  explicit PriorityWindows(Moments& changes) : changes_(changes) {}

  // `window` comes after all that were put here before; first of all, if a thread waits for it
  // already. After Close() its claim is given back.
  void Put(Window window) ABSL_LOCKS_EXCLUDED(mu_);

  // A thread waits for the page, which is claimed: its window comes next. Takes no lock, and is
  // forgotten if many later ones come up meanwhile. By one thread at a time.
  void NoteWaiting(const RamBlock& block, uint64_t page) { waits_.Give(block, page); }

  // For the fault thread, which answers the one that waits: the claim to a window that nobody has
  // begun to load. nullopt: there is none, or another thread holds the lock just now. Frees no
  // memory.
  std::optional<ClaimedWindow> TryTakeClaim(const RamBlock& block, PageRun window)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The next to be loaded; nullopt: there is none just now.
  std::optional<Window> Take() ABSL_LOCKS_EXCLUDED(mu_);

  // Gives all claims back.
  void Close() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    Window window;
    bool taken = false;  // its claim was, so there is nothing to do
  };
  Window Extract(std::map<uint64_t, Entry>::iterator at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Moments& changes_;
  WindowHints waits_;  // of what is claimed, and waited for

  absl::Mutex mu_;
  // In the order in which they are loaded, and the number of each window by its place.
  std::map<uint64_t, Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::map<WindowHints::Hint, uint64_t> number_at_ ABSL_GUARDED_BY(mu_);
  static constexpr uint64_t kMiddle = uint64_t{1} << 63;
  uint64_t next_number_ ABSL_GUARDED_BY(mu_) = kMiddle;  // upwards
  uint64_t next_urgent_ ABSL_GUARDED_BY(mu_) = kMiddle;  // downwards
  // Waited for, and not here: in hand, or claimed and about to be put here.
  std::set<WindowHints::Hint> missed_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_PRIORITY_WINDOWS_H_
