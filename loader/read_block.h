// All of a block, read at once: for a process that serves no page faults.
#ifndef RAMJET_LOADER_READ_BLOCK_H_
#define RAMJET_LOADER_READ_BLOCK_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

// Fills `to`, which is block.used_length long, with block number `index`, of which `nonzero` are
// the pages that `source` has. Bytes that are zero already are not written, so that memory which
// nobody has used stays so. After an error anything may be in it. By any thread. Errors are the
// source's.
absl::Status ReadBlock(const PageSource& source, const SnapshotBlock& block, size_t index,
                       const PageBitmap& nonzero, absl::Span<uint8_t> to);

}  // namespace ramjet

#endif  // RAMJET_LOADER_READ_BLOCK_H_
