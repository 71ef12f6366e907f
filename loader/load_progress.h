// Tells sleepers that a load has come further.
#ifndef RAMJET_LOADER_LOAD_PROGRESS_H_
#define RAMJET_LOADER_LOAD_PROGRESS_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace ramjet {

// Counts the moments that matter: a block became complete, something failed. A few in a load, so
// that its lock is not one of the fault path.
//
// Threads: every method may be called concurrently.
class LoadProgress {
 public:
  void Note() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    ++moments_;
    last_ = absl::Now();
  }
  uint64_t moments() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return moments_;
  }
  absl::Time last() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return last_;
  }
  // Sleeps until moments() is not `seen` any more; false if `deadline` came first.
  bool AwaitNext(uint64_t seen, absl::Time deadline) const ABSL_LOCKS_EXCLUDED(mu_) {
    const auto changed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return moments_ != seen; };
    mu_.LockWhenWithDeadline(absl::Condition(&changed), deadline);
    const bool result = moments_ != seen;
    mu_.Unlock();
    return result;
  }

 private:
  mutable absl::Mutex mu_;
  uint64_t moments_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Time last_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_LOAD_PROGRESS_H_
