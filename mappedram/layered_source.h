// RAM in several files, of which each says only what is other than in the next.
#ifndef RAMJET_MAPPEDRAM_LAYERED_SOURCE_H_
#define RAMJET_MAPPEDRAM_LAYERED_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mappedram/file.h"
#include "mappedram/ram_source.h"

namespace ramjet {

// What Firecracker's diff snapshots are: a hole, and what is behind a layer's end, means "as in the
// layer below", and zero in the lowest. Written zeros are zeros.
class LayeredSource : public RamSource {
 public:
  // `files`, the topmost first, outlive the source. REQUIRES: at least one.
  // `begin` is where in each of them the block begins.
  LayeredSource(const std::vector<const File*>& files, uint64_t begin);

  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override;
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override;

 private:
  absl::Status ReadFrom(size_t layer, uint64_t offset, absl::Span<uint8_t> buffer) const;

  std::vector<FileSource> layers_;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_LAYERED_SOURCE_H_
