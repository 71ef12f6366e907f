// Each window has three bits. `broken`: a page of it has been handed out by itself, so it cannot be
// moved in one piece any more. `cached`: found to be, and not asked for again. `handed_out`: its
// pages in the set need not be looked at again, though nobody may have claimed them yet.
#include "loader/working_set_order.h"

#include <algorithm>
#include <utility>

#include "loader/huge_window.h"

namespace ramjet {
namespace {

// Of the pages of a window one in so many is in the set: then the disk brings all of the window in
// less time than these.
constexpr uint64_t kDense = 8;

// Pages between two runs are read with them, if they are no more than this: cheaper than a second
// read, and a guest that touches both is likely to touch them.
constexpr uint64_t kMaxGapBytes = 16 << 10;

}  // namespace

void WorkingSetOrder::Attach(RamBlock& block) {
  blocks_[block.index()] = &block;
  skipped_.insert(skipped_.end(), todo_.begin() + static_cast<ptrdiff_t>(next_), todo_.end());
  todo_ = std::exchange(skipped_, {});
  next_ = 0;
  // At first, for it takes a while, and the guest does not run yet.
  places_[block.index()].resize(block.pages() / WindowPages(block) + 2);
  for (const Extent& extent : todo_) {
    if (extent.block == block.index()) Count(block, PagesOf(extent, block));
  }
}

WorkingSetOrder::Step WorkingSetOrder::Next(uint64_t most_bytes, Windows windows) {
  std::vector<BlockRun> runs;
  for (uint64_t room = most_bytes; room > 0 && next_ < todo_.size();) {
    const Extent& extent = todo_[next_];
    RamBlock* const block = blocks_[extent.block];
    if (block == nullptr) {
      skipped_.push_back(extent);
      ++next_;
      continue;
    }
    const PageRun pages = PagesOf(extent, *block);
    PageRun pending = block->FindPending(pages.first, pages.end());
    if (pending.count == 0) {
      ++next_;
      continue;
    }
    const PageRun whole = WindowOf(*block, pending.first);
    pending.count = std::min(pending.count, whole.end() - pending.first);
    Window& window = WindowAt(*block, pending.first);
    if (window.handed_out && !window.broken) {
      Advance(block->BytesOf(pending.end()));
      continue;
    }
    if (windows == Windows::kLater && MayWait(*block, whole, window)) {
      const uint64_t offset = std::max(extent.offset, block->BytesOf(pending.first));
      const uint64_t end = std::min(extent.offset + extent.length, block->BytesOf(pending.end()));
      later_.push_back({extent.block, offset, end - offset});
      Advance(end);
      continue;
    }
    if (windows == Windows::kWhole && IsWorthWhole(*block, whole, window)) {
      if (!runs.empty()) break;
      window.handed_out = true;
      return {.window = BlockRun{block, whole}, .cached = window.cached};
    }
    window.broken = true;
    pending.count = std::min(pending.count, std::max<uint64_t>(1, room / block->page_size()));
    runs.push_back({block, pending});
    room -= std::min(room, block->BytesOf(pending.count));
    Advance(block->BytesOf(pending.end()));
  }
  return {.runs = Joined(std::move(runs))};
}

// The extent in hand is dealt with up to `end`, an offset in its block.
void WorkingSetOrder::Advance(uint64_t end) {
  Extent& extent = todo_[next_];
  const uint64_t extent_end = extent.offset + extent.length;
  extent = {extent.block, end, extent_end - std::min(end, extent_end)};
  if (extent.length == 0) ++next_;
}

void WorkingSetOrder::ResumeLater() {
  later_.insert(later_.end(), todo_.begin() + static_cast<ptrdiff_t>(next_), todo_.end());
  todo_ = std::exchange(later_, {});
  next_ = 0;
}

PageRun WorkingSetOrder::PagesOf(const Extent& extent, const RamBlock& block) {
  const uint64_t first = block.PageAt(extent.offset);
  return {first, block.PageAt(extent.offset + extent.length - 1) + 1 - first};
}

void WorkingSetOrder::Count(RamBlock& block, PageRun pages) {
  while (pages.count > 0) {
    const uint64_t inside = std::min(pages.count, WindowOf(block, pages.first).end() - pages.first);
    WindowAt(block, pages.first).pages += inside;
    pages = {pages.first + inside, pages.count - inside};
  }
}

WorkingSetOrder::Window& WorkingSetOrder::WindowAt(const RamBlock& block, uint64_t page) {
  const uint64_t window_pages = WindowPages(block);
  // The first window may be a short one.
  uint32_t& place =
      places_[block.index()][(WindowOf(block, page).first + window_pages - 1) / window_pages];
  if (place == 0) {
    windows_.emplace_back();
    place = static_cast<uint32_t>(windows_.size());
  }
  return windows_[place - 1];
}

bool WorkingSetOrder::IsMostlyCached(const RamBlock& block, PageRun run) const {
  const uint64_t cached_bytes =
      source_.CachedBytes(block.index(), block.BytesOf(run.first), block.BytesOf(run.count));
  return cached_bytes >= block.BytesOf(block.CountNonzero(run)) / 2;
}

bool WorkingSetOrder::MayWait(const RamBlock& block, PageRun run, Window& window) const {
  if (window.broken) return false;
  window.cached = window.cached || (huge_pages_.of(block) != HugePages::kNever &&
                                    run.count == WindowPages(block) && IsMostlyCached(block, run));
  return window.cached;
}

bool WorkingSetOrder::IsWorthWhole(const RamBlock& block, PageRun run, Window& window) const {
  if (window.broken || !huge_pages_.IsHuge(block, run)) return false;
  window.cached = window.cached || IsMostlyCached(block, run);
  return window.cached || window.pages * kDense >= block.CountNonzero(run);
}

std::vector<WorkingSetOrder::BlockRun> WorkingSetOrder::Joined(std::vector<BlockRun> runs) const {
  std::sort(runs.begin(), runs.end(),
            [this](const BlockRun& a, const BlockRun& b) { return FileOffset(a) < FileOffset(b); });
  std::vector<BlockRun> joined;
  for (const BlockRun& run : runs) {
    if (!joined.empty() && joined.back().block == run.block &&
        run.pages.first <= joined.back().pages.end() + kMaxGapBytes / run.block->page_size()) {
      PageRun& last = joined.back().pages;
      last.count = std::max(last.end(), run.pages.end()) - last.first;
    } else {
      joined.push_back(run);
    }
  }
  return joined;
}

uint64_t WorkingSetOrder::FileOffset(const BlockRun& run) const {
  return stored_[run.block->index()].pages_offset + run.block->BytesOf(run.pages.first);
}

}  // namespace ramjet
