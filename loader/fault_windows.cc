#include "loader/fault_windows.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/status/statusor.h"
#include "loader/huge_window.h"

namespace ramjet {
namespace {

// A disk brings a page in a tenth of the time that it takes for a window. A guest that has asked
// for so many pages, which had to come alone, is going on to ask...
constexpr int kEnoughAlone = 16;
// ...and is given windows from a disk, too: unless more threads than these wait, to whom a page
// each comes sooner,
constexpr size_t kMaxWaiting = 2;
// or a window has taken longer than this. Then it is the turn of pages again.
constexpr uint64_t kMaxDiskNs = 4'000'000;

}  // namespace

FaultWindows::FaultWindows(const Parts& parts) : parts_(parts) {
  absl::StatusOr<HugeStaging> staging = HugeStaging::Create();
  if (staging.ok()) staging_.emplace(*std::move(staging));
}

void FaultWindows::TouchAhead() {
  if (std::exchange(staging_spent_, false) && staging_->fit()) (void)staging_->Touch();
}

void FaultWindows::BeginBatch(size_t faults) { crowded_ = faults > kMaxWaiting; }

bool FaultWindows::MayComeFromDisk() const { return came_alone_ == kEnoughAlone && !crowded_; }

FaultWindows::Offered FaultWindows::Offer(absl::Span<const Fault> faults) {
  Offered offered;
  if (faults.size() < 2 || !HaveStaging()) return offered;
  const Fault& first = faults[0];
  for (size_t i = 1; i < std::min(faults.size(), offered.size()); ++i) {
    const Fault& fault = faults[i];
    if (fault.block == nullptr) continue;
    RamBlock& block = *fault.block;
    const PageRun window = WindowOf(block, fault.page);
    const bool is_first =
        &block == first.block && WindowOf(block, first.page).first == window.first;
    // A page of zeros is not to be had alone by a thread that loads ahead, if the window cannot be.
    if (is_first || !block.nonzero(fault.page) || block.AnyClaimed(window) ||
        !parts_.policy.WantsWhole(block, window) || !parts_.trip.IsCached(block, window)) {
      continue;
    }
    std::optional<ClaimedWindow> claim = parts_.trip.Claim(block, window);
    offered[i] = claim && parts_.offers.Give({*std::move(claim), fault.page, fault.read_ns});
    // Part of it was claimed, perhaps, and for a moment, in which those that load ahead passed by.
    if (!offered[i]) parts_.queue.PutBack(block, window);
  }
  return offered;
}

bool FaultWindows::LoadOffered(const Fault& fault) {
  RamBlock& block = *fault.block;
  std::optional<WaitedWindow> waited = parts_.offers.Take(block, WindowOf(block, fault.page).first);
  if (!waited) {  // somebody brings it, or has brought it
    parts_.stats.in_flight.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  const PageRun window = waited->window.run();
  if (HaveStaging() && parts_.trip.LoadFaulted(std::move(waited->window), *staging_,
                                               {.faulted = 1}) == WindowOutcome::kLoaded) {
    parts_.stats.AddWindow(MonotonicNs() - waited->read_ns);
    return true;
  }
  waited.reset();  // gives it back
  parts_.queue.PutBack(block, window);
  return false;
}

bool FaultWindows::Load(const Fault& fault) {
  RamBlock& block = *fault.block;
  const PageRun window = WindowOf(block, fault.page);
  if (!parts_.policy.WantsWhole(block, window) || !HaveStaging()) return false;
  const uint64_t begun_ns = MonotonicNs();
  const bool pending = block.pending(fault.page);
  switch (LoadOrTakeOver(block, window, fault.page)) {
    case WindowOutcome::kLoaded: {
      const uint64_t now_ns = MonotonicNs();
      staging_spent_ = true;
      if (now_ns - begun_ns > kMaxDiskNs) came_alone_ = 0;
      parts_.stats.AddWindow(now_ns - fault.read_ns);
      return true;
    }
    case WindowOutcome::kNotCached:
      if (pending) came_alone_ = std::min(came_alone_ + 1, kEnoughAlone);
      return false;
    case WindowOutcome::kReleased:
      parts_.queue.PutBack(block, window);
      return false;
  }
  return false;
}

WindowOutcome FaultWindows::LoadOrTakeOver(RamBlock& block, PageRun window, uint64_t page) {
  if (block.pending(page)) {
    return parts_.trip.LoadFaulted(block, window, page, *staging_, MayComeFromDisk());
  }
  // One of a working set, perhaps, that nobody has begun to read.
  if (block.received(page) || !parts_.trip.IsCached(block, window)) {
    return WindowOutcome::kNotCached;
  }
  std::optional<ClaimedWindow> claim = parts_.queue.priority().TryTakeClaim(block, window);
  if (!claim) return WindowOutcome::kNotCached;
  parts_.stats.in_flight.fetch_add(1, std::memory_order_relaxed);
  return parts_.trip.LoadFaulted(*std::move(claim), *staging_,
                                 {.extra_counter = &parts_.stats.working_set});
}

}  // namespace ramjet
