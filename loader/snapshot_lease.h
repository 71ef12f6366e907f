// Keeps others from overwriting a snapshot while it is being loaded.
#ifndef RAMJET_LOADER_SNAPSHOT_LEASE_H_
#define RAMJET_LOADER_SNAPSHOT_LEASE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loader/thread.h"
#include "mappedram/file.h"

namespace ramjet {

// A read lease on the snapshot's file (fcntl(2), F_SETLEASE), and the thread that answers for it.
//
// Whoever opens the file for writing, or truncates it, is made to wait by the kernel until the
// lease is given back; with O_NONBLOCK it gets EWOULDBLOCK. The kernel takes the lease away by
// itself after fs.lease-break-time, which is 45 seconds by default. A lease takes the file's owner
// or CAP_LEASE, a file that nobody has open for writing, and a file system that has leases.
//
// The kernel announces the waiter by SIGIO, which would end a process without a handler. Here it
// goes to the lease's own thread, where it is blocked and waited for. So the VMM's own signals,
// handlers and masks are not touched, and if that thread should end, the signal goes nowhere.
//
// Threads: created and destroyed by any thread but its own.
class SnapshotLease {
 public:
  // What to do; called by the lease's thread, which holds no lock.
  struct Events {
    // There is no lease, and will be none. At most once.
    std::function<void(const absl::Status& why)> refused;
    // Somebody waits to write to the file. The lease is given back when this returns. At most once.
    std::function<void()> broken;
  };

  // Returns at once; the thread takes the lease. `file` outlives the result.
  static absl::StatusOr<std::unique_ptr<SnapshotLease>> Start(const File& file, Events events);
  // Gives the lease back. Requires that Events::broken returns, if it is being called.
  ~SnapshotLease();

  uint64_t cpu_ns() const { return thread_->cpu_ns(); }

 private:
  SnapshotLease(const File& file, Events events) : file_(file), events_(std::move(events)) {}
  void Run();
  absl::Status Take() const;
  void GiveBack() const;

  const File& file_;
  const Events events_;
  std::atomic<bool> ending_{false};
  std::unique_ptr<Thread> thread_;  // last, so that it ends first
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_SNAPSHOT_LEASE_H_
