#include "loader/ram_block.h"

#include <cassert>
#include <optional>
#include <utility>

namespace ramjet {

RamBlock::RamBlock(size_t index, std::string idstr, uintptr_t host, uint64_t length,
                   uint64_t page_size, PageBitmap nonzero)
    : index_(index),
      idstr_(std::move(idstr)),
      host_(host),
      length_(length),
      page_size_(page_size),
      nonzero_(std::move(nonzero)),
      claimed_(nonzero_.size()),
      received_(nonzero_.size()),
      nonzero_pages_(nonzero_.Count()),
      remaining_pages_(nonzero_pages_) {
  assert(nonzero_.size() == length_ / page_size_ && length_ % page_size_ == 0);
  assert(host_ % page_size_ == 0);
}

PageRun RamBlock::PagesInside(uintptr_t start, uintptr_t end) const {
  const uint64_t from = start <= host_ ? 0 : (start - host_ + page_size_ - 1) / page_size_;
  const uint64_t to = end <= host_ ? 0 : end - host_ >= length_ ? pages() : PageOf(end);
  return from < to ? PageRun{from, to - from} : PageRun{};
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

PageRun RamBlock::FindNonzero(uint64_t page, uint64_t limit) const {
  return nonzero_.FindRun(true, page, limit).value_or(PageRun{});
}

uint64_t RamBlock::Claim(PageRun run) { return claimed_.SetLeadingClear(run); }

void RamBlock::Unclaim(PageRun run) {
  assert(received_.CountRun(run) == 0);
  claimed_.ClearRun(run);
}

bool RamBlock::MarkReceived(PageRun run) {
  assert(claimed_.CountRun(run) == run.count);
  // A zero page is owed nothing, so it does not count.
  const uint64_t content = nonzero_.CountRun(run);
  received_.SetRun(run);
  return Settle(content);
}

void RamBlock::MarkZeroReceived(PageRun run) {
  for (auto zero = nonzero_.FindRun(false, run.first, run.end()); zero;
       zero = nonzero_.FindRun(false, zero->end(), run.end())) {
    received_.SetRun(*zero);
  }
}

RamBlock::Discarded RamBlock::Discard(PageRun run) {
  claimed_.SetRun(run);
  uint64_t lost = 0;
  // Page by page: discards are rare, and which pages had their content already has to be known one
  // by one.
  for (uint64_t page = run.first; page < run.end(); ++page) {
    const bool had_content = nonzero_.TestAndClear(page);
    const bool had_arrived = received_.TestAndSet(page);
    lost += had_content && !had_arrived;
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
