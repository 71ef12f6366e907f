#include "mappedram/file_watch.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "absl/strings/str_cat.h"

// The order of things in the kernel, on which this relies (Linux 4.11 to 6.18, fs/read_write.c,
// fs/attr.c and mm/filemap.c):
//
//   write()      the modification time is set, the data is copied, IN_MODIFY is queued
//   utimensat()  the modification time is set, IN_ATTRIB is queued
//
// So the times can be seen before the event that explains them. Whoever finds new times without an
// event waits for it a moment, and then says Unavailable. Events are read before the times are:
// then whatever an event reports is already in the times.
//
// One case is left out for simplicity. The attributes are set while a write() by another process is
// under way: its data may be read before IN_MODIFY arrives. That event is found later, though no
// time changes any more, because from the first accepted change on every check looks for events.

namespace ramjet {
namespace {

// An event follows the times within microseconds, unless the one who sets them loses the processor.
constexpr int kEventWaitMs = 2;
// A change that has no event for so long is one that inotify cannot see.
constexpr std::chrono::seconds kMaxUnsettled(1);

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

FileWatch::FileWatch(const struct stat& opened)
    : size_(static_cast<uint64_t>(opened.st_size)),
      modified_ns_(Nanoseconds(opened.st_mtim)),
      changed_ns_(Nanoseconds(opened.st_ctim)) {}

FileWatch::~FileWatch() {
  absl::MutexLock lock(&mu_);
  Stop();
}

void FileWatch::Start(int fd) {
  absl::MutexLock lock(&mu_);
  if (inotify_fd_ >= 0) return;
  inotify_fd_ = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (inotify_fd_ < 0) return;
  const std::string path = absl::StrCat("/proc/self/fd/", fd);
  struct stat now;
  // What happened before nobody explains any more.
  if (inotify_add_watch(inotify_fd_, path.c_str(), IN_MODIFY | IN_ATTRIB) < 0 ||
      fstat(fd, &now) != 0 || Nanoseconds(now.st_mtim) != modified_ns_.load()) {
    Stop();
  }
}

void FileWatch::Stop() {
  if (inotify_fd_ >= 0) close(inotify_fd_);
  inotify_fd_ = -1;
  attributes_set_ = false;
}

absl::Status FileWatch::Check(int fd, const std::string& name) {
  struct stat now;
  // A failed fstat() is left to CheckClosely(), too.
  if (fstat(fd, &now) == 0 && !look_closer_.load(std::memory_order_relaxed) &&
      static_cast<uint64_t>(now.st_size) == size_ &&
      Nanoseconds(now.st_mtim) == modified_ns_.load(std::memory_order_relaxed) &&
      Nanoseconds(now.st_ctim) == changed_ns_.load(std::memory_order_relaxed)) {
    return absl::OkStatus();
  }
  return CheckClosely(fd, name);
}

absl::Status FileWatch::CheckClosely(int fd, const std::string& name) {
  absl::MutexLock lock(&mu_);
  for (;;) {
    ReadEvents();
    struct stat now;
    if (fstat(fd, &now) != 0) {
      return absl::UnavailableError(
          absl::StrCat(name, ": cannot be examined: ", std::generic_category().message(errno)));
    }
    const uint64_t size = static_cast<uint64_t>(now.st_size);
    const bool touched = Nanoseconds(now.st_mtim) != modified_ns_.load(std::memory_order_relaxed);
    const bool unexplained = touched && !attributes_set_;
    const bool too_late =
        unsettled_ && std::chrono::steady_clock::now() - unsettled_since_ > kMaxUnsettled;
    if (written_ || size != size_ || (unexplained && (inotify_fd_ < 0 || too_late))) {
      written_ = true;
      look_closer_.store(true, std::memory_order_relaxed);
      return absl::DataLossError(
          size != size_ ? absl::StrCat(name, ": changed since it was opened: its size was ", size_,
                                       " bytes and now is ", size)
                        : absl::StrCat(name, ": changed since it was opened: it was written to"));
    }
    if (!unexplained) {
      if (touched) look_closer_.store(true, std::memory_order_relaxed);
      modified_ns_.store(Nanoseconds(now.st_mtim), std::memory_order_relaxed);
      changed_ns_.store(Nanoseconds(now.st_ctim), std::memory_order_relaxed);
      attributes_set_ = unsettled_ = false;
      return absl::OkStatus();
    }
    if (unsettled_) {
      return absl::UnavailableError(
          absl::StrCat(name,
                       ": its modification time has changed, and it is not known yet whether "
                       "it was written to"));
    }
    unsettled_ = true;
    unsettled_since_ = std::chrono::steady_clock::now();
    pollfd event{.fd = inotify_fd_, .events = POLLIN, .revents = 0};
    (void)poll(&event, 1, kEventWaitMs);
  }
}

void FileWatch::ReadEvents() {
  alignas(inotify_event) char buffer[512];
  while (inotify_fd_ >= 0) {
    const ssize_t got = read(inotify_fd_, buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    bool lost = got <= 0;
    for (ssize_t at = 0; at < got;) {
      inotify_event event;
      std::memcpy(&event, buffer + at, sizeof(event));
      at += static_cast<ssize_t>(sizeof(event) + event.len);
      if ((event.mask & IN_MODIFY) != 0) written_ = true;
      if ((event.mask & IN_ATTRIB) != 0) attributes_set_ = true;
      if ((event.mask & (IN_Q_OVERFLOW | IN_IGNORED | IN_UNMOUNT)) != 0) lost = true;
    }
    if (lost) Stop();
  }
}

}  // namespace ramjet
