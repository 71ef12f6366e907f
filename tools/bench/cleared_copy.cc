#include "tools/bench/cleared_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tools/fd.h"

namespace ramjet::bench {
namespace {

constexpr uint64_t kKeptBytes = 1 << 20;

struct FileRange {
  uint64_t begin;
  uint64_t end;
};

absl::Status CopyRange(const File& from, int to, FileRange range) {
  std::vector<uint8_t> buffer(1 << 20);
  for (uint64_t offset = range.begin; offset < range.end; offset += buffer.size()) {
    const absl::Span<uint8_t> piece(buffer.data(),
                                    std::min<uint64_t>(buffer.size(), range.end - offset));
    absl::Status read = from.ReadAt(offset, piece);
    if (!read.ok()) return read;
    const ssize_t written = pwrite(to, piece.data(), piece.size(), static_cast<off_t>(offset));
    if (written != static_cast<ssize_t>(piece.size())) {
      return absl::ErrnoToStatus(errno, "cannot write the copy without pages");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteClearedCopy(const std::string& from, const std::string& to) {
  const absl::StatusOr<File> file = File::Open(from);
  if (!file.ok()) return file.status();
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(*file);
  if (!description.ok()) return description.status();
  std::vector<FileRange> holes;
  for (const SnapshotBlock& block : description->blocks) {
    if (!block.in_file()) continue;
    const uint64_t kept = std::min(block.used_length, kKeptBytes);
    const uint64_t bitmap_bytes = (block.pages() + 7) / 8;
    const uint64_t kept_bitmap_bytes = std::min(kKeptBytes / block.page_size / 8, bitmap_bytes);
    holes.push_back({block.bitmap_offset + kept_bitmap_bytes, block.bitmap_offset + bitmap_bytes});
    holes.push_back({block.pages_offset + kept, block.pages_end()});
  }
  std::sort(holes.begin(), holes.end(),
            [](const FileRange& one, const FileRange& other) { return one.begin < other.begin; });

  const UniqueFd copy(open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!copy.valid() || ftruncate(copy.get(), static_cast<off_t>(file->size())) != 0) {
    return absl::ErrnoToStatus(errno, to);
  }
  uint64_t begin = 0;
  holes.push_back({file->size(), file->size()});
  for (const FileRange& hole : holes) {
    absl::Status copied = CopyRange(*file, copy.get(), {begin, hole.begin});
    if (!copied.ok()) return copied;
    begin = hole.end;
  }
  return absl::OkStatus();
}

}  // namespace ramjet::bench
