// What a snapshot has of a run of pages, read into memory in few requests.
#ifndef RAMJET_LOADER_RUN_READER_H_
#define RAMJET_LOADER_RUN_READER_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "loader/ram_block.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"

namespace ramjet {

// What lies between two extents is read along rather than skipped if it is no more than this: to
// read so much takes no longer than to ask a second time.
inline constexpr uint64_t kMaxReadGapBytes = 32 << 10;

// How a source is read: ReadPages() or ReadCached().
using ReadWay = absl::Status (PageSource::*)(size_t, uint64_t, absl::Span<uint8_t>) const;

// The stretch of the block that is to be read next, from `offset` on, for the stored extents of
// `run`; empty: there is none. In bytes.
RamBlock::Extent NextRequest(const RamBlock& block, PageRun run, uint64_t offset);

// The one request that brings all stored extents of `run`; nullopt: there are more, or none. What
// is discarded later leaves gaps in it.
std::optional<RamBlock::Extent> OnlyRequest(const RamBlock& block, PageRun run);

// Zeros what lies between stored extents in `request`, of which `content` is the content: what the
// file holds where it should hold nothing may be anything.
void ZeroGaps(const RamBlock& block, PageRun run, const RamBlock::Extent& request,
              uint8_t* content);

// Fills `content`, run.count pages of it, with the stored extents of `run`; what lies between them
// stays as it was, or is zero. By any thread. Errors are the source's.
absl::Status ReadStored(const PageSource& source, const RamBlock& block, PageRun run,
                        uint8_t* content, ReadWay way = &PageSource::ReadPages);

// The same, and what lies between them is zero: fills all of `content`.
absl::Status ReadRun(const PageSource& source, const RamBlock& block, PageRun run,
                     uint8_t* content);

}  // namespace ramjet

#endif  // RAMJET_LOADER_RUN_READER_H_
