#include "tests/snapshot_content.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"
#include "mappedram/snapshot_writer.h"

namespace ramjet {
namespace {

// The pages of a block, made as they are read.
class ContentSource : public RamSource {
 public:
  explicit ContentSource(const BlockContent& block) : block_(block) {}

  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override {
    const uint64_t page = offset / block_.page_size;
    const auto run =
        std::upper_bound(block_.nonzero.begin(), block_.nonzero.end(), page,
                         [](uint64_t at, const PageRun& other) { return at < other.end(); });
    if (run == block_.nonzero.end()) return std::nullopt;
    const uint64_t first = std::max(offset, run->first * block_.page_size);
    if (first >= limit) return std::nullopt;
    return Extent{first, std::min(limit, run->end() * block_.page_size) - first};
  }
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override {
    for (uint64_t at = 0; at < buffer.size(); at += block_.page_size) {
      block_.fill((offset + at) / block_.page_size, buffer.subspan(at, block_.page_size));
    }
    return absl::OkStatus();
  }

 private:
  const BlockContent& block_;
};

// Makes of a whole file what a save leaves that is killed in its first PART record.
absl::Status Interrupt(const SnapshotContent& content, const std::string& path) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<SnapshotDescription> description =
      Snapshot::Describe(*file, content.stream_offset);
  if (!description.ok()) return description.status();
  uint64_t part_offset = description->ram_end_offset;
  for (const SectionContent& section : content.live) {
    StreamEncoder start;
    start.PutSectionHeader(kSectionStart, 0, section.name, 0, 0);
    part_offset += start.size() + section.payload.size() + kFooterBytes;
  }
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  bool done = fd >= 0 && ftruncate(fd, static_cast<off_t>(part_offset + 1)) == 0;
  for (const SnapshotBlock& block : description->blocks) {
    const std::string zeros(block.in_file() ? PageBitmap(block.pages()).word_count() * 8 : 0, 0);
    done =
        done && pwrite(fd, zeros.data(), zeros.size(), static_cast<off_t>(block.bitmap_offset)) ==
                    static_cast<ssize_t>(zeros.size());
  }
  if (fd >= 0) close(fd);
  return done ? absl::OkStatus() : absl::UnavailableError(absl::StrCat(path, ": not interrupted"));
}

}  // namespace

void FillPagePattern(uint64_t page, absl::Span<uint8_t> page_content) {
  for (size_t i = 0; i < page_content.size(); ++i) {
    // A multiplicative hash of page and 64-byte line; the low bit keeps it from being zero.
    const uint64_t line = (page << 10 | i / 64) * 0x9e3779b97f4a7c15;
    page_content[i] = static_cast<uint8_t>((line >> (8 * (i % 8))) | 1);
  }
}

absl::Status WriteSnapshot(const SnapshotContent& content, const std::string& path) {
  absl::StatusOr<StreamParts> stream = EncodeStream({.machine = content.machine,
                                                     .capabilities = content.capabilities,
                                                     .page_bits = content.page_bits,
                                                     .uuid = content.uuid,
                                                     .early_devices = content.early_devices,
                                                     .live = content.live,
                                                     .devices = content.devices,
                                                     .vmdesc = content.vmdesc});
  if (!stream.ok()) return stream.status();
  std::deque<ContentSource> sources;
  std::vector<NewBlock> blocks;
  for (const BlockContent& block : content.blocks) {
    const RamSource& source = sources.emplace_back(block);
    blocks.push_back({.idstr = block.idstr,
                      .used_length = block.used_length,
                      .page_size = block.page_size,
                      .source = block.ignored ? nullptr : &source});
  }
  SnapshotWriter writer(*std::move(stream), std::move(blocks),
                        {.threads = 1,
                         .zero_detection = ZeroDetection::kNone,
                         .sync = false,
                         .check = false,
                         .stream_offset = content.stream_offset,
                         .pages_alignment = content.pages_alignment});
  absl::Status written = writer.Write(path);
  if (!written.ok() || !content.interrupted) return written;
  return Interrupt(content, path);
}

}  // namespace ramjet
