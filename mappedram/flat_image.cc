#include "mappedram/flat_image.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "mappedram/aligned_buffer.h"
#include "mappedram/parallel.h"
#include "mappedram/zero_scan.h"

namespace ramjet {
namespace {

// What a thread takes at once.
constexpr uint64_t kWindowBytes = 2 << 20;
// What becomes a hole or does not, at least: a page of any guest.
constexpr uint64_t kUnitBytes = 4096;

// The first extent of either, all offsets counted from `source`'s beginning, which is at
// `base_offset` of `base`.
absl::StatusOr<std::optional<RamSource::Extent>> NextOfBoth(const RamSource& source,
                                                            const RamSource* base,
                                                            uint64_t base_offset, uint64_t at,
                                                            uint64_t limit) {
  absl::StatusOr<std::optional<RamSource::Extent>> first = source.NextExtent(at, limit);
  if (!first.ok() || base == nullptr) return first;
  absl::StatusOr<std::optional<RamSource::Extent>> other =
      base->NextExtent(base_offset + at, base_offset + limit);
  if (!other.ok() || !other->has_value()) return other.ok() ? first : other;
  (*other)->offset -= base_offset;
  return !first->has_value() || (*other)->offset < (*first)->offset ? other : first;
}

}  // namespace

uint64_t FlatImage::total_bytes() const {
  uint64_t total = 0;
  for (const Block& block : blocks_) total += block.length;
  return total;
}

// One Write(). As in SnapshotWriter::Job, each thread takes the next window that its source does
// not know to be zero; no byte is in two of them.
class FlatImage::Job {
 public:
  Job(FlatImage& image, const NewFile& file, uint64_t unit)
      : image_(image),
        file_(file),
        unit_(unit),
        window_bytes_(std::max(kWindowBytes / unit * unit, unit)) {}

  absl::Status Run();

 private:
  // Bytes [begin, end) of a block, which begins at `block_offset` of the file.
  struct Window {
    size_t block = 0;
    uint64_t block_offset = 0;
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  using Extent = RamSource::Extent;

