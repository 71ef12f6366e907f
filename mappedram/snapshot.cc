#include "mappedram/snapshot.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mappedram/save_image.h"
#include "mappedram/stream_parser.h"

// What is checked of a file before anything of it is believed, and where:
//
//   save_image     version and format of libvirt's header; the stream begins inside the file
//   configuration  known in all its parts, "mapped-ram" among its capabilities
//   stream_parser  magic number, version; records of known type; one section "ram", of the right
//                  instance and version, begun and ended once; every payload ends in its footer;
//                  devices agree with the vmdesc in number, order, name, instance and size; the
//                  stream goes on to eof and vmdesc, and the file ends right there
//   ram_section    total, flags and number of blocks; for each block: name printable and unique,
//                  header version, page size a power of two and the same everywhere, used_length a
//                  multiple of it and within the total, pages_offset aligned to it; header, bitmap
//                  and pages in this order, without overlap, each block's behind those of the one
//                  before; lengths add up to the total; no bits set past the last page
//
// A complete stream goes on behind the pages of its last block, so every page lies inside the file.

namespace ramjet {
namespace {

absl::StatusOr<ParsedStream> ParseFile(const File& file, std::optional<uint64_t> stream_offset) {
  if (stream_offset.has_value()) {
    if (*stream_offset > file.size()) {
      return InvalidArgumentError(file, "stream offset ", *stream_offset,
                                  " lies beyond its end at ", file.size());
    }
    return ParseStream(file, *stream_offset);
  }
  const absl::StatusOr<StreamStart> start = FindStreamStart(file);
  if (!start.ok()) return start.status();
  absl::StatusOr<ParsedStream> parsed = ParseStream(file, start->offset);
  // Whatever else may be wrong, this is why.
  if (parsed.ok()) parsed->description.complete.Update(start->finished);
  if (!parsed.ok() && !start->finished.ok()) return start->finished;
  return parsed;
}

}  // namespace

absl::StatusOr<SnapshotDescription> Snapshot::Describe(const File& file,
                                                       std::optional<uint64_t> stream_offset) {
  absl::StatusOr<ParsedStream> parsed = ParseFile(file, stream_offset);
  if (!parsed.ok()) return parsed.status();
  return std::move(parsed->description);
}

absl::StatusOr<std::unique_ptr<Snapshot>> Snapshot::Open(File file,
                                                         std::optional<uint64_t> stream_offset) {
  absl::StatusOr<ParsedStream> parsed = ParseFile(file, stream_offset);
  if (!parsed.ok()) return parsed.status();
  if (!parsed->description.complete.ok()) return parsed->description.complete;
  // Who writes to the file while it is read could make any check pass.
  if (absl::Status unchanged = file.CheckUnchanged(); !unchanged.ok()) return unchanged;
  file.AdviseRandom();
  return std::unique_ptr<Snapshot>(
      new Snapshot(std::move(file), std::move(parsed->description), std::move(parsed->nonzero)));
}

Snapshot::Snapshot(File file, SnapshotDescription description, std::vector<PageBitmap> nonzero)
    : file_(std::move(file)),
      bulk_(*this),
      description_(std::move(description)),
      nonzero_(std::move(nonzero)) {}

bool Snapshot::OpenBulk(DirectReads direct) {
  if (bulk_opened_.exchange(true)) return false;
  bulk_.reader.emplace(file_, direct);
  return true;
}

PageBitmap Snapshot::TakeNonzero(size_t block) { return std::move(nonzero_[block]); }

void Snapshot::Prefetch(size_t block, uint64_t offset, uint64_t length) const {
  const SnapshotBlock& from = description_.blocks[block];
  if (from.in_file()) file_.Prefetch(from.pages_offset + offset, length);
}

absl::Status Snapshot::ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const {
  return ReadPagesBy(file_, block, offset, buffer);
}

absl::Status Snapshot::ReadCached(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const {
  struct Cached {
    absl::Status ReadAt(uint64_t at, absl::Span<uint8_t> bytes) const {
      return file.ReadCachedAt(at, bytes);
    }
    const File& file;
  };
  return ReadPagesBy(Cached{file_}, block, offset, buffer);
}

absl::Status Snapshot::Bulk::ReadPages(size_t block, uint64_t offset,
                                       absl::Span<uint8_t> buffer) const {
  return snapshot.ReadPagesBy(*reader, block, offset, buffer);
}

bool Snapshot::Bulk::BeginRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                               absl::Span<uint8_t> buffer) const {
  const SnapshotBlock& from = snapshot.blocks()[block];
  return from.in_file() && reader->Begin(queue, slot, from.pages_offset + offset, buffer);
}

absl::Status Snapshot::Bulk::EndRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                                     absl::Span<uint8_t> buffer) const {
  struct Begun {
    absl::Status ReadAt(uint64_t at, absl::Span<uint8_t> bytes) const {
      return reader.End(queue, slot, at, bytes);
    }
    const BulkReader& reader;
    ReadQueue& queue;
    const size_t slot;
  };
  return snapshot.ReadPagesBy(Begun{*reader, queue, slot}, block, offset, buffer);
}

uint64_t Snapshot::Bulk::CachedBytes(size_t block, uint64_t offset, uint64_t length) const {
  const SnapshotBlock& from = snapshot.blocks()[block];
  return from.in_file() ? reader->CachedBytes(from.pages_offset + offset, length) : 0;
}

template <typename Reader>
absl::Status Snapshot::ReadPagesBy(const Reader& reader, size_t block, uint64_t offset,
                                   absl::Span<uint8_t> buffer) const {
  const SnapshotBlock& from = description_.blocks[block];
  if (!from.in_file()) {
    return InvalidArgumentError(file_, "block \"", from.idstr, "\" is not in the file");
  }
  absl::Status read = reader.ReadAt(from.pages_offset + offset, buffer);
  // Asked after reading: content that was there before the change is as good as it ever was.
  const absl::Status unchanged = file_.CheckUnchanged();
  if (!unchanged.ok()) read = unchanged;
  if (read.ok() || absl::IsResourceExhausted(read)) return read;
  return absl::Status(read.code(), absl::StrCat(read.message(), " (block \"", from.idstr,
                                                "\", page ", offset / from.page_size, " at offset ",
                                                from.pages_offset + offset, ")"));
}

}  // namespace ramjet
