// Ends a VM that cannot go on.
#ifndef RAMJET_LOADER_VM_STOP_H_
#define RAMJET_LOADER_VM_STOP_H_

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace ramjet {

// Tells the VMM, or kills it, once.
//
// A vCPU that sleeps on a page which cannot be had ends by no other signal than SIGKILL: KVM also
// touches guest memory where it cannot be interrupted.
//
// Threads: Stop() and stopped() may be called concurrently.
class VmStop {
 public:
  using Callback = std::function<void(const absl::Status& why)>;

  // Stop() calls `callback` if there is one, else kills process `pid` if that is not 0. The process
  // is held by a pidfd (Linux 5.3), so that its number cannot become another's. InvalidArgument:
  // there is no such process.
  static absl::StatusOr<std::unique_ptr<VmStop>> Create(Callback callback, pid_t pid);
  VmStop(const VmStop&) = delete;
  VmStop& operator=(const VmStop&) = delete;
  ~VmStop();

  void Stop(const absl::Status& why);
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  absl::Status why() const ABSL_LOCKS_EXCLUDED(mu_);  // OK until it is stopped

 private:
  VmStop(Callback callback, pid_t pid) : callback_(std::move(callback)), pid_(pid) {}

  const Callback callback_;
  const pid_t pid_;
  int pidfd_ = -1;
  std::atomic<bool> stopped_{false};

  mutable absl::Mutex mu_;
  absl::Status why_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_VM_STOP_H_
