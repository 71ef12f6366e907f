#include "loader/priority_windows.h"

#include <utility>

namespace ramjet {

void PriorityWindows::Put(Window window) {
  absl::MutexLock lock(&mu_);
  if (closed_) return;
  const WindowHints::Hint at{window.block->index(), window.run.first};
  const uint64_t number = missed_.erase(at) > 0 ? --next_urgent_ : next_number_++;
  number_at_.insert_or_assign(at, number);
  entries_.emplace(number, Entry{std::move(window)});
  changes_.Note();
}

std::optional<ClaimedWindow> PriorityWindows::TryTakeClaim(const RamBlock& block, PageRun window) {
  if (!mu_.TryLock()) return std::nullopt;
  std::optional<ClaimedWindow> claim;
  const auto at = number_at_.find({block.index(), window.first});
  if (at != number_at_.end()) {
    Entry& entry = entries_.find(at->second)->second;
    claim.swap(entry.window.claim);
    entry.taken = entry.taken || claim.has_value();
  }
  mu_.Unlock();
  return claim;
}

std::optional<PriorityWindows::Window> PriorityWindows::Take() {
  absl::MutexLock lock(&mu_);
  while (!entries_.empty() && entries_.begin()->second.taken) Extract(entries_.begin());
  auto next = entries_.begin();
  if (next == entries_.end()) return std::nullopt;
  while (const std::optional<WindowHints::Hint> waited = waits_.Take()) {
    const auto found = number_at_.find(*waited);
    if (found == number_at_.end() || entries_.find(found->second)->second.taken) {
      missed_.insert(*waited);
      continue;
    }
    next = entries_.find(found->second);
    break;
  }
  return Extract(next);
}

PriorityWindows::Window PriorityWindows::Extract(std::map<uint64_t, Entry>::iterator at) {
  Window window = std::move(at->second.window);
  const auto place = number_at_.find({window.block->index(), window.run.first});
  if (place != number_at_.end() && place->second == at->first) number_at_.erase(place);
  entries_.erase(at);
  return window;
}

void PriorityWindows::Close() {
  std::map<uint64_t, Entry> given_back;  // once the lock is
  absl::MutexLock lock(&mu_);
  closed_ = true;
  given_back.swap(entries_);
  number_at_.clear();
}

}  // namespace ramjet
