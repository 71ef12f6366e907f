// Reads every page that a snapshot has, on several threads.
#ifndef RAMJET_MAPPEDRAM_PAGE_WALK_H_
#define RAMJET_MAPPEDRAM_PAGE_WALK_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"

namespace ramjet {

// What is walked in one step: pages of one block, the first of them a multiple of `kWalkPages`.
struct WalkStep {
  size_t block = 0;
  PageRun pages = {};
};
constexpr uint64_t kWalkPages = 512;

// Calls `step` for every stretch of kWalkPages in `snapshot` that has nonzero pages, from several
// threads at once and in no order, until one fails; returns the first failure. `buffer` belongs to
// the thread, is aligned for direct reads and holds all pages of the step. `threads`: 0 for as many
// as suit the machine.
using WalkFunction =
    absl::FunctionRef<absl::Status(const WalkStep& step, absl::Span<uint8_t> buffer)>;
absl::Status WalkPages(const Snapshot& snapshot, unsigned threads, WalkFunction step);

// Reads the nonzero pages of `step` from `source` to their places in `buffer`, in single reads as
// long as they are. The places of other pages are left as they are.
absl::Status ReadStep(const Snapshot& snapshot, const PageSource& source, const WalkStep& step,
                      absl::Span<uint8_t> buffer);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_PAGE_WALK_H_