  void Work();
  // nullopt if there is none, or the work has ended.
  std::optional<Window> Take() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status WriteWindow(const Window& window, absl::Span<uint8_t> bytes,
                           absl::Span<uint8_t> base) const;
  absl::Status WriteExtent(const Window& window, Extent extent, absl::Span<uint8_t> bytes,
                           absl::Span<uint8_t> base) const;
  // The first extent of the source, or of the base, whole units of it.
  absl::StatusOr<std::optional<Extent>> Next(const Window& window) const;
  void Fail(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  FlatImage& image_;
  const NewFile& file_;
  const uint64_t unit_;  // what becomes a hole or does not
  const uint64_t window_bytes_;

  absl::Mutex mu_;
  Window next_ ABSL_GUARDED_BY(mu_);  // all before it is taken; its end is not used
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

absl::Status FlatImage::Write(const NewFile& file) {
  if (absl::Status status = file.SetLength(total_bytes()); !status.ok()) return status;
  struct stat status = {};
  if (fstat(file.fd(), &status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(file.path(), ": cannot be written"));
  }
  // A diff's holes have a meaning, so they begin and end where the file system can have that.
  const auto blocks_of_disk = static_cast<uint64_t>(status.st_blksize);
  const uint64_t unit = base_ == nullptr ? kUnitBytes : std::max(kUnitBytes, blocks_of_disk);
  uint64_t offset = 0;
  for (const Block& block : blocks_) {
    if (base_ != nullptr && offset % unit != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": a block at offset ", offset,
                       " cannot be written as a diff: holes are multiples of ", unit, " bytes"));
    }
    offset += block.length;
  }
  return Job(*this, file, unit).Run();
}

absl::Status FlatImage::Job::Run() {
  RunOnThreads(ThreadCount(image_.options_.threads), [this] { Work(); });
  const absl::MutexLock lock(&mu_);
  return status_;
}

void FlatImage::Job::Work() {
  AlignedBuffer bytes(window_bytes_);
  AlignedBuffer base(window_bytes_);
  if (!bytes.valid() || !base.valid()) {
    return Fail(absl::ResourceExhaustedError("there is no memory for a buffer"));
  }
  while (const std::optional<Window> window = Take()) {
    absl::Status written =
        WriteWindow(*window, bytes.first(window_bytes_), base.first(window_bytes_));
    if (!written.ok()) return Fail(written);
  }
}

void FlatImage::Job::Fail(const absl::Status& status) {
  const absl::MutexLock lock(&mu_);
  status_.Update(status);
}

std::optional<FlatImage::Job::Window> FlatImage::Job::Take() {
  const absl::MutexLock lock(&mu_);
  while (status_.ok() && next_.block < image_.blocks_.size()) {
    if (image_.cancelled_.load(std::memory_order_relaxed)) {
      status_ = absl::CancelledError(absl::StrCat(file_.path(), ": its writing was cancelled"));
      break;
    }
    next_.end = image_.blocks_[next_.block].length;
    if (next_.begin >= next_.end) {
      next_ = {.block = next_.block + 1, .block_offset = next_.block_offset + next_.end};
      continue;
    }
    const absl::StatusOr<std::optional<Extent>> extent = Next(next_);
    if (!extent.ok()) {
      status_ = extent.status();
      break;
    }
    const uint64_t first = extent->has_value() ? (*extent)->offset : next_.end;
    image_.done_bytes_.fetch_add(first - next_.begin, std::memory_order_relaxed);
    next_.begin = first;
    if (!extent->has_value()) continue;
    Window window = next_;
    window.end = std::min((first / window_bytes_ + 1) * window_bytes_, next_.end);
    next_.begin = window.end;
    return window;
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<RamSource::Extent>> FlatImage::Job::Next(const Window& window) const {
  absl::StatusOr<std::optional<Extent>> next =
      NextOfBoth(*image_.blocks_[window.block].source, image_.base_, window.block_offset,
                 window.begin, window.end);
  if (!next.ok() || !next->has_value()) return next;
  const uint64_t first = (*next)->offset / unit_ * unit_;
  const uint64_t end = std::min(((*next)->end() + unit_ - 1) / unit_ * unit_, window.end);
  return Extent{first, end - first};
}

absl::Status FlatImage::Job::WriteWindow(const Window& window, absl::Span<uint8_t> bytes,
                                         absl::Span<uint8_t> base) const {
  for (Window rest = window; rest.begin < rest.end;) {
    const absl::StatusOr<std::optional<Extent>> extent = Next(rest);
    if (!extent.ok()) return extent.status();
    if (!extent->has_value()) break;
    absl::Status written = WriteExtent(window, **extent, bytes.first((*extent)->length),
                                       base.first((*extent)->length));
    if (!written.ok()) return written;
    rest.begin = (*extent)->end();
  }
  const uint64_t length = window.end - window.begin;
  image_.done_bytes_.fetch_add(length, std::memory_order_relaxed);
  if (image_.options_.writeback) file_.StartWriteback(window.block_offset + window.begin, length);
  return absl::OkStatus();
}

absl::Status FlatImage::Job::WriteExtent(const Window& window, Extent extent,
                                         absl::Span<uint8_t> bytes,
                                         absl::Span<uint8_t> base) const {
  const uint64_t offset = window.block_offset + extent.offset;
  const bool is_diff = image_.base_ != nullptr;
  absl::Status status = image_.blocks_[window.block].source->Read(extent.offset, bytes);
  if (status.ok() && is_diff) status = image_.base_->Read(offset, base);
  const auto is_hole = [&](uint64_t at) {
    const auto page = bytes.subspan(at, std::min(unit_, extent.length - at));
    return is_diff ? page == base.subspan(at, page.size()) : IsZero(page);
  };
  for (uint64_t at = 0; status.ok() && at < extent.length;) {
    if (is_hole(at)) {
      at += unit_;
      continue;
    }
    const uint64_t first = at;
    while (at < extent.length && !is_hole(at)) at += unit_;
    at = std::min(at, extent.length);
    status = file_.WriteAt(offset + first, bytes.subspan(first, at - first));
    image_.written_bytes_.fetch_add(at - first, std::memory_order_relaxed);
  }
  return status;
}

}  // namespace ramjet
