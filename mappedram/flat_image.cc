#include "mappedram/flat_image.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "mappedram/zero_scan.h"

namespace ramjet {
namespace {

// What is read at once.
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

absl::Status FlatImage::Write(const NewFile& file) {
  struct stat status = {};
  if (ftruncate(file.fd(), static_cast<off_t>(total_bytes())) != 0 ||
      fstat(file.fd(), &status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(file.path(), ": cannot be written"));
  }
  // A diff's holes have a meaning, so they begin and end where the file system can have that.
  const auto blocks_of_disk = static_cast<uint64_t>(status.st_blksize);
  const uint64_t unit = base_ == nullptr ? kUnitBytes : std::max(kUnitBytes, blocks_of_disk);
  bytes_.resize(std::max(kWindowBytes, unit));
  if (base_ != nullptr) base_bytes_.resize(bytes_.size());
  uint64_t offset = 0;
  for (const Block& block : blocks_) {
    if (base_ != nullptr && offset % unit != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": a block at offset ", offset,
                       " cannot be written as a diff: holes are multiples of ", unit, " bytes"));
    }
    absl::Status written = WriteBlock(file, block, offset, unit);
    if (!written.ok()) return written;
    offset += block.length;
  }
  return absl::OkStatus();
}

absl::Status FlatImage::WriteBlock(const NewFile& file, const Block& block, uint64_t offset,
                                   uint64_t unit) {
  for (uint64_t at = 0; at < block.length;) {
    if (cancelled_.load(std::memory_order_relaxed)) {
      return absl::CancelledError(absl::StrCat(file.path(), ": its writing was cancelled"));
    }
    const absl::StatusOr<std::optional<RamSource::Extent>> extent =
        NextOfBoth(*block.source, base_, offset, at, block.length);
    if (!extent.ok()) return extent.status();
    uint64_t end = block.length;
    if (extent->has_value()) {
      const uint64_t first = (*extent)->offset / unit * unit;
      const uint64_t rounded = ((*extent)->end() + unit - 1) / unit * unit;
      end = std::min({rounded, first + bytes_.size() / unit * unit, block.length});
      absl::Status written = WriteWindow(file, block, offset, {first, end - first}, unit);
      if (!written.ok()) return written;
    }
    done_bytes_.fetch_add(end - at, std::memory_order_relaxed);
    at = end;
  }
  return absl::OkStatus();
}

absl::Status FlatImage::WriteWindow(const NewFile& file, const Block& block, uint64_t offset,
                                    RamSource::Extent window, uint64_t unit) {
  const auto bytes = absl::MakeSpan(bytes_).first(window.length);
  absl::Status status = block.source->Read(window.offset, bytes);
  const auto base = absl::MakeSpan(base_bytes_).first(base_ == nullptr ? 0 : window.length);
  if (status.ok() && base_ != nullptr) status = base_->Read(offset + window.offset, base);
  const auto is_hole = [&](uint64_t at) {
    const auto page = bytes.subspan(at, std::min(unit, window.length - at));
    if (base_ == nullptr) return IsZero(page);
    return std::equal(page.begin(), page.end(), base.begin() + static_cast<ptrdiff_t>(at));
  };
  for (uint64_t at = 0; status.ok() && at < window.length;) {
    if (is_hole(at)) {
      at += unit;
      continue;
    }
    const uint64_t first = at;
    while (at < window.length && !is_hole(at)) at += unit;
    at = std::min(at, window.length);
    status = file.WriteAt(offset + window.offset + first, bytes.subspan(first, at - first));
    written_bytes_.fetch_add(at - first, std::memory_order_relaxed);
  }
  return status;
}

}  // namespace ramjet
