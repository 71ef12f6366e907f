// Order matters between batches and not within one: a guest needs the first megabyte before the
// tenth, but which page of a megabyte comes first is a matter of microseconds, while a disk, and
// the kernel that copies, do better with long runs in rising order.
//
// From a cold cache the reading is what takes the time, and pages lie scattered: the kernel is told
// of the next batches before the one in hand is read, so that the disk always has a deep queue.
//
// But not at once. While the VMM still resumes the guest, a deep queue costs it milliseconds: its
// own reads and faults wait in it, and where processors are few, submitting hundreds of requests
// takes one away. Until the guest runs, batches are therefore tiny, in the guest's order, and the
// queue is as deep as one of them. That is enough to stay ahead of a guest that has just begun.
// What is in the page cache has no disk to wait for, and waits for its window.
//
// Windows from a disk, too, keep their place between the batches: a disk that is busy with them has
// the guest wait for the page that it touches first. (Loaded before all pages, they took twenty
// milliseconds in which the guest came by its pages one fault at a time.)
#include "loader/working_set_thread.h"

#include <sys/resource.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "loader/working_set.h"
#include "mappedram/snapshot_digest.h"

namespace ramjet {
namespace {

// Before the guest runs, and from then on twice as large each time, up to the maximum.
constexpr uint64_t kMinBatchBytes = 16 << 10;
constexpr uint64_t kMaxBatchBytes = 128 << 10;
constexpr size_t kBatchesAhead = 24;  // prefetched, with the one in hand, when the guest runs
// No more are added at a time: to ask a disk for hundreds of pages takes longer than for it to
// bring the first.
constexpr size_t kNewBatches = 2;
// By then it does, or whoever resumes it is waiting for something else.
constexpr uint64_t kMaxResumeNs = 50'000'000;
// So many batches come by their pages all the same, and with them all that is in their windows: the
// guest touches them before anybody can bring it a window.
constexpr int kHeadStart = 16;
// How long all others in the page cache wait for it, to come with their windows.
constexpr uint64_t kMaxWindowWaitNs = 10'000'000;

// As that of eager threads: whoever wakes on our processor comes first.
constexpr int kNice = 5;

}  // namespace

absl::StatusOr<std::unique_ptr<WorkingSetThread>> WorkingSetThread::Start(std::string path,
                                                                          const Parts& parts) {
  std::unique_ptr<WorkingSetThread> self(new WorkingSetThread(std::move(path), parts));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-ws", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

WorkingSetThread::WorkingSetThread(std::string path, const Parts& parts)
    : path_(std::move(path)),
      parts_(parts),
      started_ns_(MonotonicNs()),
      windows_(parts.loader, parts.window_trip, parts.queue, parts.huge_pages, parts.stats),
      order_(parts.snapshot.blocks(), parts.source, parts.huge_pages) {}

WorkingSetThread::~WorkingSetThread() {
  absl::MutexLock lock(&mu_);
  quit_.store(true);
  changes_.Note();
}

void WorkingSetThread::Add(RamBlock& block, std::function<void()> loaded) {
  {
    absl::MutexLock lock(&mu_);
    if (!ended_) {
      added_.push_back({&block, std::move(loaded)});
      return;
    }
  }
  loaded();
}

void WorkingSetThread::Run() {
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // on Linux, of the calling thread
  const absl::Status read = ReadFile();
  if (read.ok()) {
    LoadAttached();
  } else {
    parts_.stats.AddError(
        absl::Status(read.code(), absl::StrCat("the working set is ignored: ", read.message())));
  }
  {
    absl::MutexLock lock(&mu_);
    ended_ = true;
  }
  TakeAdded();
  ReleaseTaken();
}

absl::Status WorkingSetThread::ReadFile() {
  const absl::StatusOr<WorkingSet> set = ReadWorkingSet(path_);
  if (!set.ok()) return set.status();
  const absl::StatusOr<uint64_t> digest = DigestSnapshot(parts_.snapshot);
  if (!digest.ok()) return digest.status();
  if (*digest != set->snapshot_digest) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": is of another snapshot than ", parts_.snapshot.file().name()));
  }
  const std::vector<SnapshotBlock>& stored = parts_.snapshot.blocks();
  std::vector<size_t> indexes;  // of the set's blocks in the snapshot
  for (const WorkingSet::Block& block : set->blocks) {
    const auto same = std::find_if(stored.begin(), stored.end(), [&](const SnapshotBlock& other) {
      return other.idstr == block.idstr && other.page_size == block.page_size &&
             other.pages() == block.pages;
    });
    if (same == stored.end()) {
      return absl::DataLossError(
          absl::StrCat(path_, ": the snapshot has no such block \"", block.idstr, "\""));
    }
    indexes.push_back(static_cast<size_t>(same - stored.begin()));
  }
  std::vector<WorkingSetOrder::Extent> extents;
  extents.reserve(set->runs.size());
  for (const WorkingSet::Run& run : set->runs) {
    const uint64_t page_size = set->blocks[run.block].page_size;
    extents.push_back(
        {indexes[run.block], run.pages.first * page_size, run.pages.count * page_size});
  }
  order_.Set(std::move(extents));
  return absl::OkStatus();
}

