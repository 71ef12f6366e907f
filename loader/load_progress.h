// Tells sleepers that a load has come further.
#ifndef RAMJET_LOADER_LOAD_PROGRESS_H_
#define RAMJET_LOADER_LOAD_PROGRESS_H_

#include <atomic>
#include <cstdint>

#include "loader/load_stats.h"
#include "loader/moments.h"

namespace ramjet {

// Counts the moments that matter: a block became complete, something failed. A few in a load.
//
// Threads: every method may be called concurrently. Takes no lock.
class LoadProgress {
 public:
  void Note() {
    last_ns_.store(MonotonicNs());
    moments_.Note();
  }
  uint32_t moments() const { return moments_.count(); }
  uint64_t last_ns() const { return last_ns_.load(); }  // by MonotonicNs(); 0: none yet
  // Sleeps until moments() is not `seen` any more; false if `deadline_ns` came first.
  bool AwaitNext(uint32_t seen, uint64_t deadline_ns) const {
    return moments_.AwaitNext(seen, deadline_ns);
  }

 private:
  std::atomic<uint64_t> last_ns_{0};
  Moments moments_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_LOAD_PROGRESS_H_
