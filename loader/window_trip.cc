// page_loader.cc has the page's trip, of which this is the same for many pages at once.
//
// Ahead of need a window, too, is read first and claimed when it is there. Two kinds are claimed
// before they are read: a window that a thread waits for; and one of a working set, if the page
// cache holds it, or the set has so much of it that one read of all is the shorter way from a disk.
// The guest is about to touch it, and given its first page alone, the window could not come as a
// huge page any more, and would cost several times as much. So a thread that touches it waits for
// the whole. It comes next, or the fault thread takes the claim over. A discard may then come
// between claim and install, as for a faulted page, and the last look is at `received`. What of a
// claimed window cannot be had is given back, and put back into the eager queue: the threads that
// load ahead passed it by while it was claimed.
#include "loader/window_trip.h"

#include "loader/run_reader.h"

namespace ramjet {

bool WindowTrip::TouchInTurn(HugeStaging& staging) const {
  bool touched = false;
  parts_.bulk.InTurn([&] { touched = staging.Touch(); });
  return touched;
}

void WindowTrip::LoadAhead(RamBlock& block, PageRun run, HugeStaging& staging,
                           std::atomic<uint64_t>* extra_counter) {
  staging.PlaceFor(block.AddrOf(run.first));
  const absl::Status read = ReadStored(parts_.bulk, block, run, staging.memory().data());
  InstallAhead(block, run, read, staging, extra_counter);
}

bool WindowTrip::BeginAhead(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue,
                            size_t slot) const {
  const RamBlock& block = *queued.block;
  staging.PlaceFor(block.AddrOf(queued.run.first));
  if (!staging.placed()) return false;
  const auto content = staging.memory().subspan(
      queued.request.offset - block.BytesOf(queued.run.first), queued.request.length);
  return parts_.bulk.BeginRead(queue, slot, block.index(), queued.request.offset, content);
}

void WindowTrip::EndAhead(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue,
                          size_t slot) {
  const RamBlock& block = *queued.block;
  const auto content = staging.memory().subspan(
      queued.request.offset - block.BytesOf(queued.run.first), queued.request.length);
  const absl::Status read =
      parts_.bulk.EndRead(queue, slot, block.index(), queued.request.offset, content);
  if (read.ok()) ZeroGaps(block, queued.run, queued.request, content.data());
  InstallAhead(*queued.block, queued.run, read, staging,
               read.ok() ? &parts_.stats.queued : nullptr);
}

void WindowTrip::InstallAhead(RamBlock& block, PageRun run, const absl::Status& read,
                              HugeStaging& staging, std::atomic<uint64_t>* extra_counter) {
  uint8_t* const content = staging.memory().data();
  if (!read.ok()) {
    pages_.LoadSingly(block, run, content, extra_counter);
    staging.Renew();
    return;
  }
  Moved moved;
  PageRun claimed{run.first, 0};
  pages_.BeginTrip();
  {
    const InsideGate inside(parts_.gate);
    if (!block.AnyClaimed(run)) claimed.count = block.Claim(run);
    moved = MoveClaimed(block, claimed, staging, {.extra_counter = extra_counter});
  }
  pages_.Wake(block, claimed);
  pages_.EndTrip();
  InstallUnmoved(block, run, moved, staging, extra_counter);
}

std::optional<ClaimedWindow> WindowTrip::Claim(RamBlock& block, PageRun run) {
  if (block.AnyClaimed(run)) return std::nullopt;
  pages_.BeginTrip();
  ClaimedWindow window(this, &block, {run.first, block.Claim(run)});
  if (window.run_.count < run.count) return std::nullopt;
  return window;
}

bool WindowTrip::IsCached(const RamBlock& block, PageRun run) const {
  const uint64_t cached_bytes =
      parts_.bulk.CachedBytes(block.index(), block.BytesOf(run.first), block.BytesOf(run.count));
  return cached_bytes >= block.BytesOf(block.CountNonzero(run));
}

ClaimedWindow::~ClaimedWindow() {
  if (trip_ != nullptr) trip_->GiveBack(*block_, run_);
}

void WindowTrip::GiveBack(RamBlock& block, PageRun run) {
  {
    const InsideGate inside(parts_.gate);
    block.Unclaim(run);
  }
  pages_.Wake(block, run);
  pages_.EndTrip();
}

void WindowTrip::LoadAhead(ClaimedWindow window, HugeStaging& staging,
                           std::atomic<uint64_t>* extra_counter) {
  RamBlock& block = *window.block_;
  const PageRun run = window.run_;
  uint8_t* const content = staging.memory().data();
  staging.PlaceFor(block.AddrOf(run.first));
  if (!ReadStored(parts_.bulk, block, run, content).ok()) {
    { const ClaimedWindow given_back = std::move(window); }
    pages_.LoadSingly(block, run, content, extra_counter);
    staging.Renew();
    return;
  }
  const Moved moved = Move(std::move(window), staging, {.extra_counter = extra_counter});
  InstallUnmoved(block, run, moved, staging, extra_counter);
}

WindowOutcome WindowTrip::LoadFaulted(RamBlock& block, PageRun run, uint64_t page,
                                      HugeStaging& staging, bool even_from_disk) {
  if (block.AnyClaimed(run)) return WindowOutcome::kNotCached;
  const bool cached = IsCached(block, run);
  if (!cached && !even_from_disk) return WindowOutcome::kNotCached;
  // Somebody has asked the disk for just this page and its like, those of a working set, perhaps.
  const PageRun alone{page, 1};
  if (!cached && block.nonzero(page) && IsCached(block, alone)) return WindowOutcome::kNotCached;
  staging.PlaceFor(block.AddrOf(run.first));
  if (!staging.placed()) return WindowOutcome::kNotCached;
  if (!staging.Touch()) return WindowOutcome::kNotCached;
  std::optional<ClaimedWindow> window = Claim(block, run);
  if (!window) return WindowOutcome::kReleased;  // of a part, perhaps
  uint8_t* const content = staging.memory().data();
  // The look above does not tell what is still being read, or which pages it is that are there.
  const absl::Status read =
      cached ? ReadStored(parts_.demand, block, run, content, &PageSource::ReadCached)
             : ReadStored(parts_.demand_bulk, block, run, content);
  return InstallFaulted(*std::move(window), read, staging,
                        {.faulted = block.nonzero(page) ? 1u : 0});
}

WindowOutcome WindowTrip::LoadFaulted(ClaimedWindow window, HugeStaging& staging,
                                      const MoveCounts& counts) {
  staging.PlaceFor(window.block().AddrOf(window.run().first));
  if (!staging.placed()) return WindowOutcome::kReleased;
  absl::Status read = absl::ResourceExhaustedError("");  // nobody sees it
  if (staging.Touch()) {
    read = ReadStored(parts_.demand, window.block(), window.run(), staging.memory().data(),
                      &PageSource::ReadCached);
  }
  return InstallFaulted(std::move(window), read, staging, counts);
}

WindowOutcome WindowTrip::InstallFaulted(ClaimedWindow window, const absl::Status& read,
                                         HugeStaging& staging, const MoveCounts& counts) {
  const uint64_t pages = window.run().count;
  Moved moved;
  if (read.ok()) {
    moved = Move(std::move(window), staging, counts);
  } else {
    const ClaimedWindow given_back = std::move(window);
  }
  if (moved.completed) parts_.progress.Note();
  if (moved.pages == pages) return WindowOutcome::kLoaded;
  // While a mapping is changing, nothing arrives before the event of that is read: by the thread
  // that serves faults, so it must not wait for that here.
  staging.Renew();
  return WindowOutcome::kReleased;
}

WindowTrip::Moved WindowTrip::Move(ClaimedWindow window, HugeStaging& staging,
                                   const MoveCounts& counts) {
  window.trip_ = nullptr;  // what does not move, MoveClaimed() gives back
  Moved moved;
  {
    const InsideGate inside(parts_.gate);
    moved = MoveClaimed(*window.block_, window.run_, staging, counts);
  }
  pages_.Wake(*window.block_, window.run_);
  pages_.EndTrip();
  return moved;
}

// What the huge page did not take goes the ordinary way, from where it lies.
void WindowTrip::InstallUnmoved(RamBlock& block, PageRun run, const Moved& moved,
                                HugeStaging& staging, std::atomic<uint64_t>* extra_counter) {
  if (moved.completed) parts_.progress.Note();
  if (moved.pages == run.count) return;
  const PageRun rest{run.first + moved.pages, run.count - moved.pages};
  pages_.InstallAhead(block, rest, staging.memory().data() + block.BytesOf(moved.pages),
                      extra_counter);
  staging.Renew();
}

// Moves `claimed` if it is a whole window, of which the kernel takes all, normally; gives back the
// claim to what did not move. With a page of the window there already, the kernel would split the
// huge page and move all others alone. (gate)
WindowTrip::Moved WindowTrip::MoveClaimed(RamBlock& block, PageRun claimed, HugeStaging& staging,
                                          const MoveCounts& counts) {
  Moved moved;
  // Of what was claimed before it was read, something may have been discarded since.
  if (block.BytesOf(claimed.count) == HugeStaging::kBytes && staging.placed() &&
      !block.AnyReceived(claimed)) {
    const Installed installed =
        parts_.uffd.Move(block.AddrOf(claimed.first), staging.memory().data(), HugeStaging::kBytes);
    moved.pages = installed.length / block.page_size();
  }
  if (moved.pages > 0) {
    const uint64_t nonzero = block.CountNonzero({claimed.first, moved.pages});
    const uint64_t faulted = moved.pages == claimed.count ? counts.faulted : 0;
    Count(parts_.stats.faulted, faulted);
    Count(parts_.stats.eager, nonzero - faulted);
    Count(parts_.stats.moved, nonzero);
    if (counts.extra_counter != nullptr) Count(*counts.extra_counter, nonzero);
    moved.completed = block.MarkReceived({claimed.first, moved.pages});
  }
  block.Unclaim({claimed.first + moved.pages, claimed.count - moved.pages});
  return moved;
}

}  // namespace ramjet
