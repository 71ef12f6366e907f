#include "tools/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/fd.h"

namespace ramjet {
namespace {

constexpr double kPresent = 0.99;
constexpr double kAbsent = 0.01;
// The cache is everybody's: what the kernel reclaims, or a reader brings in, meanwhile.
constexpr int kAttempts = 3;

// Bytes [begin, begin + length) of a file that are not a hole. Holes cost nothing, cached or not,
// and in a snapshot of a large and empty machine there is little else.
struct Extent {
  off_t begin;
  size_t length;
};

std::vector<Extent> ExtentsOf(int fd) {
  std::vector<Extent> extents;
  for (off_t begin = 0; (begin = lseek(fd, begin, SEEK_DATA)) >= 0;) {
    const off_t end = lseek(fd, begin, SEEK_HOLE);
    if (end <= begin) break;
    extents.push_back({begin, static_cast<size_t>(end - begin)});
    begin = end;
  }
  return extents;
}

// How much of the extents, which are not none, is cached. Negative: the kernel does not say.
double CachedShare(int fd, const std::vector<Extent>& extents) {
  const auto page_size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t present = 0;
  size_t total = 0;
  std::vector<unsigned char> pages;
  for (const Extent& extent : extents) {
    const off_t begin =
        extent.begin / static_cast<off_t>(page_size) * static_cast<off_t>(page_size);
    const size_t length = extent.length + static_cast<size_t>(extent.begin - begin);
    void* const mapped = mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, begin);
    if (mapped == MAP_FAILED) return -1;
    pages.resize((length + page_size - 1) / page_size);
    const int result = mincore(mapped, length, pages.data());
    munmap(mapped, length);
    if (result != 0) return -1;
    present += static_cast<size_t>(
        std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
    total += pages.size();
  }
  return static_cast<double>(present) / static_cast<double>(total);
}

void ReadThrough(int fd, const std::vector<Extent>& extents) {
  std::vector<char> buffer(1 << 20);
  for (const Extent& extent : extents) {
    size_t done = 0;
    while (done < extent.length) {
      const ssize_t got = pread(fd, buffer.data(), std::min(buffer.size(), extent.length - done),
                                extent.begin + static_cast<off_t>(done));
      if (got <= 0) break;
      done += static_cast<size_t>(got);
    }
  }
}

// Free pages only: pushing out the page cache would change what is measured.
uint64_t FreeBytes() {
  return static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

absl::Status SetCacheState(const std::string& path, CacheState state) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return absl::ErrnoToStatus(errno, path);
  const std::vector<Extent> extents = ExtentsOf(file.get());
  if (extents.empty()) return absl::OkStatus();
  double share = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    // To warm it, too: what has come page by page, in an earlier load, takes twice as long to copy
    // as what has come by readahead.
    fsync(file.get());  // only clean pages can be dropped
    posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (state == CacheState::kWarm) ReadThrough(file.get(), extents);
    share = CachedShare(file.get(), extents);
    const bool as_wanted =
        state == CacheState::kWarm ? share >= kPresent : share >= 0 && share <= kAbsent;
    if (as_wanted) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the page cache could not be made ", state == CacheState::kWarm ? "warm" : "cold", ": ",
      static_cast<int>(share * 100), "% of the content of ", path, " is in it"));
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
