#include "loader/ram_block.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <optional>
#include <utility>

namespace ramjet {

namespace {

// `nonzero`, whose bits are pages of `from` bytes, with bits for pages of `to` bytes.
PageBitmap Resize(const PageBitmap& nonzero, uint64_t from, uint64_t to) {
  const uint64_t bytes = nonzero.size() * from;
  PageBitmap result((bytes + to - 1) / to);
  for (auto run = nonzero.FindRun(true, 0, nonzero.size()); run;
       run = nonzero.FindRun(true, run->end(), nonzero.size())) {
    const uint64_t first = run->first * from / to;
    const uint64_t end = (run->end() * from + to - 1) / to;
    result.SetRun({first, end - first});
  }
  return result;
}

}  // namespace

RamBlock::RamBlock(size_t index, const SnapshotBlock& stored, const Memory& memory,
                   PageBitmap nonzero)
    : index_(index),
      idstr_(stored.idstr),
      memory_(memory),
      page_shift_(static_cast<unsigned>(std::countr_zero(memory.page_size))),
      stored_page_size_(stored.page_size),
      stored_(stored.page_size < memory.page_size ? std::move(nonzero) : PageBitmap()),
      nonzero_(stored.page_size < memory.page_size
                   ? Resize(stored_, stored.page_size, memory.page_size)
               : stored.page_size == memory.page_size
                   ? std::move(nonzero)
                   : Resize(nonzero, stored.page_size, memory.page_size)),
      claimed_(nonzero_.size()),
      received_(nonzero_.size()),
      poisoned_(nonzero_.size()),
      nonzero_pages_(nonzero_.Count()),
      remaining_pages_(nonzero_pages_) {
  assert(host() % page_size() == 0);
}

PageRun RamBlock::PagesInside(uintptr_t start, uintptr_t end) const {
  const uint64_t from = start <= host() ? 0 : (start - host() + page_size() - 1) / page_size();
  const uint64_t to = end <= host() ? 0 : end - host() >= length() ? pages() : PageOf(end);
  return from < to ? PageRun{from, to - from} : PageRun{};
}

RamBlock::Extent RamBlock::FindStored(PageRun run, uint64_t offset) const {
  if (stored_.size() == 0) {
    const auto found = nonzero_.FindRun(true, offset / page_size(), run.end());
    return found ? Extent{BytesOf(found->first), BytesOf(found->count)} : Extent{};
  }
  const uint64_t limit = std::min(BytesOf(run.end()) / stored_page_size_, stored_.size());
  const uint64_t first = offset / stored_page_size_;
  const auto found = first < limit ? stored_.FindRun(true, first, limit) : std::nullopt;
  return found ? Extent{found->first * stored_page_size_, found->count * stored_page_size_}
               : Extent{};
}

PageRun RamBlock::FindPending(uint64_t page, uint64_t limit) const {
  while (const std::optional<PageRun> content = nonzero_.FindRun(true, page, limit)) {
    if (const auto pending = claimed_.FindRun(false, content->first, content->end())) {
      return *pending;
    }
    page = content->end();
  }
  return {};
}

uint64_t RamBlock::Claim(PageRun run) { return claimed_.SetLeadingClear(run); }

void RamBlock::Unclaim(PageRun run) {
  for (auto part = received_.FindRun(false, run.first, run.end()); part;
       part = received_.FindRun(false, part->end(), run.end())) {
    claimed_.ClearRun(*part);
  }
}

bool RamBlock::MarkReceived(PageRun run) {
  assert(claimed_.CountRun(run) == run.count);
  // A zero page is owed nothing, so it does not count.
  const uint64_t content = nonzero_.CountRun(run);
  received_.SetRun(run);
  return Settle(content);
}

void RamBlock::MarkPoisoned(uint64_t page) {
  poisoned_.TestAndSet(page);
  (void)MarkReceived({page, 1});
}

RamBlock::Discarded RamBlock::Discard(PageRun run) {
  uint64_t lost = 0;
  // Pages without content are zero before and after. Of several discards at once, the one that sets
  // `received` counts. `claimed` comes last: the fault thread looks at any moment, and takes a page
  // that is claimed and not received for one in flight, whose claimant will wake; here is none.
  while (const auto content = nonzero_.FindRun(true, run.first, run.end())) {
    lost += received_.SetRun(*content);
    nonzero_.ClearRun(*content);
    claimed_.SetRun(*content);
    run = {content->end(), run.end() - content->end()};
  }
  return {.pages = lost, .block_completed = Settle(lost)};
}

bool RamBlock::Settle(uint64_t pages) {
  if (pages == 0) return false;
  // Releases what was installed to whoever reads 0 in remaining_pages(), and acquires what others
  // installed before.
  const uint64_t before = remaining_pages_.fetch_sub(pages, std::memory_order_acq_rel);
  assert(before >= pages);
  return before == pages;
}

}  // namespace ramjet
