// A file that appears under its name whole, or not at all.
#ifndef RAMJET_MAPPEDRAM_NEW_FILE_H_
#define RAMJET_MAPPEDRAM_NEW_FILE_H_

#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace ramjet {

// Being written it has no name where the file system knows such files (O_TMPFILE), so that whatever
// ends the process, the kernel gives its space back; elsewhere it is called PATH.PID.tmp, and
// removed if Publish() is not reached.
//
// Errors name the path, as the file will be called, and say why: ResourceExhausted and the like, as
// the system has it. Also where a limit on the size of files (RLIMIT_FSIZE) would end the process.
// Threads: WriteAt() may be called by any number of them at once.
class NewFile {
 public:
  struct Options {
    bool direct = false;  // past the page cache, what can be: see WriteAt()
    mode_t mode = 0600;   // as open() has it
    // For tests: called with the descriptor before each write, sync and renaming; what it returns
    // is taken for theirs.
    std::function<absl::Status(int fd)> before_write = nullptr;
  };

  // Beside `path`, where nothing may be but a regular file, or nothing.
  static absl::StatusOr<NewFile> Create(const std::string& path, Options options);

  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&& other) = delete;
  ~NewFile();

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

  // Makes it that long, all a hole: writes within the length are cheaper for file systems than ones
  // that make the file longer, and a length that cannot be is noticed now.
  absl::Status SetLength(uint64_t length) const;

  // All of `bytes`. With O_DIRECT if that was asked for, the file system can, and offset, length
  // and address are multiples of kDirectUnit.
  absl::Status WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes) const;
  static constexpr uint64_t kDirectUnit = 4096;

  // The kernel begins to bring [offset, offset + length) to the disk, so that Sync() finds less.
  void StartWriteback(uint64_t offset, uint64_t length) const;

  // What was written is on the disk.
  absl::Status Sync() const;

  // Names the file, in place of what had that name. Once.
  absl::Status Publish();
  // The same of two files, of which the second says something of the first: where one of them
  // cannot be named, neither is, and what had the first one's name keeps it. Who is killed in the
  // middle of it may leave the first without the second, and temporary names.
  static absl::Status PublishBoth(NewFile& first, NewFile& second);

 private:
  NewFile(std::string path, Options options);
  absl::Status Error(int error, const char* what) const;
  absl::Status BeforeWrite() const;
  bool LinkAs(const std::string& name) const;
  // The steps of Publish(): all that may lack room on the disk comes first.
  absl::Status NameTemporarily();
  bool Exchange() const;
  absl::Status Rename();
  void SyncDirectory() const;
  // What WriteAt() fails by before it writes.
  absl::Status CheckWrite(uint64_t offset, uint64_t length) const;
  bool CanBeDirect(uint64_t offset, absl::Span<const uint8_t> bytes) const;

  friend class WriteQueue;

  std::string path_;
  Options options_;
  std::string temporary_;  // its name until it is published
  bool temporary_there_ = false;
  int fd_ = -1;
  int direct_fd_ = -1;  // of the same file; -1: no direct writes
  // RLIMIT_FSIZE: the kernel would send SIGXFSZ to a thread that writes beyond it.
  uint64_t limit_bytes_ = RLIM_INFINITY;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_NEW_FILE_H_
