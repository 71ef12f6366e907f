#include "loader/snapshot_lease.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <ctime>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

// A signal wakes the thread. It looks by itself this often as well, so that nothing depends on
// signals alone, and more often where it may not wait for them (seccomp).
constexpr timespec kLookInterval = {.tv_sec = 1, .tv_nsec = 0};
constexpr timespec kLookIntervalWithoutSignals = {.tv_sec = 0, .tv_nsec = 50'000'000};

std::string WhyRefused(int error) {
  switch (error) {
    case EACCES:
      return "it takes the file's owner or CAP_LEASE";
    case EAGAIN:
      return "somebody has the file open for writing";
    case EINVAL:
      return "its file system has no leases";
    default:
      return std::generic_category().message(error);
  }
}

// For the signal, or at most for `timeout`; nullptr: for ever.
void AwaitSignal(const timespec* timeout) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGIO);
  if (sigtimedwait(&signals, nullptr, timeout) < 0 && errno != EAGAIN && errno != EINTR) {
    (void)nanosleep(&kLookIntervalWithoutSignals, nullptr);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotLease>> SnapshotLease::Start(const File& file,
                                                                    Events events) {
  std::unique_ptr<SnapshotLease> self(new SnapshotLease(file, std::move(events)));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-lease", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

SnapshotLease::~SnapshotLease() {
  ending_.store(true);
  if (thread_ != nullptr) thread_->Signal(SIGIO);
}

void SnapshotLease::Run() {
  const absl::Status taken = Take();
  if (!taken.ok()) events_.refused(taken);
  bool held = taken.ok();
  while (!ending_.load()) {
    // While the lease is being broken, the kernel calls it F_UNLCK.
    if (held && fcntl(file_.fd(), F_GETLEASE) != F_RDLCK) {
      events_.broken();
      GiveBack();
      held = false;
    } else {
      AwaitSignal(held ? &kLookInterval : nullptr);
    }
  }
  if (held) GiveBack();
}

absl::Status SnapshotLease::Take() const {
  const int fd = file_.fd();
  // Where the file could not be opened a second time, the open file is the VMM's, too.
  f_owner_ex owner{};
  if (fcntl(fd, F_GETOWN_EX, &owner) != 0 || owner.pid != 0 || fcntl(fd, F_GETSIG) != 0 ||
      fcntl(fd, F_GETLEASE) != F_UNLCK) {
    return absl::FailedPreconditionError("the VMM asks for signals of it");
  }
  // Before there is a lease: without an owner its signal would go to the process.
  owner = {.type = F_OWNER_TID, .pid = gettid()};
  if (fcntl(fd, F_SETOWN_EX, &owner) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
    return absl::OkStatus();
  }
  const int error = errno;
  (void)fcntl(fd, F_SETOWN, 0);
  return absl::FailedPreconditionError(WhyRefused(error));
}

void SnapshotLease::GiveBack() const {
  (void)fcntl(file_.fd(), F_SETLEASE, F_UNLCK);
  (void)fcntl(file_.fd(), F_SETOWN, 0);
}

}  // namespace ramjet
