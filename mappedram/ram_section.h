// The section "ram" of a migration stream: the list of RAM blocks, and their bitmaps.
#ifndef RAMJET_MAPPEDRAM_RAM_SECTION_H_
#define RAMJET_MAPPEDRAM_RAM_SECTION_H_

#include <vector>

#include "absl/status/statusor.h"
#include "mappedram/configuration.h"
#include "mappedram/file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot_description.h"
#include "mappedram/stream.h"

namespace ramjet {

// Reads all blocks and checks every number of theirs, but not that pages and bitmap of the last one
// lie within the file. Leaves `reader`, where the list ends, behind the last block's header.
// Whatever is wrong is in reader.status().
std::vector<SnapshotBlock> ReadBlocks(StreamReader& reader, const Configuration& configuration);

// Reads the bitmap of `block` to where it stays and counts block.nonzero_pages. Of a block which is
// not in the file, or whose bitmap the file is too short for, every bit is clear (and size() is 0
// in the latter case).
absl::StatusOr<PageBitmap> ReadBitmap(const File& file, SnapshotBlock& block);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_RAM_SECTION_H_
