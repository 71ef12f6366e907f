#include "mappedram/new_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Leads to the file itself, whether it has a name or not.
std::string ProcPath(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

}  // namespace

NewFile::NewFile(std::string path, Options options)
    : path_(std::move(path)),
      options_(std::move(options)),
      temporary_(absl::StrCat(path_, ".", getpid(), ".tmp")) {}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::move(other.path_)),
      options_(std::move(other.options_)),
      temporary_(std::move(other.temporary_)),
      temporary_there_(std::exchange(other.temporary_there_, false)),
      fd_(std::exchange(other.fd_, -1)),
      direct_fd_(std::exchange(other.direct_fd_, -1)),
      limit_bytes_(other.limit_bytes_) {}

NewFile::~NewFile() {
  if (fd_ >= 0) close(fd_);
  if (direct_fd_ >= 0) close(direct_fd_);
  if (temporary_there_) unlink(temporary_.c_str());
}

absl::StatusOr<NewFile> NewFile::Create(const std::string& path, Options options) {
  NewFile file(path, std::move(options));
  struct stat there;
  if (lstat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is there, and no regular file"));
  }
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0) file.limit_bytes_ = limit.rlim_cur;
  file.fd_ = open(DirectoryOf(path).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, file.options_.mode);
  // Without /proc it could never get a name.
  if (file.fd_ >= 0 && access(ProcPath(file.fd_).c_str(), F_OK) != 0) {
    close(std::exchange(file.fd_, -1));
  }
  if (file.fd_ < 0) {
    // One that a process of the same number left behind is nobody's any more.
    unlink(file.temporary_.c_str());
    file.fd_ =
        open(file.temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, file.options_.mode);
    file.temporary_there_ = file.fd_ >= 0;
  }
  if (file.fd_ < 0) return file.Error(errno, "cannot be created");
  if (file.options_.direct) {
    file.direct_fd_ = open(ProcPath(file.fd_).c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC);
  }
  return file;
}

absl::Status NewFile::SetLength(uint64_t length) const {
  if (absl::Status status = BeforeWrite(); !status.ok()) return status;
  if (length > limit_bytes_) return Error(EFBIG, "cannot be written");
  return ftruncate(fd_, static_cast<off_t>(length)) == 0 ? absl::OkStatus()
                                                         : Error(errno, "cannot be written");
}

absl::Status NewFile::WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes) const {
  if (absl::Status status = CheckWrite(offset, bytes.size()); !status.ok()) return status;
  int fd = CanBeDirect(offset, bytes) ? direct_fd_ : fd_;
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put > 0) {
      bytes.remove_prefix(static_cast<size_t>(put));
      offset += static_cast<uint64_t>(put);
    } else if (put < 0 && errno == EINVAL && fd == direct_fd_) {
      fd = fd_;  // the disk's unit is larger, or it was written in part
    } else if (put == 0 || errno != EINTR) {
      return Error(put == 0 ? ENOSPC : errno, "cannot be written");
    }
  }
  return absl::OkStatus();
}

void NewFile::StartWriteback(uint64_t offset, uint64_t length) const {
  (void)sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(length),
                        SYNC_FILE_RANGE_WRITE);
}

absl::Status NewFile::Sync() const {
  if (absl::Status status = BeforeWrite(); !status.ok()) return status;
  return fdatasync(fd_) == 0 ? absl::OkStatus() : Error(errno, "cannot be written to the disk");
}

absl::Status NewFile::Publish() {
  absl::Status status = BeforeWrite();
  // Where there is nothing to replace, a link is all it takes: whoever is killed leaves no other
  // name.
  if (status.ok() && (temporary_there_ || !LinkAs(path_))) {
    status = NameTemporarily();
    if (status.ok()) status = Rename();
  }
  if (status.ok()) SyncDirectory();
  return status;
}

absl::Status NewFile::PublishBoth(NewFile& first, NewFile& second) {
  absl::Status status = first.BeforeWrite();
  if (status.ok()) status = second.BeforeWrite();
  if (status.ok()) status = first.NameTemporarily();
  if (status.ok()) status = second.NameTemporarily();
  if (!status.ok()) return status;
  // What had the first one's name is kept under the temporary one until the second has its own.
  // Where nothing had it, or the file system cannot exchange, it is renamed as ever.
  const bool kept = first.Exchange();
  if (!kept) status = first.Rename();
  if (!status.ok()) return status;
  status = second.Rename();
  if (kept) {
    if (!status.ok()) first.Exchange();
    unlink(first.temporary_.c_str());
    first.temporary_there_ = false;
  } else if (!status.ok()) {
    unlink(first.path_.c_str());
  }
  first.SyncDirectory();
  second.SyncDirectory();
  return status;
}

bool NewFile::LinkAs(const std::string& name) const {
  return linkat(AT_FDCWD, ProcPath(fd_).c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

absl::Status NewFile::NameTemporarily() {
  if (temporary_there_) return absl::OkStatus();
  // A link replaces nothing, so it takes a name to be renamed.
  unlink(temporary_.c_str());
  temporary_there_ = LinkAs(temporary_);
  return temporary_there_ ? absl::OkStatus() : Error(errno, "cannot be given its name");
}

bool NewFile::Exchange() const {
  return renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0;
}

absl::Status NewFile::Rename() {
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    return Error(errno, "cannot be given its name");
  }
  temporary_there_ = false;
  return absl::OkStatus();
}

// So that the name survives what the content does. Some file systems sync no directories.
void NewFile::SyncDirectory() const {
  const int directory = open(DirectoryOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;
  (void)fsync(directory);
  close(directory);
}

absl::Status NewFile::Error(int error, const char* what) const {
  return absl::ErrnoToStatus(error, absl::StrCat(path_, ": ", what));
}

absl::Status NewFile::CheckWrite(uint64_t offset, uint64_t length) const {
  if (absl::Status status = BeforeWrite(); !status.ok()) return status;
  return offset + length > limit_bytes_ ? Error(EFBIG, "cannot be written") : absl::OkStatus();
}

bool NewFile::CanBeDirect(uint64_t offset, absl::Span<const uint8_t> bytes) const {
  return direct_fd_ >= 0 &&
         (offset | bytes.size() | reinterpret_cast<uintptr_t>(bytes.data())) % kDirectUnit == 0;
}

absl::Status NewFile::BeforeWrite() const {
  return options_.before_write == nullptr ? absl::OkStatus() : options_.before_write(fd_);
}

}  // namespace ramjet
