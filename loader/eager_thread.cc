#include "loader/eager_thread.h"

#include <sys/resource.h>

#include <algorithm>
#include <utility>

namespace ramjet {
namespace {

// More would leave the processor's second-level cache between its reading and its copying.
constexpr size_t kMaxRunBytes = 256 << 10;

// Between two runs that are read as one.
constexpr uint64_t kMaxGapPages = 8;

// Where there are fewer processors than vCPUs and threads of ours, a vCPU that has just been given
// its page, and the fault thread, come first. A third of a busy processor is left for loading
// ahead.
constexpr int kNice = 5;

}  // namespace

absl::StatusOr<std::unique_ptr<EagerThread>> EagerThread::Start(const Parts& parts, bool spare) {
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(kMaxRunBytes);
  if (!buffer.ok()) return buffer.status();
  std::unique_ptr<EagerThread> self(new EagerThread(parts, spare, *std::move(buffer)));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-eager", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

EagerThread::EagerThread(const Parts& parts, bool spare, PageBuffer buffer)
    : parts_(parts), spare_(spare), buffer_(std::move(buffer)) {}

void EagerThread::Run() {
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // on Linux, of the calling thread
  while (!spare_ || parts_.pacer.waits_for_disk()) {
    const std::optional<EagerQueue::Window> window = parts_.queue.Next();
    if (!window) return;
    LoadWindow(*window);
  }
}

void EagerThread::LoadWindow(const EagerQueue::Window& window) {
  RamBlock& block = *window.block;
  // A window in which something is there already cannot arrive whole.
  if (IsHugeWindow(block, window.run, window.huge) && !block.AnyClaimed(window.run) &&
      HaveStaging()) {
    parts_.loader.LoadAheadHuge(block, window.run, *staging_);
    return;
  }
  if (!HaveBuffer(block.page_size())) return;
  const uint64_t most_pages = std::max<uint64_t>(1, kMaxRunBytes / block.page_size());
  for (PageRun next = block.FindPending(window.run.first, window.run.end()); next.count > 0;) {
    // As far as it is worth reading in one go: what lies between is there, or zero.
    PageRun run = next;
    for (; run.count < most_pages && next.count > 0 && next.first <= run.end() + kMaxGapPages;
         next = block.FindPending(run.end(), window.run.end())) {
      run.count = next.end() - run.first;
    }
    run.count = std::min(run.count, most_pages);
    parts_.loader.LoadAhead(block, run, buffer_);
    next = block.FindPending(run.end(), window.run.end());
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
    parts_.stats.AddError(buffer.status());
    return false;
  }
  buffer_ = *std::move(buffer);
  return true;
}

}  // namespace ramjet
