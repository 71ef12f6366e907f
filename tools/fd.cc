#include "tools/fd.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace ramjet {

absl::Status WaitReadable(int fd, absl::Time deadline, absl::string_view what) {
  while (true) {
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now()) + 1;
    if (left_ms <= 0) return absl::DeadlineExceededError(absl::StrCat("no ", what, " in time"));
    pollfd watched = {fd, POLLIN, 0};
    const int ready = poll(&watched, 1, static_cast<int>(std::min<int64_t>(left_ms, 1 << 30)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "poll");
  }
}

std::string ReadWhole(int fd) {
  std::string contents;
  char buffer[16384];
  ssize_t got = 0;
  while ((got = pread(fd, buffer, sizeof(buffer), static_cast<off_t>(contents.size()))) > 0) {
    contents.append(buffer, static_cast<size_t>(got));
  }
  return contents;
}

}  // namespace ramjet
