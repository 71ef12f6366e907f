#include "loader/eager_thread.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace ramjet {
namespace {

// A copy costs per byte what it costs at 64 KiB from there on; more than 256 KiB leaves the
// processor's second-level cache.
constexpr size_t kMinRunBytes = 64 << 10;
constexpr size_t kMaxRunBytes = 256 << 10;

// From the page cache, a window takes half of this at most; from a disk of 1 GB/s, longer to read
// alone.
constexpr absl::Duration kDiskWindow = absl::Microseconds(1500);
// How long a thread waits for faults to stop, at once and in all. A fault on an idle disk takes
// less than the first.
constexpr int64_t kGlanceNs = 1'000'000;
constexpr int64_t kGiveWayNs = 60'000'000;

uint64_t WindowPages(const RamBlock& block) {
  return std::max<uint64_t>(1, HugeStaging::kBytes / block.page_size());
}

}  // namespace

void EagerQueue::Add(RamBlock& block, bool huge) {
  absl::MutexLock lock(&mu_);
  entries_.push_back({&block, huge && block.page_size() < HugeStaging::kBytes, 0});
  SkipEmpty();
}

std::optional<EagerQueue::Window> EagerQueue::Next() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(this, &EagerQueue::HasNextOrClosed));
  if (closed_) return std::nullopt;
  Entry& entry = entries_[current_];
  RamBlock& block = *entry.block;
  const uint64_t pages = WindowPages(block);
  // A window ends where the host's next huge page begins.
  const uint64_t into_huge =
      block.AddrOf(entry.next_page) % HugeStaging::kBytes / block.page_size();
  const uint64_t count = std::min(pages - into_huge % pages, block.pages() - entry.next_page);
  const Window window{&block, {entry.next_page, count}, entry.huge && count == pages};
  entry.next_page += count;
  SkipEmpty();
  return window;
}

// Leaves `current_` at an entry whose next window has something to load, or at the end.
void EagerQueue::SkipEmpty() {
  for (; current_ < entries_.size(); ++current_) {
    Entry& entry = entries_[current_];
    const RamBlock& block = *entry.block;
    const PageRun pending = block.FindPending(entry.next_page, block.pages());
    if (pending.count == 0) continue;
    const uint64_t pages = WindowPages(block);
    const uint64_t into_window = block.AddrOf(pending.first) / block.page_size() % pages;
    entry.next_page = std::max(entry.next_page, pending.first - std::min(pending.first, into_window));
    return;
  }
}

void EagerQueue::Close() {
  absl::MutexLock lock(&mu_);
  closed_ = true;
}

bool EagerQueue::HasNextOrClosed() const { return closed_ || current_ < entries_.size(); }

absl::StatusOr<std::unique_ptr<EagerThread>> EagerThread::Start(EagerQueue& queue,
                                                                PageLoader& loader,
                                                                LoadStats& stats) {
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(kMaxRunBytes);
  if (!buffer.ok()) return buffer.status();
  std::unique_ptr<EagerThread> self(new EagerThread(queue, loader, stats, *std::move(buffer)));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-eager", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

EagerThread::EagerThread(EagerQueue& queue, PageLoader& loader, LoadStats& stats,
                         PageBuffer buffer)
    : queue_(queue),
      loader_(loader),
      stats_(stats),
      buffer_(std::move(buffer)),
      run_bytes_(kMaxRunBytes),
      give_way_left_ns_(kGiveWayNs) {}

void EagerThread::Run() {
  while (const std::optional<EagerQueue::Window> window = queue_.Next()) {
    const absl::Time before = absl::Now();
    LoadWindow(*window);
    if (absl::Now() - before > kDiskWindow) GiveWay();
  }
}

void EagerThread::LoadWindow(const EagerQueue::Window& window) {
  RamBlock& block = *window.block;
  // Half full or more: the price, in memory, of what the guest leaves empty is what the host's own
  // huge pages cost, too. A window in which something is there already cannot arrive whole.
  if (window.huge && block.CountNonzero(window.run) * 2 >= window.run.count &&
      !block.AnyClaimed(window.run) && HaveStaging()) {
    loader_.LoadAheadHuge(block, window.run, *staging_);
    return;
  }
  if (!HaveBuffer(block.page_size())) return;
  for (PageRun run = block.FindPending(window.run.first, window.run.end()); run.count > 0;
       run = block.FindPending(run.end(), window.run.end())) {
    run_bytes_ = FaultsCame() ? kMinRunBytes : std::min(run_bytes_ * 2, kMaxRunBytes);
    run.count = std::clamp<uint64_t>(run_bytes_ / block.page_size(), 1, run.count);
    loader_.LoadAhead(block, run, buffer_);
  }
}

bool EagerThread::HaveStaging() {
  if (!staging_ && !staging_refused_) {
    absl::StatusOr<HugeStaging> staging = HugeStaging::Create();
    staging_refused_ = !staging.ok();
    if (staging.ok()) staging_.emplace(*std::move(staging));
  }
  return staging_.has_value();
}

// For huge pages of hugetlb. Without it, pages come only when they are touched.
bool EagerThread::HaveBuffer(uint64_t page_bytes) {
  if (page_bytes <= buffer_.size()) return true;
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(page_bytes);
  if (!buffer.ok()) {
    stats_.AddError(buffer.status());
    return false;
  }
  buffer_ = *std::move(buffer);
  return true;
}

void EagerThread::GiveWay() {
  while (give_way_left_ns_ > 0 && FaultsCame()) {
    const timespec glance{.tv_sec = 0, .tv_nsec = kGlanceNs};
    nanosleep(&glance, nullptr);
    give_way_left_ns_ -= kGlanceNs;
  }
}

// Since it was last asked.
bool EagerThread::FaultsCame() {
  const uint64_t faults = stats_.faults.load(std::memory_order_relaxed);
  return std::exchange(faults_seen_, faults) != faults;
}

}  // namespace ramjet
