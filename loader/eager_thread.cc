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
  entries_.push_back({&block, huge && block.page_size() <= HugeStaging::kBytes, 0});
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
  if (entry.next_page == block.pages()) ++current_;
  return window;
}

void EagerQueue::Close() {
  absl::MutexLock lock(&mu_);
  closed_ = true;
}

bool EagerQueue::HasNextOrClosed() const { return closed_ || current_ < entries_.size(); }

absl::StatusOr<std::unique_ptr<EagerThread>> EagerThread::Start(EagerQueue& queue,
                                                                PageLoader& loader,
                                                                const LoadStats& stats,
                                                                size_t page_bytes) {
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(std::max(kMaxRunBytes, page_bytes));
  if (!buffer.ok()) return buffer.status();
  std::unique_ptr<EagerThread> self(new EagerThread(queue, loader, stats, *std::move(buffer)));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-eager", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

EagerThread::EagerThread(EagerQueue& queue, PageLoader& loader, const LoadStats& stats,
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
  PageRun rest = window.run;
  // Half full or more: the price, in memory, of what the guest leaves empty is what the host's own
  // huge pages cost, too.
  if (window.huge && block.CountNonzero(rest) * 2 >= rest.count && !staging_refused_) {
    if (!staging_) {
      absl::StatusOr<HugeStaging> staging = HugeStaging::Create();
      staging_refused_ = !staging.ok();
      if (staging.ok()) staging_.emplace(*std::move(staging));
    }
    if (staging_) {
      const uint64_t done = loader_.LoadAheadHuge(block, rest, *staging_);
      rest = {rest.first + done, rest.count - done};
    }
  }
  while (rest.count > 0) {
    PageRun run = block.FindPending(rest.first, rest.end());
    if (run.count == 0) return;
    run_bytes_ = FaultsCame() ? kMinRunBytes : std::min(run_bytes_ * 2, kMaxRunBytes);
    run.count = std::clamp<uint64_t>(run_bytes_ / block.page_size(), 1, run.count);
    const uint64_t next = run.first + loader_.LoadAhead(block, run, buffer_);
    rest = {next, rest.end() - next};
  }
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
