#include "loader/run_reader.h"

#include <algorithm>
#include <cstring>

namespace ramjet {

RamBlock::Extent NextRequest(const RamBlock& block, PageRun run, uint64_t offset) {
  RamBlock::Extent request = block.FindStored(run, offset);
  if (request.length == 0) return request;
  for (auto next = block.FindStored(run, request.end());
       next.length > 0 && next.offset - request.end() <= kMaxReadGapBytes;
       next = block.FindStored(run, request.end())) {
    request.length = next.end() - request.offset;
  }
  return request;
}

std::optional<RamBlock::Extent> OnlyRequest(const RamBlock& block, PageRun run) {
  const RamBlock::Extent request = NextRequest(block, run, block.BytesOf(run.first));
  const bool is_only = request.length > 0 && NextRequest(block, run, request.end()).length == 0;
  return is_only ? std::make_optional(request) : std::nullopt;
}

void ZeroGaps(const RamBlock& block, PageRun run, const RamBlock::Extent& request,
              uint8_t* content) {
  for (uint64_t filled = request.offset; filled < request.end();) {
    const RamBlock::Extent extent = block.FindStored(run, filled);
    const uint64_t gap_end =
        extent.length > 0 ? std::min(extent.offset, request.end()) : request.end();
    std::memset(content + (filled - request.offset), 0, gap_end - filled);
    filled = extent.length > 0 ? extent.end() : gap_end;
  }
}

absl::Status ReadStored(const PageSource& source, const RamBlock& block, PageRun run,
                        uint8_t* content, ReadWay way) {
  const uint64_t start = block.BytesOf(run.first);
  for (auto request = NextRequest(block, run, start); request.length > 0;
       request = NextRequest(block, run, request.end())) {
    uint8_t* const to = content + (request.offset - start);
    absl::Status read =
        (source.*way)(block.index(), request.offset, absl::MakeSpan(to, request.length));
    if (!read.ok()) return read;
    ZeroGaps(block, run, request, to);
  }
  return absl::OkStatus();
}

absl::Status ReadRun(const PageSource& source, const RamBlock& block, PageRun run,
                     uint8_t* content) {
  const uint64_t start = block.BytesOf(run.first);
  const RamBlock::Extent first = block.FindStored(run, start);
  // As of every single page with content: nothing else is to be asked.
  if (first.offset == start && first.length == block.BytesOf(run.count)) {
    return source.ReadPages(block.index(), start, absl::MakeSpan(content, first.length));
  }
  uint64_t filled = start;
  for (auto extent = first; extent.length > 0; extent = block.FindStored(run, extent.end())) {
    std::memset(content + (filled - start), 0, extent.offset - filled);
    filled = extent.end();
  }
  std::memset(content + (filled - start), 0, block.BytesOf(run.end()) - filled);
  return ReadStored(source, block, run, content);
}

}  // namespace ramjet
