#include "mappedram/layered_source.h"

#include <algorithm>

namespace ramjet {

LayeredSource::LayeredSource(const std::vector<const File*>& files, uint64_t begin) {
  for (const File* file : files) layers_.emplace_back(*file, begin);
}

// That of the layer whose next one begins first; others may go on behind its end.
absl::StatusOr<std::optional<RamSource::Extent>> LayeredSource::NextExtent(uint64_t offset,
                                                                           uint64_t limit) const {
  std::optional<Extent> first;
  for (const FileSource& layer : layers_) {
    absl::StatusOr<std::optional<Extent>> next = layer.NextExtent(offset, limit);
    if (!next.ok()) return next;
    if (next->has_value() && (!first || (*next)->offset < first->offset)) first = *next;
  }
  return first;
}

absl::Status LayeredSource::Read(uint64_t offset, absl::Span<uint8_t> buffer) const {
  return ReadFrom(0, offset, buffer);
}

absl::Status LayeredSource::ReadFrom(size_t layer, uint64_t offset,
                                     absl::Span<uint8_t> buffer) const {
  if (layer == layers_.size()) {
    std::fill(buffer.begin(), buffer.end(), uint8_t{0});
    return absl::OkStatus();
  }
  const uint64_t end = offset + buffer.size();
  for (uint64_t at = offset; at < end;) {
    const absl::StatusOr<std::optional<Extent>> extent = layers_[layer].NextExtent(at, end);
    if (!extent.ok()) return extent.status();
    const Extent data = extent->value_or(Extent{end, 0});
    absl::Status read = ReadFrom(layer + 1, at, buffer.subspan(at - offset, data.offset - at));
    if (read.ok() && data.length > 0) {
      read = layers_[layer].Read(data.offset, buffer.subspan(data.offset - offset, data.length));
    }
    if (!read.ok()) return read;
    at = data.end();
  }
  return absl::OkStatus();
}

}  // namespace ramjet
