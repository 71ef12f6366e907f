// Checksums of a snapshot's pages, in a small file beside it: what the disk or the wire has done to
// a page is noticed before a guest sees it.
//
// The file, as a grammar (numbers as coding.h has them):
//
//   file    = "ramjetCS" u32:1 u64:digest varint:pages_per_run varint:n n*block u32:crc
//   block   = varint:length idstr[length] varint:page_size varint:pages varint:n n*stretch
//   stretch = varint:skipped varint:n n*u32:crc
//
// A block is cut into runs of `pages_per_run` pages, the last of which may be shorter. A run's sum
// is the CRC-32C of the content of those of its pages whose bit is set, one behind the other. Runs
// that have such pages are in stretches; `skipped` runs without are between one and the next, or
// before the first. The digest is that of the snapshot (snapshot_digest.h). The last crc is of all
// before.
//
// For example, a block "ram" of 100 pages of 4 KiB, with content in pages 20 and 40:
//
//     0  72 61 6d 6a 65 74 43 53  01 00 00 00       "ramjetCS", 1
//     c  88 77 66 55 44 33 22 11  10                digest 0x1122334455667788; 16 pages a run
//    15  01  03 "ram" 80 20 64                      one block: page_size 4096, 100 pages
//    1d  01  01 02 (crc) (crc)                      one stretch: behind run 0, runs 1 and 2
//    28  (crc)
#ifndef RAMJET_MAPPEDRAM_CHECKSUMS_H_
#define RAMJET_MAPPEDRAM_CHECKSUMS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/new_file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"

namespace ramjet {

// Threads: a value like any other.
struct Checksums {
  // Small, because a reader that needs one page reads all of its run. A sum for 64 KiB is still a
  // file of 0.006 %.
  static constexpr uint64_t kPagesPerRun = 16;
  static constexpr uint64_t kMaxPagesPerRun = 512;

  struct Stretch {
    uint64_t first = 0;  // number of its first run
    std::vector<uint32_t> crcs = {};

    uint64_t end() const { return first + crcs.size(); }
    friend bool operator==(const Stretch&, const Stretch&) = default;
  };
  struct Block {
    std::string idstr = {};
    uint64_t page_size = 0;  // a power of two
    uint64_t pages = 0;
    std::vector<Stretch> stretches = {};  // in ascending order, with at least a run between them

    // Of run number `run`; nullopt if it has none.
    std::optional<uint32_t> Find(uint64_t run) const;
    friend bool operator==(const Block&, const Block&) = default;
  };
  uint64_t snapshot_digest = 0;
  uint64_t pages_per_run = kPagesPerRun;
  std::vector<Block> blocks = {};  // those of the snapshot, in its order

  // How many runs have a sum.
  uint64_t runs() const;
  friend bool operator==(const Checksums&, const Checksums&) = default;
};

std::string EncodeChecksums(const Checksums& checksums);

// Takes any bytes: what it allocates is no more than 64 times their number. InvalidArgument: they
// are no checksums, or of a later version; DataLoss: damaged ones.
absl::StatusOr<Checksums> DecodeChecksums(absl::string_view bytes);

// Decodes the file `path`; the message names it.
absl::StatusOr<Checksums> ReadChecksums(const std::string& path);

// Writes them to the disk, into a file that has nothing yet and is there once it is published.
absl::Status StageChecksums(const Checksums& checksums, const NewFile& file);

// Of all of a snapshot's pages, which are read on several threads (page_walk.h). Cancelled:
// `cancelled`, which any of them asks every now and then, said so. REQUIRES: no bitmap was taken.
absl::StatusOr<Checksums> ComputeChecksums(const Snapshot& snapshot, unsigned threads = 0,
                                           const std::function<bool()>& cancelled = nullptr);

// As ComputeChecksums(), from sums already known: crcs[block][run]. Entries of runs without pages
// are ignored.
absl::StatusOr<Checksums> AssembleChecksums(const Snapshot& snapshot,
                                            absl::Span<const std::vector<uint32_t>> crcs);

// Checksums bound to the snapshot that they are of. Immutable, so for any number of threads.
class BoundChecksums {
 public:
  // FailedPrecondition: they are of another snapshot. DataLoss, Unavailable: it cannot be read.
  // REQUIRES: no bitmap of it was taken; it may be afterwards.
  static absl::StatusOr<BoundChecksums> Bind(Checksums checksums, const Snapshot& snapshot);
  // Those of the file `path`, which all messages name; also fails where ReadChecksums() does.
  static absl::StatusOr<BoundChecksums> Read(const std::string& path, const Snapshot& snapshot);

  const Checksums& checksums() const { return checksums_; }

  // Whether `buffer` holds what bytes [offset, offset + buffer.size()) of block number `block` had
  // in them when the sums were made. Of runs that lie in it in part, the rest is read from
  // `source`, into memory that stays the thread's. DataLoss: a sum is wrong; the message has the
  // snapshot's name, block and pages. Also fails where `source` does.
  absl::Status Check(const PageSource& source, size_t block, uint64_t offset,
                     absl::Span<const uint8_t> buffer) const;

 private:
  BoundChecksums(Checksums checksums, const Snapshot& snapshot);
  absl::Status CheckRun(const PageSource& source, size_t block, uint64_t run, uint64_t offset,
                        absl::Span<const uint8_t> buffer) const;

  Checksums checksums_;
  std::string name_;                 // of the snapshot's file
  std::vector<PageBitmap> nonzero_;  // as the file has them
};

// A source that gives no page whose checksum is wrong: such a read fails, as one of a damaged file
// does.
class CheckedSource : public PageSource {
 public:
  // Both outlive it.
  CheckedSource(const PageSource& source, const BoundChecksums& checksums)
      : source_(source), checksums_(checksums) {}

  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override;
  // Waits for a disk where a run of pages is not all in the bytes.
  absl::Status ReadCached(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override;
  bool BeginRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                 absl::Span<uint8_t> buffer) const override {
    return source_.BeginRead(queue, slot, block, offset, buffer);
  }
  absl::Status EndRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                       absl::Span<uint8_t> buffer) const override;
  void Prefetch(size_t block, uint64_t offset, uint64_t length) const override {
    source_.Prefetch(block, offset, length);
  }
  uint64_t CachedBytes(size_t block, uint64_t offset, uint64_t length) const override {
    return source_.CachedBytes(block, offset, length);
  }

 private:
  const PageSource& source_;
  const BoundChecksums& checksums_;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_CHECKSUMS_H_
