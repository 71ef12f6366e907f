// What working sets and checksums are bound to their snapshot by.
#ifndef RAMJET_MAPPEDRAM_SNAPSHOT_DIGEST_H_
#define RAMJET_MAPPEDRAM_SNAPSHOT_DIGEST_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "mappedram/snapshot.h"

namespace ramjet {

// A digest of the RAM blocks' names, sizes and bitmaps and of all device state: the same for copies
// of a file, wherever they lie and wherever in the file the stream begins, and another for any
// other save of the same guest. Against mistakes, not against malice.
//
// Reads bitmaps and device state from the file: about a megabyte, and 32 MiB for each TiB of guest.
// DataLoss, Unavailable: the file cannot be read, or has changed.
absl::StatusOr<uint64_t> DigestSnapshot(const Snapshot& snapshot);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_SNAPSHOT_DIGEST_H_
