#include "loader/read_block.h"

#include <algorithm>
#include <cstring>

#include "mappedram/zero_scan.h"

namespace ramjet {
namespace {

constexpr uint64_t kClearBytes = 4096;  // at a time; no system's pages are smaller

// Makes zero what is not, without touching what is.
void ClearUnlessZero(absl::Span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const absl::Span<uint8_t> page = bytes.first(std::min<uint64_t>(kClearBytes, bytes.size()));
    if (!IsZero(page)) std::memset(page.data(), 0, page.size());
    bytes.remove_prefix(page.size());
  }
}

}  // namespace

absl::Status ReadBlock(const PageSource& source, const SnapshotBlock& block, size_t index,
                       const PageBitmap& nonzero, absl::Span<uint8_t> to) {
  uint64_t done = 0;
  for (auto run = nonzero.FindRun(true, 0, nonzero.size()); run;
       run = nonzero.FindRun(true, run->end(), nonzero.size())) {
    const uint64_t offset = run->first * block.page_size;
    const uint64_t length = run->count * block.page_size;
    ClearUnlessZero(to.subspan(done, offset - done));
    absl::Status read = source.ReadPages(index, offset, to.subspan(offset, length));
    if (!read.ok()) return read;
    done = offset + length;
  }
  ClearUnlessZero(to.subspan(done, block.used_length - done));
  return absl::OkStatus();
}

}  // namespace ramjet
