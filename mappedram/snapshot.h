// A QEMU mapped-ram snapshot file, opened for reading.
#ifndef RAMJET_MAPPEDRAM_SNAPSHOT_H_
#define RAMJET_MAPPEDRAM_SNAPSHOT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "mappedram/bulk_reader.h"
#include "mappedram/file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

// The file, validated once and immutable from then on.
//
// Open() proves what QEMU itself does not check (docs: "mapped-ram" in QEMU's devel/migration; the
// complete list stands at the top of snapshot.cc): lengths add up, nothing overlaps, every set
// bit's page lies inside the file, and the stream goes on to its end, for the bitmaps are written
// last and an interrupted save has well-formed headers before empty ones.
//
// Errors: NotFound, PermissionDenied and the like as the system says; InvalidArgument: not a
// mapped-ram file; DataLoss: it is one, but damaged; the message names the file, the block and the
// number that is wrong. Threads: const methods may be called concurrently.
class Snapshot : public PageSource {
 public:
  // Reads and checks everything but that the file is complete, for which see
  // SnapshotDescription::complete. `stream_offset` is where the stream begins; without it, 0, or
  // behind libvirt's save image header if there is one.
  static absl::StatusOr<SnapshotDescription> Describe(
      const File& file, std::optional<uint64_t> stream_offset = std::nullopt);

  // Describe(), and also an error for an incomplete file. The cost does not depend on the size of
  // the guest but for the bitmaps, which are read straight to where they stay.
  static absl::StatusOr<std::unique_ptr<Snapshot>> Open(
      File file, std::optional<uint64_t> stream_offset = std::nullopt);

  const File& file() const { return file_; }
  const SnapshotDescription& description() const { return description_; }
  const std::vector<SnapshotBlock>& blocks() const { return description_.blocks; }

  // Which pages of block number `block` are in the file. REQUIRES: not taken yet.
  const PageBitmap& nonzero(size_t block) const { return nonzero_[block]; }

  // Hands over the bitmap of nonzero pages of block number `block` to the one loader; once for each
  // block.
  PageBitmap TakeNonzero(size_t block);

  // PageSource. Also notices that the file was truncated or overwritten since Open() (being
  // unlinked or renamed is fine; times: File::WatchForWrites()) and then fails with DataLoss for
  // ever after.
  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override;
  absl::Status ReadCached(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override;
  void Prefetch(size_t block, uint64_t offset, uint64_t length) const override;
  // The same pages, for reading many of them at once: see BulkReader. REQUIRES: OpenBulk().
  const PageSource& bulk() const { return bulk_; }
  // To be called before bulk() is read from. False: another loader or reader has called it, whose
  // reads would be disturbed; this object is one's alone.
  [[nodiscard]] bool OpenBulk(DirectReads direct);

 private:
  struct Bulk : PageSource {
    explicit Bulk(const Snapshot& owner) : snapshot(owner) {}
    absl::Status ReadPages(size_t block, uint64_t offset,
                           absl::Span<uint8_t> buffer) const override;
    bool BeginRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                   absl::Span<uint8_t> buffer) const override;
    absl::Status EndRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                         absl::Span<uint8_t> buffer) const override;
    uint64_t CachedBytes(size_t block, uint64_t offset, uint64_t length) const override;

    const Snapshot& snapshot;
    std::optional<BulkReader> reader;
  };
  Snapshot(File file, SnapshotDescription description, std::vector<PageBitmap> nonzero);
  template <typename Reader>
  absl::Status ReadPagesBy(const Reader& reader, size_t block, uint64_t offset,
                           absl::Span<uint8_t> buffer) const;

  File file_;
  Bulk bulk_;
  std::atomic<bool> bulk_opened_{false};
  SnapshotDescription description_;
  std::vector<PageBitmap> nonzero_;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_SNAPSHOT_H_
