#include "mappedram/snapshot_digest.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace ramjet {
namespace {

constexpr uint64_t kChunkBytes = 256 << 10;  // a multiple of a word

// A hash of 64-bit words: each is mixed in by a multiplication, whose high bits are folded back.
class Digest {
 public:
  void Add(uint64_t word) {
    state_ = (state_ ^ word) * 0x9e3779b97f4a7c15;
    state_ ^= state_ >> 32;
  }
  // In words of the machine, the last one filled up with zeros; the caller adds the length.
  void Add(absl::Span<const uint8_t> bytes) {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), sizeof(uint64_t)))) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data(), std::min(bytes.size(), sizeof(word)));
      Add(word);
    }
  }
  void Add(const std::string& text) {
    Add(text.size());
    Add(absl::MakeSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0;
};

}  // namespace

absl::StatusOr<uint64_t> DigestSnapshot(const Snapshot& snapshot) {
  Digest digest;
  std::vector<uint8_t> buffer(kChunkBytes);
  const auto add_file = [&](uint64_t offset, uint64_t length) {
    digest.Add(length);
    for (uint64_t done = 0; done < length;) {
      const auto chunk =
          absl::MakeSpan(buffer).first(std::min<uint64_t>(buffer.size(), length - done));
      absl::Status read = snapshot.file().ReadAt(offset + done, chunk);
      if (!read.ok()) return read;
      digest.Add(absl::MakeConstSpan(chunk));
      done += chunk.size();
    }
    return absl::OkStatus();
  };

  absl::Status status;
  for (const SnapshotBlock& block : snapshot.blocks()) {
    digest.Add(block.idstr);
    digest.Add(block.used_length);
    digest.Add(block.page_size);
    if (!block.in_file()) continue;
    const uint64_t words =
        (block.pages() + PageBitmap::kPagesPerWord - 1) / PageBitmap::kPagesPerWord;
    status.Update(add_file(block.bitmap_offset, words * sizeof(uint64_t)));
  }
  for (const DeviceSection& device : snapshot.description().devices) {
    digest.Add(device.name);
    digest.Add(device.instance_id);
    digest.Add(device.version_id);
    status.Update(add_file(device.offset, device.size));
  }
  status.Update(snapshot.file().CheckUnchanged());
  if (!status.ok()) return status;
  return digest.value();
}

}  // namespace ramjet
