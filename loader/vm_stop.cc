#include "loader/vm_stop.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {

absl::StatusOr<std::unique_ptr<VmStop>> VmStop::Create(Callback callback, pid_t pid) {
  std::unique_ptr<VmStop> self(new VmStop(std::move(callback), pid));
  if (pid == 0) return self;
  self->pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));  // close-on-exec by itself
  if (self->pidfd_ < 0 && errno != ENOSYS) {
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
  } else if (pidfd_ >= 0) {
    (void)syscall(SYS_pidfd_send_signal, pidfd_, SIGKILL, nullptr, 0);
  } else if (pid_ != 0) {
    (void)kill(pid_, SIGKILL);
  }
}

}  // namespace ramjet