// Returns when everything is loaded, or quit_.
void WorkingSetThread::LoadAttached() {
  while (!quit_) {
    if (TakeAdded()) windows_may_come_ = false;
    // Windows hold pages that are not in the set: they are for who wants those, too.
    if (hurried_.load(std::memory_order_relaxed) && !std::exchange(windows_may_come_, true)) {
      parts_.huge_pages.DecideAll();
      order_.ResumeLater();
    }
    LookAhead();
    if (!ahead_.empty()) {
      Load(ahead_.front());
      ahead_.pop_front();
    } else if (order_.any_later()) {
      AwaitHurry();
      if (!hurried_) order_.ResumeLater();
    } else {
      LoadWindows();
      ReleaseTaken();
      if (!order_.awaits_blocks() || !AwaitAdded()) return;
    }
  }
}

// Windows in the page cache are claimed at once, and eager threads begin with them: there is no
// disk for which their order would matter, and the guest would break them by having a page alone.
// The first batch waits for no second.
void WorkingSetThread::LookAhead() {
  const size_t most = MayHurry() && begun_ > 0 ? kBatchesAhead : 1;
  size_t found = 0;
  while (found < kNewBatches && ahead_.size() < most) {
    const uint64_t bytes = MayHurry() && batch_bytes_ > 0
                               ? std::min(2 * batch_bytes_, kMaxBatchBytes)
                               : kMinBatchBytes;
    Step step = order_.Next(bytes, HowWindowsCome());
    if (step.empty()) return;
    if (step.window && step.cached) {
      if (!PutFirst(*step.window)) order_.Break(*step.window);
      continue;
    }
    if (!step.window) batch_bytes_ = bytes;
    Prefetch(step);
    ahead_.push_back(std::move(step));
    ++found;
  }
}

WorkingSetOrder::Windows WorkingSetThread::HowWindowsCome() {
  if (windows_may_come_) return WorkingSetOrder::Windows::kWhole;
  if (begun_ < kHeadStart || MonotonicNs() - started_ns_ > kMaxWindowWaitNs) {
    return WorkingSetOrder::Windows::kBreak;
  }
  return WorkingSetOrder::Windows::kLater;
}

bool WorkingSetThread::TakeAdded() {
  std::vector<Added> added;
  {
    absl::MutexLock lock(&mu_);
    added.swap(added_);
  }
  for (Added& each : added) {
    order_.Attach(*each.block);
    taken_.push_back(std::move(each));
  }
  return !added.empty();
}

// False: quit_.
bool WorkingSetThread::AwaitAdded() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(this, &WorkingSetThread::AddedOrQuit));
  return !quit_;
}

bool WorkingSetThread::AddedOrQuit() const { return quit_ || !added_.empty(); }

void WorkingSetThread::Hurry() {
  absl::MutexLock lock(&mu_);
  hurried_.store(true, std::memory_order_relaxed);
  changes_.Note();
}

void WorkingSetThread::AwaitHurry() {
  uint32_t seen;
  do {
    seen = changes_.count();
    if (hurried_ || quit_) return;
  } while (changes_.AwaitNext(seen, started_ns_ + kMaxWindowWaitNs));
}

void WorkingSetThread::ReleaseTaken() {
  if (quit_) return;
  for (const Added& added : taken_) added.loaded();
  taken_.clear();
}

bool WorkingSetThread::MayHurry() const {
  return hurried_.load(std::memory_order_relaxed) || MonotonicNs() - started_ns_ > kMaxResumeNs;
}

// False: somebody has been faster.
bool WorkingSetThread::PutFirst(const BlockRun& window) {
  std::optional<ClaimedWindow> claim = parts_.window_trip.Claim(*window.block, window.pages);
  if (!claim) return false;
  parts_.queue.priority().Put(
      {.block = window.block, .run = window.pages, .claim = std::move(claim)});
  return true;
}

void WorkingSetThread::LoadWindows() {
  while (!quit_) {
    std::optional<EagerQueue::Window> window = parts_.queue.priority().Take();
    if (!window) return;
    windows_.LoadWindow(*std::move(window));
  }
}

void WorkingSetThread::Prefetch(const Step& step) const {
  for (const BlockRun& run : step.runs) {
    const size_t index = run.block->index();
    const uint64_t offset = run.block->BytesOf(run.pages.first);
    const uint64_t limit = parts_.snapshot.blocks()[index].used_length;  // which may end in a page
    parts_.source.Prefetch(index, offset,
                           std::min(run.block->BytesOf(run.pages.count), limit - offset));
  }
}

void WorkingSetThread::Load(const Step& step) {
  ++begun_;
  for (const BlockRun& run : step.runs) {
    windows_.LoadRuns(*run.block, run.pages, &parts_.stats.working_set);
  }
  if (step.window && !PutFirst(*step.window)) {
    windows_.LoadRuns(*step.window->block, step.window->pages, &parts_.stats.working_set);
  }
}

}  // namespace ramjet
