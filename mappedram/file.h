// An open file that knows its name and what it looked like when it was opened.
#ifndef RAMJET_MAPPEDRAM_FILE_H_
#define RAMJET_MAPPEDRAM_FILE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/file_watch.h"

namespace ramjet {

// A regular file, open for reading. Owns its descriptor (close-on-exec). Movable.
//
// Threads: const methods may be called concurrently.
class File {
 public:
  // Never blocks on what is not a regular file: a directory, pipe or device is refused with an
  // error that says what it is.
  static absl::StatusOr<File> Open(const std::string& path);
  // A descriptor of its own for the file behind `fd`: a fresh open where /proc allows it (so
  // neither O_DIRECT nor the position is shared), else a duplicate. `fd` stays the caller's. `name`
  // is used in messages.
  static absl::StatusOr<File> Reopen(int fd, std::string name);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  int fd() const { return fd_; }
  const std::string& name() const { return name_; }
  // As they were when the file was opened.
  uint64_t size() const { return size_; }
  dev_t device() const { return device_; }
  ino_t inode() const { return inode_; }

  // Fills all of `buffer` from `offset`, by as many preads as it takes. DataLoss if the file ends
  // before, ResourceExhausted if the kernel lacks memory, Unavailable with errno in words for any
  // other failure.
  absl::Status ReadAt(uint64_t offset, absl::Span<uint8_t> buffer) const;
  // The same of what the page cache has, and has read already; else Unavailable. On file systems
  // that cannot tell (RWF_NOWAIT, Linux 4.14) it may wait.
  absl::Status ReadCachedAt(uint64_t offset, absl::Span<uint8_t> buffer) const;

  // From now on the kernel reads what it is asked for and no more. Its readahead, up to 8 MiB for a
  // page, would make a reader of a single page wait for what nobody may want.
  void AdviseRandom() const;

  // [offset, offset + length) will be read soon: the kernel begins to.
  void Prefetch(uint64_t offset, uint64_t length) const;

  // DataLoss, saying what differs, if the file was written to since it was opened, and for ever
  // after; Unavailable if that cannot be told now. The kernel stamps files by its clock tick, so a
  // write within a few milliseconds of the opening may go unnoticed.
  absl::Status CheckUnchanged() const { return watch_->Check(fd_, name_); }

  // From now on CheckUnchanged() knows a write from times that were only set (FileWatch), where the
  // system allows it. Without this call, whoever sets the modification time has written to the
  // file.
  void WatchForWrites() const { watch_->Start(fd_); }

 private:
  File(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  // Takes `fd` over, whatever comes of it.
  static absl::StatusOr<File> Adopt(int fd, std::string name);

  int fd_ = -1;
  std::string name_;
  uint64_t size_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::unique_ptr<FileWatch> watch_;
};

// DataLoss with the message "FILE: what": how everything that reads a snapshot says that it is
// damaged.
template <typename... Parts>
absl::Status DataLossError(const File& file, const Parts&... what) {
  return absl::DataLossError(absl::StrCat(file.name(), ": ", what...));
}

// InvalidArgument in the same form: the file is not one of ours.
template <typename... Parts>
absl::Status InvalidArgumentError(const File& file, const Parts&... what) {
  return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", what...));
}

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_FILE_H_
