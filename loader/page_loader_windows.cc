// The windows of PageLoader: what is to arrive as one huge page, by moving it. page_loader.cc has
// the page's trip, of which this is the same for many pages at once.
//
// Ahead of need a window, too, is read first and claimed when it is there. Claimed before it is
// read (ClaimWindow()) is one that somebody waits for, and one of a working set that the page cache
// holds, or of which the set has so much that one read of all is the shorter way from a disk: the
// guest is about to touch it, and given its first page alone, the window could not come as a huge
// page any more, and would cost several times as much. So who touches it waits for the whole. It
// comes next, or the fault thread takes the claim over. A discard may then come between claim and
// install, as for a faulted page, and the last look is at `received`. What of a claimed window
// cannot be had is given back, and put back into the queue of those who load ahead, for they passed
// it by while it was claimed.
#include <optional>
#include <utility>

#include "loader/page_loader.h"
#include "loader/run_reader.h"

namespace ramjet {

bool PageLoader::TouchInTurn(HugeStaging& staging) const {
  bool touched = false;
  parts_.bulk.InTurn([&] { touched = staging.Touch(); });
  return touched;
}

void PageLoader::LoadAheadHuge(RamBlock& block, PageRun run, HugeStaging& staging,
                               std::atomic<uint64_t>* also) {
  staging.PlaceFor(block.AddrOf(run.first));
  const absl::Status read = ReadStored(parts_.bulk, block, run, staging.memory().data());
  InstallAheadHuge(block, run, read, staging, also);
}

bool PageLoader::BeginAheadHuge(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue,
                                size_t slot) const {
  const RamBlock& block = *queued.block;
  staging.PlaceFor(block.AddrOf(queued.run.first));
  if (!staging.placed()) return false;
  const auto content = staging.memory().subspan(
      queued.request.offset - block.BytesOf(queued.run.first), queued.request.length);
  return parts_.bulk.BeginRead(queue, slot, block.index(), queued.request.offset, content);
}

void PageLoader::EndAheadHuge(const QueuedRun& queued, HugeStaging& staging, ReadQueue& queue,
                              size_t slot) {
  const RamBlock& block = *queued.block;
  const auto content = staging.memory().subspan(
      queued.request.offset - block.BytesOf(queued.run.first), queued.request.length);
  const absl::Status read =
      parts_.bulk.EndRead(queue, slot, block.index(), queued.request.offset, content);
  if (read.ok()) ZeroGaps(block, queued.run, queued.request, content.data());
  InstallAheadHuge(*queued.block, queued.run, read, staging,
                   read.ok() ? &parts_.stats.queued : nullptr);
}

void PageLoader::InstallAheadHuge(RamBlock& block, PageRun run, const absl::Status& read,
                                  HugeStaging& staging, std::atomic<uint64_t>* also) {
  uint8_t* const content = staging.memory().data();
  if (!read.ok()) {
    LoadSingly(block, run, content, also);
    staging.Renew();
    return;
  }
  Moved moved;
  {
    const Trip trip(trips_);
    PageRun claimed{run.first, 0};
    {
      const InsideGate inside(parts_.gate);
      if (!block.AnyClaimed(run)) claimed.count = block.Claim(run);
      moved = MoveClaimed(block, claimed, staging, {.also = also});
    }
    Wake(block, claimed);
  }
  InstallUnmoved(block, run, moved, staging, also);
}

std::optional<PageLoader::ClaimedWindow> PageLoader::ClaimWindow(RamBlock& block, PageRun run) {
  if (block.AnyClaimed(run)) return std::nullopt;
  trips_.fetch_add(1);
  ClaimedWindow window(this, &block, {run.first, block.Claim(run)});
  if (window.run_.count < run.count) return std::nullopt;
  return window;
}

bool PageLoader::IsCached(const RamBlock& block, PageRun run) const {
  const uint64_t cached_bytes =
      parts_.bulk.CachedBytes(block.index(), block.BytesOf(run.first), block.BytesOf(run.count));
  return cached_bytes >= block.BytesOf(block.CountNonzero(run));
}

PageLoader::ClaimedWindow::~ClaimedWindow() {
  if (loader_ == nullptr) return;
  {
    const InsideGate inside(loader_->parts_.gate);
    block_->Unclaim(run_);
  }
  loader_->Wake(*block_, run_);
  loader_->trips_.fetch_sub(1);
}

void PageLoader::LoadAheadHuge(ClaimedWindow window, HugeStaging& staging,
                               std::atomic<uint64_t>* also) {
  RamBlock& block = *window.block_;
  const PageRun run = window.run_;
  uint8_t* const content = staging.memory().data();
  staging.PlaceFor(block.AddrOf(run.first));
  if (!ReadStored(parts_.bulk, block, run, content).ok()) {
    { const ClaimedWindow given_back = std::move(window); }
    LoadSingly(block, run, content, also);
    staging.Renew();
    return;
  }
  const Moved moved = MoveWindow(std::move(window), staging, {.also = also});
  InstallUnmoved(block, run, moved, staging, also);
}

PageLoader::Whole PageLoader::LoadFaultedHuge(RamBlock& block, PageRun run, uint64_t page,
                                              HugeStaging& staging, bool even_from_disk) {
  if (block.AnyClaimed(run)) return Whole::kNotAtHand;
  const bool cached = IsCached(block, run);
  if (!cached && !even_from_disk) return Whole::kNotAtHand;
  // Somebody has asked the disk for just this page and its like, those of a working set, perhaps.
  const PageRun alone{page, 1};
  if (!cached && block.nonzero(page) && IsCached(block, alone)) return Whole::kNotAtHand;
  staging.PlaceFor(block.AddrOf(run.first));
  if (!staging.placed()) return Whole::kNotAtHand;
  if (!staging.Touch()) return Whole::kNotAtHand;
  std::optional<ClaimedWindow> window = ClaimWindow(block, run);
  if (!window) return Whole::kGivenBack;  // of a part, perhaps
  uint8_t* const content = staging.memory().data();
  // The look above does not tell what is still being read, or which pages it is that are there.
  const absl::Status read =
      cached ? ReadStored(parts_.demand, block, run, content, &PageSource::ReadCached)
             : ReadStored(parts_.demand_bulk, block, run, content);
  return InstallFaultedHuge(*std::move(window), read, staging,
                            {.faulted = block.nonzero(page) ? 1u : 0});
}

PageLoader::Whole PageLoader::LoadFaultedHuge(ClaimedWindow window, HugeStaging& staging,
                                              const MoveCounts& counts) {
  staging.PlaceFor(window.block().AddrOf(window.run().first));
  if (!staging.placed()) return Whole::kGivenBack;
  absl::Status read = absl::ResourceExhaustedError("");  // nobody sees it
  if (staging.Touch()) {
    read = ReadStored(parts_.demand, window.block(), window.run(), staging.memory().data(),
                      &PageSource::ReadCached);
  }
  return InstallFaultedHuge(std::move(window), read, staging, counts);
}

PageLoader::Whole PageLoader::InstallFaultedHuge(ClaimedWindow window, const absl::Status& read,
                                                 HugeStaging& staging, const MoveCounts& counts) {
  const uint64_t pages = window.run().count;
  Moved moved;
  if (read.ok()) {
    moved = MoveWindow(std::move(window), staging, counts);
  } else {
    const ClaimedWindow given_back = std::move(window);
  }
  if (moved.completed) parts_.progress.Note();
  if (moved.pages == pages) return Whole::kLoaded;
  // While a mapping is changing, nothing arrives before the event of that is read: by the thread
  // that serves faults, so it must not wait for that here.
  staging.Renew();
  return Whole::kGivenBack;
}

PageLoader::Moved PageLoader::MoveWindow(ClaimedWindow window, HugeStaging& staging,
                                         const MoveCounts& counts) {
  window.loader_ = nullptr;  // what does not move, MoveClaimed() gives back
  Moved moved;
  {
    const InsideGate inside(parts_.gate);
    moved = MoveClaimed(*window.block_, window.run_, staging, counts);
  }
  Wake(*window.block_, window.run_);
  trips_.fetch_sub(1);
  return moved;
}

// What the huge page did not take goes the ordinary way, from where it lies.
void PageLoader::InstallUnmoved(RamBlock& block, PageRun run, const Moved& moved,
                                HugeStaging& staging, std::atomic<uint64_t>* also) {
  if (moved.completed) parts_.progress.Note();
  if (moved.pages == run.count) return;
  const PageRun rest{run.first + moved.pages, run.count - moved.pages};
  InstallAhead(block, rest, staging.memory().data() + block.BytesOf(moved.pages), also);
  staging.Renew();
}

// Moves `claimed` if it is a whole window, of which the kernel takes all, normally; gives back the
// claim to what did not move. With a page of the window there already, the kernel would split the
// huge page and move all others alone. (gate)
PageLoader::Moved PageLoader::MoveClaimed(RamBlock& block, PageRun claimed, HugeStaging& staging,
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
    if (counts.also != nullptr) Count(*counts.also, nonzero);
    moved.completed = block.MarkReceived({claimed.first, moved.pages});
  }
  block.Unclaim({claimed.first + moved.pages, claimed.count - moved.pages});
  return moved;
}

}  // namespace ramjet
