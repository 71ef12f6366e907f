// Where the content of a RAM block that is to be written comes from.
#ifndef RAMJET_MAPPEDRAM_RAM_SOURCE_H_
#define RAMJET_MAPPEDRAM_RAM_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"

namespace ramjet {

// The bytes of one block, and which of them are zero without a look at them. It has as many as who
// reads it asks for: each implementation says what it is beyond its end.
//
// Threads: const methods may be called by any number of threads at once.
class RamSource {
 public:
  // Bytes [offset, offset + length).
  struct Extent {
    uint64_t offset = 0;
    uint64_t length = 0;

    uint64_t end() const { return offset + length; }
  };

  virtual ~RamSource() = default;

  // The first extent that begins at or after `offset`, before `limit`, and may hold anything but
  // zeros, cut off at `limit`. nullopt: all of [offset, limit) is zero. Extents need not begin or
  // end with a page, nor be as long as they could. REQUIRES: offset < limit.
  virtual absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset,
                                                           uint64_t limit) const = 0;

  // Fills all of `buffer` from `offset`, zeros among it included, or fails.
  virtual absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const = 0;

  // The bytes themselves, where they lie in memory: then nobody calls Read(). Else null.
  virtual const uint8_t* memory() const { return nullptr; }
};

// Memory, which belongs to the caller and does not change until it is written. REQUIRES: it is as
// long as its block.
class MemorySource : public RamSource {
 public:
  explicit MemorySource(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override;
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override;
  const uint8_t* memory() const override { return bytes_.data(); }

 private:
  const absl::Span<const uint8_t> bytes_;
};

// A file from `begin` on: holes, and all beyond its end, are zero.
class FileSource : public RamSource {
 public:
  // `file` outlives the source.
  FileSource(const File& file, uint64_t begin) : file_(file), begin_(begin) {}

  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override;
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override;

 private:
  const File& file_;
  const uint64_t begin_;
};

// A block of a snapshot. REQUIRES: it is in its file, and its bitmap has not been taken. `snapshot`
// outlives the source.
class SnapshotSource : public RamSource {
 public:
  SnapshotSource(const Snapshot& snapshot, size_t block) : snapshot_(snapshot), block_(block) {}

  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override;
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override;

 private:
  const Snapshot& snapshot_;
  const size_t block_;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_RAM_SOURCE_H_
