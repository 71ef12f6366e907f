#include "mappedram/page_walk.h"

#include <algorithm>
#include <optional>

#include "absl/synchronization/mutex.h"
#include "mappedram/aligned_buffer.h"
#include "mappedram/parallel.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {
namespace {

// The next step from `at` on, which moves behind it; nullopt at the end.
std::optional<WalkStep> Next(const Snapshot& snapshot, WalkStep& at) {
  for (; at.block < snapshot.blocks().size(); at = {.block = at.block + 1}) {
    const PageBitmap& nonzero = snapshot.nonzero(at.block);
    if (at.pages.first >= nonzero.size()) continue;
    const auto run = nonzero.FindRun(true, at.pages.first, nonzero.size());
    if (!run.has_value()) continue;
    const uint64_t first = run->first / kWalkPages * kWalkPages;
    const WalkStep step = {at.block, {first, std::min(kWalkPages, nonzero.size() - first)}};
    at.pages.first = step.pages.end();
    return step;
  }
  return std::nullopt;
}

}  // namespace

absl::Status WalkPages(const Snapshot& snapshot, unsigned threads, WalkFunction step) {
  uint64_t page_size = 0;
  for (const SnapshotBlock& block : snapshot.blocks()) {
    page_size = std::max(page_size, block.page_size);
  }
  absl::Mutex mu;  // guards the two that follow
  WalkStep at;
  absl::Status status;
  RunOnThreads(ThreadCount(threads), [&] {
    AlignedBuffer buffer(kWalkPages * page_size);
    while (true) {
      std::optional<WalkStep> next;
      {
        const absl::MutexLock lock(&mu);
        if (!buffer.valid()) status.Update(absl::ResourceExhaustedError("no memory for a buffer"));
        if (status.ok()) next = Next(snapshot, at);
      }
      if (!next.has_value()) return;
      const uint64_t bytes = next->pages.count * snapshot.blocks()[next->block].page_size;
      if (absl::Status done = step(*next, buffer.first(bytes)); !done.ok()) {
        const absl::MutexLock lock(&mu);
        status.Update(done);
      }
    }
  });
  return status;
}

absl::Status ReadStep(const Snapshot& snapshot, const PageSource& source, const WalkStep& step,
                      absl::Span<uint8_t> buffer) {
  const uint64_t page_size = snapshot.blocks()[step.block].page_size;
  const PageBitmap& nonzero = snapshot.nonzero(step.block);
  for (auto run = nonzero.FindRun(true, step.pages.first, step.pages.end()); run.has_value();
       run = nonzero.FindRun(true, run->end(), step.pages.end())) {
    absl::Status read = source.ReadPages(
        step.block, run->first * page_size,
        buffer.subspan((run->first - step.pages.first) * page_size, run->count * page_size));
    if (!read.ok()) return read;
  }
  return absl::OkStatus();
}

}  // namespace ramjet
