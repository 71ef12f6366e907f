// The bytes of a small snapshot to damage, and what is expected of Snapshot then.
#ifndef RAMJET_TESTS_MAPPEDRAM_BYTES_H_
#define RAMJET_TESTS_MAPPEDRAM_BYTES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "mappedram/snapshot_description.h"
#include "tests/mappedram_testing.h"

namespace ramjet {

// The bytes of SmallContent() or another, and where in them things are.
class Bytes {
 public:
  explicit Bytes(const SnapshotContent& content = SmallContent());

  const std::string& get() const { return bytes_; }
  const SnapshotDescription& description() const { return description_; }

  uint64_t UsedLengthAt(size_t block) const { return HeaderAt(block) - 8; }
  uint64_t IdstrAt(size_t block) const {
    return UsedLengthAt(block) - description_.blocks[block].idstr.size();
  }
  // The 28 bytes in front of the bitmap: version, page_size, bitmap_offset, pages_offset.
  uint64_t HeaderAt(size_t block) const { return description_.blocks[block].bitmap_offset - 28; }
  uint64_t PageSizeAt(size_t block) const { return HeaderAt(block) + 4; }
  uint64_t BitmapOffsetAt(size_t block) const { return HeaderAt(block) + 12; }
  uint64_t PagesOffsetAt(size_t block) const { return HeaderAt(block) + 20; }
  uint64_t TotalAt() const { return IdstrAt(0) - 1 - 8; }
  uint64_t RamStartAt() const { return TotalAt() - (1 + 4 + 1 + 3 + 4 + 4); }
  // Of the value behind the last block's pages.
  uint64_t RamEndOfSectionAt() const { return description_.blocks.back().pages_end(); }
  // PART and END follow, 18 bytes each.
  uint64_t PartAt() const { return RamEndOfSectionAt() + 8 + 5; }
  uint64_t EndAt() const { return PartAt() + 18; }
  uint64_t DeviceAt(size_t device) const {
    const DeviceSection& section = description_.devices[device];
    return section.offset - (1 + 4 + 1 + section.name.size() + 4 + 4);
  }
  uint64_t VmdescAt() const { return description_.eof_offset + 1; }
  uint64_t Find(const std::string& text) const;

  Bytes& Set(uint64_t offset, const std::string& replacement) {
    Patch(bytes_, offset, replacement);
    return *this;
  }
  Bytes& Set8(uint64_t offset, uint8_t value) { return Set(offset, BigEndian(value, 1)); }
  Bytes& Set32(uint64_t offset, uint32_t value) { return Set(offset, BigEndian(value, 4)); }
  Bytes& Set64(uint64_t offset, uint64_t value) { return Set(offset, BigEndian(value, 8)); }
  Bytes& Insert(uint64_t offset, const std::string& text) {
    bytes_.insert(offset, text);
    return *this;
  }
  Bytes& Cut(uint64_t length) {
    bytes_.resize(length);
    return *this;
  }

 private:
  std::string bytes_;
  SnapshotDescription description_;
};

// Expects Describe and Open to refuse `bytes` with `message` behind the file's name.
void ExpectRefused(const Bytes& bytes, const std::string& message,
                   absl::StatusCode code = absl::StatusCode::kDataLoss);

// Expects Describe to tell of an incomplete file, and Open to refuse it, with `message`.
SnapshotDescription ExpectIncomplete(const std::string& bytes, const std::string& message);

}  // namespace ramjet

#endif  // RAMJET_TESTS_MAPPEDRAM_BYTES_H_
