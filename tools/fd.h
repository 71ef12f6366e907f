// File descriptors for the programs in this directory.
#ifndef RAMJET_TOOLS_FD_H_
#define RAMJET_TOOLS_FD_H_

#include <unistd.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ramjet {

// An open descriptor, or none (-1). Closes itself.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() {
    if (fd_ >= 0) close(fd_);
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Returns when `fd` can be read without blocking (or is at its end); DeadlineExceeded, naming
// `what` was waited for, when it is `deadline` first.
absl::Status WaitReadable(int fd, absl::Time deadline, absl::string_view what);

// All of a regular file or memfd, from its beginning; empty if it cannot be read.
std::string ReadWhole(int fd);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_FD_H_
