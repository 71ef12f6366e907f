#include "mappedram/bulk_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

// Less than this is not worth a request of its own to the disk: the page cache may have it, or be
// about to.
constexpr uint64_t kMinDirectBytes = 64 << 10;

// Linux 6.5 include/uapi/linux/mman.h and asm-generic/unistd.h.
struct CachestatRange {
  uint64_t off;
  uint64_t len;
};
struct Cachestat {
  uint64_t nr_cache;
  uint64_t nr_dirty;
  uint64_t nr_writeback;
  uint64_t nr_evicted;
  uint64_t nr_recently_evicted;
};
constexpr long kCachestat = 451;

// Of direct reads from the file, or 0 if there are none. `fallback` is for kernels before 6.1,
// which do not tell: every disk's logical block divides it.
uint64_t DirectUnit(int fd) {
  constexpr uint64_t kFallback = 4096;
#ifdef STATX_DIOALIGN
  struct statx info;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    return std::max(info.stx_dio_mem_align, info.stx_dio_offset_align);
  }
#endif
  return kFallback;
}

}  // namespace

BulkReader::BulkReader(const File& file, DirectReads direct) : file_(file), direct_(direct) {
  // A description of its own, for advice and flags belong to it.
  const std::string path = absl::StrCat("/proc/self/fd/", file.fd());
  constexpr int kFlags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  if (direct != DirectReads::kNever) {
    fd_ = open(path.c_str(), kFlags | O_DIRECT);
    if (fd_ >= 0) direct_unit_ = DirectUnit(fd_);
    // With O_NONBLOCK io_uring would give up where a file system cannot but wait.
    if (fd_ >= 0) (void)fcntl(fd_, F_SETFL, O_DIRECT);
  }
  if (direct_unit_ == 0 && fd_ >= 0) close(fd_);
  if (direct_unit_ == 0) fd_ = open(path.c_str(), kFlags);
}

BulkReader::~BulkReader() {
  if (fd_ >= 0) close(fd_);
}

absl::Status BulkReader::ReadAt(uint64_t offset, absl::Span<uint8_t> buffer) const {
  const bool past_cache = IsPastCache(offset, buffer.size());
  while (past_cache && buffer.size() >= kMinDirectBytes) {
    const uint64_t done = ReadDirect(offset, buffer);
    if (done == 0) break;  // whatever is the matter, the plain way says it, or does it
    offset += done;
    buffer.remove_prefix(done);
  }
  return file_.ReadAt(offset, buffer);
}

bool BulkReader::IsPastCache(uint64_t offset, uint64_t length) const {
  return length >= kMinDirectBytes &&
         (direct_ == DirectReads::kNever || CachedBytes(offset, length) < length / 2);
}

bool BulkReader::Begin(ReadQueue& queue, size_t slot, uint64_t offset,
                       absl::Span<uint8_t> buffer) const {
  if (direct_unit_ == 0 || !IsPastCache(offset, buffer.size())) return false;
  const uint64_t length = DirectBytes(offset, buffer);
  return length > 0 && queue.Begin(slot, fd_, offset, buffer.first(length));
}

absl::Status BulkReader::End(ReadQueue& queue, size_t slot, uint64_t offset,
                             absl::Span<uint8_t> buffer) const {
  const uint64_t done = queue.Await(slot);
  return done == buffer.size() ? absl::OkStatus() : ReadAt(offset + done, buffer.subspan(done));
}

uint64_t BulkReader::CachedBytes(uint64_t offset, uint64_t length) const {
  if (direct_ == DirectReads::kAlways) return 0;
  const CachestatRange range{.off = offset, .len = length};
  Cachestat found{};
  if (syscall(kCachestat, file_.fd(), &range, &found, 0) == 0) {
    return found.nr_cache * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  }
  // No more than a byte, for what is missing the kernel begins to read.
  uint8_t byte;
  const iovec part{.iov_base = &byte, .iov_len = 1};
  return preadv2(file_.fd(), &part, 1, static_cast<off_t>(offset), RWF_NOWAIT) == 1 ? length : 0;
}

// How much of it our own descriptor can read in one go.
uint64_t BulkReader::DirectBytes(uint64_t offset, absl::Span<const uint8_t> buffer) const {
  if (fd_ < 0) return 0;
  if (direct_unit_ == 0) return buffer.size();
  if ((offset | reinterpret_cast<uintptr_t>(buffer.data())) % direct_unit_ != 0) return 0;
  return buffer.size() - buffer.size() % direct_unit_;
}

// How much was read by it; 0 where it cannot.
uint64_t BulkReader::ReadDirect(uint64_t offset, absl::Span<uint8_t> buffer) const {
  const uint64_t length = DirectBytes(offset, buffer);
  if (length == 0) return 0;
  const ssize_t got = pread(fd_, buffer.data(), length, static_cast<off_t>(offset));
  return static_cast<uint64_t>(std::max<ssize_t>(got, 0));
}

}  // namespace ramjet
