// The pages that a guest needs first, in the order in which it touched them: recorded in one run,
// loaded first in the next.
//
// The file, as a grammar. Numbers are little-endian; varint is LEB128 (seven bits a byte, the
// lowest first, the top bit set in all but the last).
//
//   file    = "ramjetWS" u32:1 u64:digest blocks runs u32:crc     crc: CRC-32C of all before it
//   blocks  = varint:n n*block                             the n blocks that runs belong to
//   block   = varint:length idstr[length] varint:page_size varint:pages
//   runs    = varint:n n*run                               in order of first touch
//   run     = varint:(pages << 1 | other) [varint:block] varint:zigzag(first - expected)
//
// A run whose `other` is 1 names its block; the first run's is block 0 otherwise, any other's that
// of the run before. `expected` is where the block's last run ended, 0 at first;
// zigzag(d) = d << 1 ^ d >> 63. No page is in two runs. The digest is that of the snapshot
// (mappedram/snapshot_digest.h), whose pages these are.
//
// For example, page 5, and then pages 2 and 3, of a block "ram" of 32 pages of 4 KiB:
//
//     0  72 61 6d 6a 65 74 57 53  01 00 00 00       "ramjetWS", 1
//     c  88 77 66 55 44 33 22 11                    digest 0x1122334455667788
//    14  01  03 "ram" 80 20 20                      one block: page_size 4096, 32 pages
//    1c  02  02 0a  04 07                           two runs: 1 page at +5; 2 pages at 6 - 4
//    21  (crc)
#ifndef RAMJET_LOADER_WORKING_SET_H_
#define RAMJET_LOADER_WORKING_SET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// Threads: a value like any other.
struct WorkingSet {
  struct Block {
    std::string idstr;
    uint64_t page_size = 0;  // a power of two
    uint64_t pages = 0;      // of the whole block
    friend bool operator==(const Block&, const Block&) = default;
  };
  struct Run {
    size_t block = 0;  // its index in `blocks`
    PageRun pages;
    friend bool operator==(const Run&, const Run&) = default;
  };
  uint64_t snapshot_digest = 0;
  std::vector<Block> blocks;
  std::vector<Run> runs;  // in order of first touch

  // Adds a run at the end, to the last one if it goes on there. REQUIRES: it is in no run yet.
  void Append(size_t block, PageRun pages);

  uint64_t pages() const;
  uint64_t bytes() const;
  friend bool operator==(const WorkingSet&, const WorkingSet&) = default;
};

std::string EncodeWorkingSet(const WorkingSet& set);

// Takes any bytes: what it allocates is no more than 64 times their number. InvalidArgument: they
// are no working set, or one of a later version; DataLoss: a damaged one. That a page stands twice
// in it is not noticed, because loading does not mind.
absl::StatusOr<WorkingSet> DecodeWorkingSet(absl::string_view bytes);

// For a caller that counts pages: DataLoss if one stands twice in the set. Takes longer than to
// decode it.
absl::Status CheckDisjoint(const WorkingSet& set);

// Decodes the file `path`; the message names it. Also fails where it cannot be read, or is larger
// than 1 GiB.
absl::StatusOr<WorkingSet> ReadWorkingSet(const std::string& path);

// The union of `sets`: pages that are in the most sets first, and among those the ones that were
// touched the earliest, by the mean of their ranks. Pages that are neighbours in all of their sets
// stay together. InvalidArgument: there is no set, or they are of different snapshots.
absl::StatusOr<WorkingSet> MergeWorkingSets(absl::Span<const WorkingSet> sets);

}  // namespace ramjet

#endif  // RAMJET_LOADER_WORKING_SET_H_
