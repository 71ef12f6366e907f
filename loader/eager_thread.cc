#include "loader/eager_thread.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "uffd/mappings.h"

namespace ramjet {
namespace {

// More would leave the processor's second-level cache between its reading and its copying.
constexpr uint64_t kMaxRunBytes = 256 << 10;

// Where there are fewer processors than vCPUs and threads of ours, a vCPU that has just been given
// its page, and the fault thread, come first. A third of a busy processor is left for loading
// ahead.
constexpr int kNice = 5;

// Whether the host has transparent huge pages at all, for memory that asks for them.
bool HostHasHugePages() {
  std::array<char, 128> text{};
  const int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t length = read(fd, text.data(), text.size());
  close(fd);
  return length > 0 && std::string_view(text.data(), static_cast<size_t>(length)).find("[never]") ==
                           std::string_view::npos;
}

// For private memory of small pages.
HugePages HugePagesFor(const RamBlock& block, const std::vector<RegisteredRange>& ranges) {
  for (const RegisteredRange& range : ranges) {
    if (block.host() < range.start || block.host() >= range.end) continue;
    switch (range.huge) {
      case HugeAdvice::kWanted:
        return HugePages::kWhereAnyContent;
      case HugeAdvice::kNone:
        return HugePages::kWhereHalfFull;
      case HugeAdvice::kUnwanted:
        return HugePages::kNever;
    }
  }
  return HugePages::kNever;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EagerThread>> EagerThread::Start(const Parts& parts, bool spare) {
  std::unique_ptr<EagerThread> self(new EagerThread(parts, spare));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-eager", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

void EagerThread::Run() {
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // on Linux, of the calling thread
  while (!spare_ || parts_.pacer.waits_for_disk()) {
    std::optional<EagerQueue::Window> window = parts_.queue.Next();
    if (!window) return;
    if (window->huge == HugePages::kUndecided) {
      DecideHugePages();
      window->huge = parts_.queue.huge(*window->block);
    }
    LoadWindow(*window);
  }
}

// Not when a block is attached, or started to be loaded, for it takes reading all of
// /proc/self/smaps.
void EagerThread::DecideHugePages() {
  absl::StatusOr<std::vector<RegisteredRange>> ranges = std::vector<RegisteredRange>{};
  if (HostHasHugePages()) ranges = RegisteredRanges(0, UINTPTR_MAX);
  parts_.queue.Decide([&](const RamBlock& block) {
    return ranges.ok() ? HugePagesFor(block, *ranges) : HugePages::kNever;
  });
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
  const uint64_t most_between = PageLoader::kMaxGapBytes / block.page_size();
  for (PageRun next = block.FindPending(window.run.first, window.run.end()); next.count > 0;) {
    // As far as it is worth reading in one go: what lies between is there, or zero.
    PageRun run = next;
    for (; run.count < most_pages && next.count > 0 && next.first <= run.end() + most_between;
         next = block.FindPending(run.end(), window.run.end())) {
      run.count = next.end() - run.first;
    }
    run.count = std::min(run.count, most_pages);
    parts_.loader.LoadAhead(block, run, *buffer_);
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

// Without it, pages come only when they are touched.
bool EagerThread::HaveBuffer(uint64_t page_bytes) {
  if (buffer_ && page_bytes <= buffer_->size()) return true;
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(std::max(page_bytes, kMaxRunBytes));
  if (!buffer.ok()) {
    parts_.stats.AddError(buffer.status());
    return false;
  }
  buffer_.emplace(*std::move(buffer));
  return true;
}

}  // namespace ramjet
