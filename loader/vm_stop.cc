#include "loader/vm_stop.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

// False: a seccomp filter does not let us.
bool SendKill(int pidfd) {
  const long sent = syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  return sent == 0 || errno == ESRCH;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VmStop>> VmStop::Create(Callback callback, pid_t pid) {
  std::unique_ptr<VmStop> self(new VmStop(std::move(callback), pid));
  if (pid == 0) return self;
  self->pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));  // close-on-exec by itself
  // Linux before 5.3, or a seccomp filter.
  const bool denied = errno == ENOSYS || errno == EPERM || errno == EACCES;
  if (self->pidfd_ < 0 && !denied) {
    return absl::InvalidArgumentError(absl::StrCat("there is no process ", pid, " to stop"));
  }
  return self;
}

VmStop::~VmStop() {
  if (pidfd_ >= 0) close(pidfd_);
}

absl::Status VmStop::why() const {
  absl::MutexLock lock(&mu_);
  return why_;
}

void VmStop::Stop(const absl::Status& why) {
  {
    absl::MutexLock lock(&mu_);
    if (!why_.ok()) return;
    why_ = why;
  }
  stopped_.store(true, std::memory_order_release);
  if (callback_) {
    callback_(why);
  } else if (pid_ != 0 && (pidfd_ < 0 || !SendKill(pidfd_))) {
    (void)kill(pid_, SIGKILL);
  }
}

}  // namespace ramjet
