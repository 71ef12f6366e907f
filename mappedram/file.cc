#include "mappedram/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

absl::Status ErrnoError(const std::string& name, absl::string_view act, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat(name, ": ", act));
}

const char* KindOf(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a directory";
    case S_IFIFO:
      return "a pipe";
    case S_IFSOCK:
      return "a socket";
    case S_IFCHR:
      return "a character device";
    case S_IFBLK:
      return "a block device";
    default:
      return "of an unknown kind";
  }
}

absl::Status NotRegularError(const std::string& name, mode_t mode) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": is ", KindOf(mode), ", not a regular file"));
}

}  // namespace

absl::StatusOr<File> File::Open(const std::string& path) {
  // Without O_NONBLOCK, opening a pipe waits for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(path, "cannot be opened", errno);
  return Adopt(fd, path);
}

absl::StatusOr<File> File::Reopen(int fd, std::string name) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoError(name, "is not an open file", errno);
  // Asked now already: opening a device again may have an effect.
  if (!S_ISREG(info.st_mode)) return NotRegularError(name, info.st_mode);
  const int flags = fcntl(fd, F_GETFL);
  int own = open(absl::StrCat("/proc/self/fd/", fd).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (own < 0) {
    // The copy shares its flags with `fd`, so they must suit us.
    if ((flags & O_ACCMODE) == O_WRONLY || (flags & (O_DIRECT | O_PATH)) != 0) {
      return ErrnoError(name, "is open in a way that does not suit, and cannot be opened again",
                        errno);
    }
    own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return ErrnoError(name, "its descriptor cannot be copied", errno);
  }
  return Adopt(own, std::move(name));
}

absl::StatusOr<File> File::Adopt(int fd, std::string name) {
  File file(fd, std::move(name));
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoError(file.name_, "cannot be examined", errno);
  if (!S_ISREG(info.st_mode)) return NotRegularError(file.name_, info.st_mode);
  file.size_ = info.st_size;
  file.device_ = info.st_dev;
  file.inode_ = info.st_ino;
  file.watch_ = std::make_unique<FileWatch>(info);
  return file;
}

File::File(File&& other) noexcept { *this = std::move(other); }

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(name_, other.name_);
  size_ = other.size_;
  device_ = other.device_;
  inode_ = other.inode_;
  std::swap(watch_, other.watch_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

absl::Status File::ReadAt(uint64_t offset, absl::Span<uint8_t> buffer) const {
  for (size_t done = 0; done < buffer.size();) {
    const ssize_t got =
        pread(fd_, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
    if (got > 0) {
      done += got;
    } else if (got == 0) {
      return DataLossError(*this, "ends before offset ", offset + buffer.size(), ": reading ",
                           buffer.size(), " bytes at offset ", offset, " gave ", done);
    } else if (errno == ENOMEM || errno == EFAULT) {
      // The kernel has no memory for its own work or for our buffer, which may be swapped out. No
      // words: they would take memory, too.
      return absl::ResourceExhaustedError("");
    } else if (errno != EINTR) {
      return absl::UnavailableError(
          absl::StrCat(name_, ": reading ", buffer.size(), " bytes at offset ", offset,
                       " failed: ", std::generic_category().message(errno)));
    }
  }
  return absl::OkStatus();
}

absl::Status File::ReadCachedAt(uint64_t offset, absl::Span<uint8_t> buffer) const {
  while (!buffer.empty()) {
    const iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
    const ssize_t got = preadv2(fd_, &part, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (got <= 0) {
      if (got < 0 && errno == EINTR) continue;
      if (got == 0 || errno != EAGAIN) return ReadAt(offset, buffer);  // which says what it is
      return absl::UnavailableError(
          absl::StrCat(name_, ": offset ", offset, " is not in the page cache"));
    }
    offset += static_cast<uint64_t>(got);
    buffer.remove_prefix(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

void File::AdviseRandom() const { (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM); }

void File::Prefetch(uint64_t offset, uint64_t length) const {
  (void)posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(length),
                      POSIX_FADV_WILLNEED);
}

}  // namespace ramjet
