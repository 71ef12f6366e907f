#include "loader/eager_queue.h"

#include <algorithm>
#include <utility>

#include "loader/huge_window.h"
#include "loader/load_stats.h"

namespace ramjet {
namespace {

// What could not be loaded is tried again after the shortest of these, then after twice as long
// each time, up to the longest: soon enough for a disk that was gone for a moment, and seldom
// enough for one that stays away.
constexpr uint64_t kMinRoundPauseNs = 10'000'000;
constexpr uint64_t kMaxRoundPauseNs = 2'000'000'000;
// What fails so long after the last failure is another.
constexpr uint64_t kForgottenNs = 20'000'000'000;

}  // namespace

void EagerQueue::Add(RamBlock& block) {
  absl::MutexLock lock(&mu_);
  entry_of_[block.index()] = entries_.size();
  entries_.push_back({&block, 0});
  SkipEmpty();
  changes_.Note();
}

std::optional<EagerQueue::Window> EagerQueue::Next() {
  for (;;) {
    const uint32_t seen = changes_.count();
    if (closed_.load()) return std::nullopt;
    if (std::optional<Window> first = priority_.Take()) return first;
    uint64_t next_at_ns;
    {
      absl::MutexLock lock(&mu_);
      next_at_ns = NextAtNs();
      if (next_at_ns <= MonotonicNs()) {
        if (std::optional<Window> next = TakeNext()) return next;
        continue;
      }
    }
    changes_.AwaitNext(seen, next_at_ns);
  }
}

std::optional<EagerQueue::Window> EagerQueue::TryNext() {
  if (closed_.load()) return std::nullopt;
  if (std::optional<Window> first = priority_.Take()) return first;
  absl::MutexLock lock(&mu_);
  return NextAtNs() <= MonotonicNs() ? TakeNext() : std::nullopt;
}

// When the next window may be handed out; kNever: there is none.
uint64_t EagerQueue::NextAtNs() const {
  if (holds_ > 0 && !hurried_) return Moments::kNever;
  if (current_ < entries_.size()) return bytes_per_s_ > 0 ? next_at_ns_ : 0;
  return next_round_ns_ > 0 ? next_round_ns_ : Moments::kNever;
}

// nullopt: what was put back for later has come meanwhile.
std::optional<EagerQueue::Window> EagerQueue::TakeNext() {
  if (current_ == entries_.size()) BeginNextRound();
  std::optional<Window> window = NextHinted();
  if (!window && current_ == entries_.size()) return std::nullopt;
  if (!window) window.emplace(NextInOrder());
  if (bytes_per_s_ > 0) {
    const uint64_t bytes = window->block->BytesOf(window->block->CountNonzero(window->run));
    const double seconds = static_cast<double>(bytes) / static_cast<double>(bytes_per_s_);
    next_at_ns_ = std::max(MonotonicNs(), next_at_ns_) + static_cast<uint64_t>(seconds * 1e9);
  }
  return window;
}

void EagerQueue::BeginNextRound() {
  for (Entry& entry : entries_) {
    entry.next_page = std::min(entry.next_page, std::exchange(entry.later_page, kNoPage));
  }
  current_ = 0;
  next_round_ns_ = 0;
  SkipEmpty();
}

void EagerQueue::PutBackForLater(const RamBlock& block, PageRun window) {
  absl::MutexLock lock(&mu_);
  const size_t index = entry_of_[block.index()];
  if (index == kNoEntry) return;
  entries_[index].later_page = std::min(entries_[index].later_page, window.first);
  const uint64_t now_ns = MonotonicNs();
  if (next_round_ns_ == 0) {
    const bool again = failed_ns_ != 0 && now_ns < failed_ns_ + kForgottenNs;
    round_pause_ns_ = again ? std::min(2 * round_pause_ns_, kMaxRoundPauseNs) : kMinRoundPauseNs;
    changes_.Note();
  }
  // From the last that fails: where each failure takes long, a round takes longer than the pause,
  // and whoever finishes a load would never come to the end of one.
  failed_ns_ = now_ns;
  next_round_ns_ = now_ns + round_pause_ns_;
}

EagerQueue::Window EagerQueue::NextInOrder() {
  Entry& entry = entries_[current_];
  Window window{entry.block, WindowOf(*entry.block, entry.next_page)};
  entry.next_page = window.run.end();
  SkipEmpty();
  return window;
}

// The latest hint that still has something to load.
std::optional<EagerQueue::Window> EagerQueue::NextHinted() {
  while (const std::optional<WindowHints::Hint> hint = hints_.Take()) {
    const size_t index = entry_of_[hint->block];
    if (index == kNoEntry) continue;
    RamBlock& block = *entries_[index].block;
    Window window{&block, WindowOf(block, hint->first_page)};
    if (block.FindPending(window.run.first, window.run.end()).count > 0) return window;
  }
  return std::nullopt;
}

// Leaves `current_` at an entry whose next window has something to load, or at the end.
void EagerQueue::SkipEmpty() {
  for (; current_ < entries_.size(); ++current_) {
    Entry& entry = entries_[current_];
    const RamBlock& block = *entry.block;
    const PageRun pending = block.FindPending(entry.next_page, block.pages());
    if (pending.count == 0) continue;
    entry.next_page = std::max(entry.next_page, WindowOf(block, pending.first).first);
    return;
  }
}

void EagerQueue::PutBack(const RamBlock& block, PageRun window) {
  absl::MutexLock lock(&mu_);
  const size_t index = entry_of_[block.index()];
  if (index == kNoEntry) return;
  entries_[index].next_page = std::min(entries_[index].next_page, window.first);
  current_ = std::min(current_, index);
  changes_.Note();
}

void EagerQueue::Hold() {
  absl::MutexLock lock(&mu_);
  ++holds_;
}

void EagerQueue::Release() {
  absl::MutexLock lock(&mu_);
  --holds_;
  changes_.Note();
}

bool EagerQueue::has_limit() const {
  absl::MutexLock lock(&mu_);
  return bytes_per_s_ > 0;
}

void EagerQueue::LiftRate() {
  absl::MutexLock lock(&mu_);
  bytes_per_s_ = 0;
  changes_.Note();
}

void EagerQueue::Hurry() {
  absl::MutexLock lock(&mu_);
  hurried_ = true;
  bytes_per_s_ = 0;
  changes_.Note();
}

void EagerQueue::Close() {
  closed_.store(true);
  changes_.Note();
  priority_.Close();
}

}  // namespace ramjet
