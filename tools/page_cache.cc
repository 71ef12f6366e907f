#include "tools/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/fd.h"

namespace ramjet {
namespace {

// A file's holes may or may not be cached, and cost nothing either way.
constexpr double kMostlyPresent = 0.5;
constexpr double kMostlyAbsent = 0.01;

double CachedShare(int fd, size_t length) {
  void* mapped = mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) return -1;
  const size_t page_size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> present((length + page_size - 1) / page_size);
  const int result = mincore(mapped, length, present.data());
  munmap(mapped, length);
  if (result != 0) return -1;
  const auto count =
      std::count_if(present.begin(), present.end(), [](unsigned char page) { return page & 1; });
  return static_cast<double>(count) / static_cast<double>(present.size());
}

void ReadThrough(int fd) {
  std::vector<char> buffer(1 << 20);
  off_t offset = 0;
  ssize_t got = 0;
  while ((got = pread(fd, buffer.data(), buffer.size(), offset)) > 0) offset += got;
}

// Free pages only: pushing out the page cache would change what is measured.
uint64_t FreeBytes() {
  return static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

absl::Status SetCacheState(const std::string& path, CacheState state) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info = {};
  if (!file.valid() || fstat(file.get(), &info) != 0) return absl::ErrnoToStatus(errno, path);
  if (state == CacheState::kWarm) {
    ReadThrough(file.get());
  } else {
    fsync(file.get());  // only clean pages can be dropped
    posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
  const double share = CachedShare(file.get(), static_cast<size_t>(info.st_size));
  const bool as_wanted =
      state == CacheState::kWarm ? share >= kMostlyPresent : share >= 0 && share <= kMostlyAbsent;
  if (as_wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the page cache could not be made ", state == CacheState::kWarm ? "warm" : "cold", ": ",
      static_cast<int>(share * 100), "% of ", path, " is in it"));
}

void WarmHostMemory(uint64_t bytes) {
  const size_t length = std::min(bytes, FreeBytes() / 2) >> 21 << 21;
  void* memory = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return;  // only a warm-up: the timing is noisier without it
  madvise(memory, length, MADV_HUGEPAGE);
  const size_t page_size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t offset = 0; offset < length; offset += page_size) {
    static_cast<volatile char*>(memory)[offset] = 1;
  }
  munmap(memory, length);
}

}  // namespace ramjet
