#include "tools/preload/exec_guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "loader/thread.h"

namespace ramjet {
namespace {

std::atomic<ExecGuard*> existing{nullptr};

// Calls `visit` for each descriptor of this process, until that returns false. False if they cannot
// be listed. Allocates nothing, because a forked child of a process with threads must not; so it
// does without readdir().
template <typename Visit>
bool VisitDescriptors(Visit visit) {
  const int directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return false;
  alignas(dirent64) char buffer[2048];
  bool wanted = true;
  long got;
  while ((got = syscall(SYS_getdents64, directory, buffer, sizeof(buffer))) > 0) {
    for (long at = 0; at < got && wanted;) {
      const auto* const entry = reinterpret_cast<const dirent64*>(buffer + at);
      at += entry->d_reclen;
      int fd = -1;
      const char* const end = entry->d_name + std::strlen(entry->d_name);
      if (std::from_chars(entry->d_name, end, fd).ptr != end || fd == directory) continue;
      wanted = visit(fd);
    }
  }
  close(directory);
  return got == 0;
}

absl::Status HasLeft() {
  return absl::FailedPreconditionError("its memory is shared with another process");
}

void SayRefused() {
  constexpr char kWords[] =
      "ramjet: exec refused: the new program would inherit guest memory that was not loaded to the "
      "end, and the VM that was loading it has ended\n";
  (void)!write(STDERR_FILENO, kWords, sizeof(kWords) - 1);
}

}  // namespace

ExecGuard* ExecGuard::Existing() { return existing.load(std::memory_order_acquire); }

ExecGuard& ExecGuard::Get() {
  static ExecGuard* const guard = [] {
    void* memory =
        mmap(nullptr, sizeof(ExecGuard), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    // Without it, children are on their own.
    if (memory == MAP_FAILED) memory = operator new(sizeof(ExecGuard));
    return new (memory) ExecGuard();
  }();
  existing.store(guard, std::memory_order_release);
  return *guard;
}

ExecGuard::ExecGuard() {
  sem_init(&requests_, /*pshared=*/1, 0);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&owed_, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

absl::Status ExecGuard::Hold(std::function<void()> finish) {
  if (asked_.load()) return HasLeft();
  struct Start {
    absl::Notification locked;
    int error = 0;
  };
  const auto start = std::make_shared<Start>();
  absl::Status started =
      Thread::StartDetached("ramjet-guard", [this, start, finish = std::move(finish)] {
        int error = pthread_mutex_lock(&owed_);
        // A child was killed right after it had been let go.
        if (error == EOWNERDEAD) error = pthread_mutex_consistent(&owed_);
        start->error = error;
        start->locked.Notify();
        if (error == 0) Run(finish);
      });
  if (!started.ok()) return started;
  start->locked.WaitForNotification();
  if (start->error == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("children that inherit it cannot be held back: ", std::strerror(start->error)));
}

void ExecGuard::Run(const std::function<void()>& finish) {
  while (sem_wait(&requests_) != 0) {
  }
  finish();
  pthread_mutex_unlock(&owed_);
}

void ExecGuard::Release() { sem_post(&requests_); }

absl::Status ExecGuard::Admit(dev_t device, ino_t inode) {
  owing_.Add(device, inode);
  return gone_.Contains(device, inode) || asked_.load() ? HasLeft() : absl::OkStatus();
}

bool ExecGuard::Leave(dev_t device, ino_t inode) {
  gone_.Add(device, inode);
  return !owing_.Contains(device, inode) || AwaitAll();
}

bool ExecGuard::AwaitAll() {
  asked_.store(true);
  sem_post(&requests_);
  const int locked = pthread_mutex_lock(&owed_);
  if (locked == 0 || locked == EOWNERDEAD) pthread_mutex_unlock(&owed_);
  return locked == 0;
}

bool ExecGuard::BeforeInheriting(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return true;
  if (Leave(status.st_dev, status.st_ino)) return true;
  SayRefused();
  errno = EIO;
  return false;
}

bool ExecGuard::BeforeExec() {
  const int before = errno;
  bool may = true;
  const bool listed = VisitDescriptors([&](int fd) {
    const int flags = fcntl(fd, F_GETFD);
    if (flags >= 0 && (flags & FD_CLOEXEC) == 0) may = BeforeInheriting(fd);
    return may;
  });
  if (may && !listed) {  // no /proc, or no descriptor left: it may be any
    gone_.AddAll();
    may = AwaitAll();
    if (!may) {
      SayRefused();
      errno = EIO;
    }
  }
  if (may) errno = before;
  return may;
}

}  // namespace ramjet
