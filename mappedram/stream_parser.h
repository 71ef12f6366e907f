// Walks a migration stream from its magic number to its end.
#ifndef RAMJET_MAPPEDRAM_STREAM_PARSER_H_
#define RAMJET_MAPPEDRAM_STREAM_PARSER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "mappedram/file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

struct ParsedStream {
  SnapshotDescription description;
  std::vector<PageBitmap> nonzero;  // of description.blocks
};

// Reads and checks the stream which begins at `stream_offset`, as Snapshot::Describe promises. A
// file that ends too early, but behind its list of RAM blocks, is told by description.complete; its
// bitmaps are to be counted, not trusted.
absl::StatusOr<ParsedStream> ParseStream(const File& file, uint64_t stream_offset);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_STREAM_PARSER_H_
