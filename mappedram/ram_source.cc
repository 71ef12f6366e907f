#include "mappedram/ram_source.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

absl::StatusOr<std::optional<RamSource::Extent>> MemorySource::NextExtent(uint64_t offset,
                                                                          uint64_t limit) const {
  return Extent{offset, limit - offset};
}

absl::Status MemorySource::Read(uint64_t offset, absl::Span<uint8_t> buffer) const {
  std::memcpy(buffer.data(), bytes_.data() + offset, buffer.size());
  return absl::OkStatus();
}

absl::StatusOr<std::optional<RamSource::Extent>> FileSource::NextExtent(uint64_t offset,
                                                                        uint64_t limit) const {
  const auto seek = [this](uint64_t from, int whence) {
    return lseek(file_.fd(), static_cast<off_t>(from), whence);
  };
  const uint64_t end = std::min(begin_ + limit, file_.size());
  if (begin_ + offset >= end) return std::nullopt;
  const off_t data = seek(begin_ + offset, SEEK_DATA);
  const off_t hole = data < 0 ? data : seek(static_cast<uint64_t>(data), SEEK_HOLE);
  const int error = errno;
  // A file that was cut has holes, too, and nobody would read there.
  if (absl::Status unchanged = file_.CheckUnchanged(); !unchanged.ok()) return unchanged;
  // ENXIO: there is nothing but a hole up to the end. Where holes cannot be asked for, all is data.
  if (data < 0 && error == ENXIO) return std::nullopt;
  const uint64_t first = data < 0 ? begin_ + offset : static_cast<uint64_t>(data);
  if (first >= end) return std::nullopt;
  const uint64_t last = hole < 0 ? end : std::min(end, static_cast<uint64_t>(hole));
  return Extent{first - begin_, last - first};
}

absl::Status FileSource::Read(uint64_t offset, absl::Span<uint8_t> buffer) const {
  const uint64_t there = file_.size() - std::min(begin_ + offset, file_.size());
  const auto in_file = buffer.first(std::min<uint64_t>(buffer.size(), there));
  std::fill(buffer.begin() + static_cast<ptrdiff_t>(in_file.size()), buffer.end(), uint8_t{0});
  absl::Status read = file_.ReadAt(begin_ + offset, in_file);
  read.Update(file_.CheckUnchanged());
  return read;
}

absl::StatusOr<std::optional<RamSource::Extent>> SnapshotSource::NextExtent(uint64_t offset,
                                                                            uint64_t limit) const {
  const uint64_t page_size = snapshot_.blocks()[block_].page_size;
  const PageBitmap& nonzero = snapshot_.nonzero(block_);
  const uint64_t last = std::min((limit + page_size - 1) / page_size, nonzero.size());
  if (offset / page_size >= last) return std::nullopt;
  const std::optional<PageRun> run = nonzero.FindRun(true, offset / page_size, last);
  if (!run.has_value()) return std::nullopt;
  const uint64_t first = std::max(offset, run->first * page_size);
  return Extent{first, std::min(limit, run->end() * page_size) - first};
}

absl::Status SnapshotSource::Read(uint64_t offset, absl::Span<uint8_t> buffer) const {
  const uint64_t page_size = snapshot_.blocks()[block_].page_size;
  const PageBitmap& nonzero = snapshot_.nonzero(block_);
  const uint64_t end = offset + buffer.size();
  for (uint64_t at = offset; at < end;) {
    // Of equal bits: read, or zeros.
    const uint64_t page = at / page_size;
    const bool is_zero = page >= nonzero.size() || !nonzero.Test(page);
    uint64_t until = end;
    if (page < nonzero.size()) {
      const uint64_t limit = std::min((end + page_size - 1) / page_size, nonzero.size());
      until = std::min(end, nonzero.FindRun(!is_zero, page, limit)->end() * page_size);
    }
    const auto part = buffer.subspan(at - offset, until - at);
    if (is_zero) {
      std::fill(part.begin(), part.end(), uint8_t{0});
    } else if (absl::Status read = snapshot_.ReadPages(block_, at, part); !read.ok()) {
      return read;
    }
    at = until;
  }
  return absl::OkStatus();
}

}  // namespace ramjet
