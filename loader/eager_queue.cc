#include "loader/eager_queue.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "loader/page_buffer.h"

namespace ramjet {
namespace {

uint64_t WindowPages(const RamBlock& block) {
  return std::max<uint64_t>(1, HugeStaging::kBytes / block.page_size());
}

// The first page of the window that `page` lies in.
uint64_t WindowStart(const RamBlock& block, uint64_t page) {
  return page - std::min(page, block.AddrOf(page) / block.page_size() % WindowPages(block));
}

}  // namespace

bool IsHugeWindow(const RamBlock& block, PageRun window, HugePages huge) {
  switch (huge) {
    case HugePages::kUndecided:
    case HugePages::kNever:
      return false;
    case HugePages::kWhereHalfFull:
      return block.CountNonzero(window) * 2 >= window.count;
    case HugePages::kWhereAnyContent:
      return block.CountNonzero(window) > 0;
  }
  return false;
}

void EagerQueue::Add(RamBlock& block, HugePages huge) {
  absl::MutexLock lock(&mu_);
  entry_of_[block.index()] = entries_.size();
  entries_.push_back({&block, huge, 0});
  SkipEmpty();
}

void EagerQueue::Hint(const RamBlock& block, uint64_t page) {
  const uint64_t hint = (uint64_t{block.index()} + 1) << kPageBits | WindowStart(block, page);
  const size_t next = next_hint_.load(std::memory_order_relaxed);
  if (hints_[(next + kHints - 1) % kHints].load(std::memory_order_relaxed) == hint) return;
  hints_[next].store(hint, std::memory_order_relaxed);
  next_hint_.store((next + 1) % kHints, std::memory_order_relaxed);
}

std::optional<EagerQueue::Window> EagerQueue::Next() {
  absl::MutexLock lock(&mu_);
  for (;;) {
    mu_.Await(absl::Condition(this, &EagerQueue::HasNextOrClosed));
    if (closed_) return std::nullopt;
    if (bytes_per_s_ == 0 || absl::Now() >= next_at_) break;
    mu_.AwaitWithDeadline(absl::Condition(&closed_), next_at_);
  }
  const std::optional<Window> hinted = NextHinted();
  const Window window = hinted ? *hinted : NextInOrder();
  if (bytes_per_s_ > 0) {
    const uint64_t bytes = window.block->BytesOf(window.block->CountNonzero(window.run));
    next_at_ = std::max(absl::Now(), next_at_) +
               absl::Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_s_));
  }
  return window;
}

EagerQueue::Window EagerQueue::NextInOrder() {
  Entry& entry = entries_[current_];
  const Window window = WindowAt(entry, entry.next_page);
  entry.next_page += window.run.count;
  SkipEmpty();
  return window;
}

// The latest hint that still has something to load.
std::optional<EagerQueue::Window> EagerQueue::NextHinted() {
  const size_t newest = next_hint_.load(std::memory_order_relaxed) + kHints - 1;
  for (size_t age = 0; age < kHints; ++age) {
    const uint64_t hint = hints_[(newest - age) % kHints].exchange(0, std::memory_order_relaxed);
    if (hint == 0) continue;
    const size_t index = entry_of_[(hint >> kPageBits) - 1];
    if (index == kNoEntry) continue;
    const Entry& entry = entries_[index];
    const Window window = WindowAt(entry, hint & ((uint64_t{1} << kPageBits) - 1));
    if (entry.block->FindPending(window.run.first, window.run.end()).count > 0) return window;
  }
  return std::nullopt;
}

// From `page` to where the host's next huge page begins, or the block ends.
EagerQueue::Window EagerQueue::WindowAt(const Entry& entry, uint64_t page) {
  RamBlock& block = *entry.block;
  const uint64_t pages = WindowPages(block);
  const uint64_t into_huge = block.AddrOf(page) % HugeStaging::kBytes / block.page_size();
  const uint64_t count = std::min(pages - into_huge % pages, block.pages() - page);
  return {&block, {page, count}, count == pages ? entry.huge : HugePages::kNever};
}

// Leaves `current_` at an entry whose next window has something to load, or at the end.
void EagerQueue::SkipEmpty() {
  for (; current_ < entries_.size(); ++current_) {
    Entry& entry = entries_[current_];
    const RamBlock& block = *entry.block;
    const PageRun pending = block.FindPending(entry.next_page, block.pages());
    if (pending.count == 0) continue;
    entry.next_page = std::max(entry.next_page, WindowStart(block, pending.first));
    return;
  }
}

void EagerQueue::Decide(absl::FunctionRef<HugePages(const RamBlock&)> decide) {
  absl::MutexLock lock(&mu_);
  for (Entry& entry : entries_) {
    if (entry.huge == HugePages::kUndecided) entry.huge = decide(*entry.block);
  }
}

HugePages EagerQueue::huge(const RamBlock& block) const {
  absl::MutexLock lock(&mu_);
  return entries_[entry_of_[block.index()]].huge;
}

void EagerQueue::Hold() {
  absl::MutexLock lock(&mu_);
  ++holds_;
}

void EagerQueue::Release() {
  absl::MutexLock lock(&mu_);
  --holds_;
}

void EagerQueue::Close() {
  absl::MutexLock lock(&mu_);
  closed_ = true;
}

bool EagerQueue::HasNextOrClosed() const {
  return closed_ || (holds_ == 0 && current_ < entries_.size());
}

}  // namespace ramjet
