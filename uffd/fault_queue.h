// How many threads sleep on pages of a userfaultfd, as the kernel sees it.
#ifndef RAMJET_UFFD_FAULT_QUEUE_H_
#define RAMJET_UFFD_FAULT_QUEUE_H_

#include <cstdint>
#include <optional>

#include "uffd/userfaultfd.h"

namespace ramjet {

// Reads the descriptor's fdinfo (since Linux 4.3), for a watchdog: a fault that was read and that
// nobody is working on has been lost.
//
// Threads: belongs to one.
class FaultQueue {
 public:
  struct Sleepers {
    uint64_t unread;  // their events have not been read yet
    // Their events have been read, and nobody has woken them since; or a signal had woken them
    // before, and they have not run yet.
    uint64_t owed;
  };

  // `uffd` outlives the queue. Without /proc there is nothing to look at, and Look() says so.
  explicit FaultQueue(const Userfaultfd& uffd);
  FaultQueue(const FaultQueue&) = delete;
  FaultQueue& operator=(const FaultQueue&) = delete;
  ~FaultQueue();

  // nullopt: the kernel does not tell. Allocates nothing.
  std::optional<Sleepers> Look() const;

 private:
  int fdinfo_;
};

}  // namespace ramjet

#endif  // RAMJET_UFFD_FAULT_QUEUE_H_
