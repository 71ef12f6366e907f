#include "loader/window_loader.h"

#include <algorithm>
#include <utility>

#include "loader/run_reader.h"

namespace ramjet {
namespace {

// More would leave the processor's second-level cache between its reading and its copying.
constexpr uint64_t kMaxRunBytes = 256 << 10;

}  // namespace

void WindowLoader::LoadWindow(EagerQueue::Window window) {
  RamBlock& block = *window.block;
  const PageRun run = window.run;
  if (window.claim && !HaveStaging()) {
    window.claim.reset();
    queue_.PutBack(block, run);  // others may have passed by while it was claimed
  } else if (window.claim) {
    trip_.LoadAhead(*std::move(window.claim), *staging_, &stats_.working_set);
    PutBackUnread(block, run);
  } else if (huge_pages_.DecideIsHuge(block, run) && !block.AnyClaimed(run) && HaveStaging()) {
    if (BeginInTime(block, run)) return;
    trip_.LoadAhead(block, run, *staging_);
    PutBackUnread(block, run);
  } else {
    LoadRuns(block, run);  // where something is there already, it cannot arrive whole
  }
  if (begun_ > 0) EndOldest();  // which has been on its way for as long as this took
}

// False: it cannot begin, whatever is under way. REQUIRES: HaveStaging().
bool WindowLoader::BeginInTime(RamBlock& block, PageRun run) {
  const std::optional<RamBlock::Extent> request = OnlyRequest(block, run);
  if (!request) return false;
  while (!Begin({&block, run, *request})) {
    if (begun_ == 0) return false;
    EndOldest();  // in whose way it is, perhaps
  }
  return true;
}

bool WindowLoader::Begin(const WindowTrip::QueuedRun& window) {
  if (begun_ == slots_.size()) return false;
  const size_t at = (oldest_ + begun_) % slots_.size();
  if (!trip_.BeginAhead(window, *staging_, reads_, at)) return false;
  slots_[at].window = window;
  slots_[at].staging.swap(staging_);
  ++begun_;
  return true;
}

void WindowLoader::EndOldest() {
  Slot& slot = slots_[oldest_];
  trip_.EndAhead(slot.window, *slot.staging, reads_, oldest_);
  PutBackUnread(*slot.window.block, slot.window.run);
  oldest_ = (oldest_ + 1) % slots_.size();
  --begun_;
}

bool WindowLoader::LoadOffered(WindowOffers& offers) {
  if (loader_.quitting()) return false;
  std::optional<WaitedWindow> waited = offers.Take();
  if (!waited) return false;
  RamBlock& block = waited->window.block();
  const PageRun run = waited->window.run();
  if (HaveStaging() && trip_.LoadFaulted(std::move(waited->window), *staging_, {.faulted = 1}) ==
                           WindowOutcome::kLoaded) {
    stats_.AddWindow(MonotonicNs() - waited->read_ns);
    return true;
  }
  const uint64_t page = waited->page;
  waited.reset();  // gives it back
  queue_.PutBack(block, run);
  LoadRuns(block, {page, 1});
  return true;
}

void WindowLoader::LoadRuns(RamBlock& block, PageRun run, std::atomic<uint64_t>* extra_counter) {
  if (!HaveBuffer(block.page_size())) return PutBackUnread(block, run);
  const uint64_t most_pages = std::max<uint64_t>(1, kMaxRunBytes / block.page_size());
  const uint64_t most_between = kMaxReadGapBytes / block.page_size();
  for (PageRun next = block.FindPending(run.first, run.end()); next.count > 0;) {
    // As far as it is worth reading in one go: what lies between is there, or zero.
    PageRun piece = next;
    for (; piece.count < most_pages && next.count > 0 && next.first <= piece.end() + most_between;
         next = block.FindPending(piece.end(), run.end())) {
      piece.count = next.end() - piece.first;
    }
    piece.count = std::min(piece.count, most_pages);
    loader_.LoadAhead(block, piece, *buffer_, extra_counter, short_of_memory_);
    next = block.FindPending(piece.end(), run.end());
  }
  PutBackUnread(block, run);
}

// What could not be had comes in a later round.
void WindowLoader::PutBackUnread(const RamBlock& block, PageRun run) {
  const PageRun unread = block.FindPending(run.first, run.end());
  if (unread.count > 0 && !loader_.quitting()) queue_.PutBackForLater(block, unread);
}

bool WindowLoader::HaveStaging() {
  if (staging_ && !staging_->fit()) staging_.reset();
  if (!staging_ && !staging_refused_) {
    absl::StatusOr<HugeStaging> staging = HugeStaging::Create();
    staging_refused_ = !staging.ok();
    if (staging.ok()) staging_.emplace(*std::move(staging));
  }
  if (!staging_) return false;
  short_of_memory_ = !trip_.TouchInTurn(*staging_);
  return !short_of_memory_;
}

// Without it, pages come only when they are touched.
bool WindowLoader::HaveBuffer(uint64_t page_bytes) {
  if (buffer_ && page_bytes <= buffer_->size()) return true;
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(std::max(page_bytes, kMaxRunBytes));
  if (!buffer.ok()) {
    stats_.AddError(buffer.status());
    return false;
  }
  buffer_.emplace(*std::move(buffer));
  return true;
}

}  // namespace ramjet
