#include "loader/run_reader.h"

#include <algorithm>
#include <cstring>

namespace ramjet {

absl::Status ReadStored(const PageSource& source, const RamBlock& block, PageRun run,
                        uint8_t* content, ReadWay way) {
  const uint64_t start = block.BytesOf(run.first);
  for (auto extent = block.FindStored(run, start); extent.length > 0;) {
    const uint64_t first = extent.offset;
    uint64_t end = extent.end();
    RamBlock::Extent next = block.FindStored(run, end);
    for (; next.length > 0 && next.offset - end <= kMaxReadGapBytes;
         next = block.FindStored(run, end)) {
      end = next.end();
    }
    absl::Status read =
        (source.*way)(block.index(), first, absl::MakeSpan(content + (first - start), end - first));
    if (!read.ok()) return read;
    // What the file holds where it should hold nothing may be anything.
    for (uint64_t filled = extent.end(); filled < end; filled = extent.end()) {
      extent = block.FindStored(run, filled);
      const uint64_t gap_end = extent.length > 0 ? std::min(extent.offset, end) : end;
      std::memset(content + (filled - start), 0, gap_end - filled);
      if (extent.length == 0) break;
    }
    extent = next;
  }
  return absl::OkStatus();
}

absl::Status ReadRun(const PageSource& source, const RamBlock& block, PageRun run,
                     uint8_t* content) {
  const uint64_t start = block.BytesOf(run.first);
  uint64_t filled = start;
  for (auto extent = block.FindStored(run, start); extent.length > 0;
       extent = block.FindStored(run, extent.end())) {
    std::memset(content + (filled - start), 0, extent.offset - filled);
    filled = extent.end();
  }
  std::memset(content + (filled - start), 0, block.BytesOf(run.end()) - filled);
  return ReadStored(source, block, run, content);
}

}  // namespace ramjet
