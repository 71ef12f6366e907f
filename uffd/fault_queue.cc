#include "uffd/fault_queue.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ramjet {

FaultQueue::FaultQueue(const Userfaultfd& uffd)
    : fdinfo_(open(absl::StrCat("/proc/self/fdinfo/", uffd.fd()).c_str(), O_RDONLY | O_CLOEXEC)) {}

FaultQueue::~FaultQueue() {
  if (fdinfo_ >= 0) close(fdinfo_);
}

std::optional<FaultQueue::Sleepers> FaultQueue::Look() const {
  std::array<char, 512> text{};
  if (fdinfo_ < 0 || pread(fdinfo_, text.data(), text.size() - 1, 0) <= 0) return std::nullopt;
  // "pending" are those that nobody has read, "total" is all.
  const char* const at = std::strstr(text.data(), "pending:");
  uint64_t unread = 0;
  uint64_t total = 0;
  if (at == nullptr ||
      std::sscanf(at, "pending: %" SCNu64 " total: %" SCNu64, &unread, &total) != 2 ||
      total < unread) {
    return std::nullopt;
  }
  return Sleepers{.unread = unread, .owed = total - unread};
}

}  // namespace ramjet
