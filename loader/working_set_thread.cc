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
#include "loader/working_set_thread.h"

#include <sys/resource.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mappedram/snapshot_digest.h"

namespace ramjet {
namespace {

// Before the guest runs, and from then on twice as large each time, up to the maximum.
constexpr uint64_t kMinBatchBytes = 16 << 10;
constexpr uint64_t kMaxBatchBytes = 128 << 10;
constexpr size_t kBatchesAhead = 24;  // prefetched, with the one in hand, when the guest runs
// Of the pages of a window one in so many is in the set: then the disk brings all of the window in
// less time than these.
constexpr uint64_t kDense = 8;
// By then it does, or whoever resumes it is waiting for something else.
constexpr absl::Duration kMaxResume = absl::Milliseconds(50);
// So many batches come by their pages all the same: the guest touches them before anybody can bring
// it a window.
constexpr int kHeadStart = 16;
// How long all others wait for it that are to come with their windows.
constexpr absl::Duration kMaxWindowWait = absl::Milliseconds(10);

// As that of eager threads: whoever wakes on our processor comes first.
constexpr int kNice = 5;

// Pages between two runs are read with them, if they are no more than this: cheaper than a second
// read, and a guest that touches both is likely to touch them.
constexpr uint64_t kMaxGapBytes = 16 << 10;

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
      started_(absl::Now()),
      windows_(parts.loader, parts.queue, parts.stats),
      blocks_(parts.snapshot.blocks().size()) {}

WorkingSetThread::~WorkingSetThread() {
  absl::MutexLock lock(&mu_);
  quit_.store(true);
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
  todo_.reserve(set->runs.size());
  for (const WorkingSet::Run& run : set->runs) {
    const uint64_t page_size = set->blocks[run.block].page_size;
    todo_.push_back({indexes[run.block], run.pages.first * page_size, run.pages.count * page_size});
  }
  return absl::OkStatus();
}

// Returns when everything is loaded, or quit_.
void WorkingSetThread::LoadAttached() {
  std::deque<Batch> ahead;
  bool looked_for_windows = false;
  while (!quit_) {
    if (TakeAdded()) {
      looked_for_windows = false;
      // What was left out may come now, and in its place.
      skipped_.insert(skipped_.end(), todo_.begin() + static_cast<ptrdiff_t>(next_), todo_.end());
      todo_ = std::exchange(skipped_, {});
      next_ = 0;
      FindWindows(ahead);
    }
    // Windows hold pages that are not in the set: they are for who wants those, too.
    if (hurried_.load(std::memory_order_relaxed) && !std::exchange(looked_for_windows, true)) {
      // First, for from then on who touches a page brings its window, and spoils none.
      parts_.queue.DecideHuge();
      ClaimWindows();
      LoadWindows();
    }
    while (ahead.size() < (MayHurry() ? kBatchesAhead : 1)) {
      Batch batch = NextBatch();
      if (batch.empty()) break;
      Prefetch(batch);
      ahead.push_back(std::move(batch));
    }
    if (!ahead.empty()) {
      if (begun_ >= kHeadStart && AwaitsWindow(ahead.front())) {
        AwaitHurry();
        continue;
      }
      ++begun_;
      Load(ahead.front());
      ahead.pop_front();
      continue;
    }
    ReleaseTaken();
    if (skipped_.empty() || !AwaitAdded()) return;
  }
}

bool WorkingSetThread::TakeAdded() {
  absl::MutexLock lock(&mu_);
  for (Added& added : added_) {
    blocks_[added.block->index()] = added.block;
    taken_.push_back(std::move(added));
  }
  return !std::exchange(added_, {}).empty();
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
}

// A page alone would break a window that is soon to come whole.
bool WorkingSetThread::AwaitsWindow(const Batch& batch) const {
  const BlockRun& run = batch.front();
  return !hurried_.load(std::memory_order_relaxed) && absl::Now() - started_ < kMaxWindowWait &&
         parts_.queue.huge(*run.block) != HugePages::kNever &&
         parts_.loader.IsAtHand(*run.block, run.pages);
}

void WorkingSetThread::AwaitHurry() {
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithDeadline(absl::Condition(this, &WorkingSetThread::HurriedOrQuit),
                        started_ + kMaxWindowWait);
}

bool WorkingSetThread::HurriedOrQuit() const { return hurried_ || quit_; }

void WorkingSetThread::ReleaseTaken() {
  if (quit_) return;
  for (const Added& added : taken_) added.loaded();
  taken_.clear();
}

bool WorkingSetThread::MayHurry() const {
  return hurried_.load(std::memory_order_relaxed) || absl::Now() - started_ > kMaxResume;
}

PageRun WorkingSetThread::PagesOf(const Extent& extent, const RamBlock& block) {
  const uint64_t first = block.PageAt(extent.offset);
  return {first, block.PageAt(extent.offset + extent.length - 1) + 1 - first};
}

// Before the guest runs, for it takes a while.
void WorkingSetThread::FindWindows(const std::deque<Batch>& ahead) {
  wanted_.clear();
  std::vector<std::vector<uint32_t>> places(blocks_.size());  // in wanted_, by window; from 1
  const auto count = [&](RamBlock& block, PageRun pages) {
    const uint64_t window_pages = WindowPages(block);
    std::vector<uint32_t>& place_of = places[block.index()];
    if (place_of.empty()) place_of.resize(block.pages() / window_pages + 2);
    while (pages.count > 0) {
      const PageRun window = WindowOf(block, pages.first);
      const uint64_t inside = std::min(pages.count, window.end() - pages.first);
      // The first window may be a short one.
      uint32_t& place = place_of[(window.first + window_pages - 1) / window_pages];
      if (place == 0) {
        wanted_.push_back({&block, window});
        place = static_cast<uint32_t>(wanted_.size());
      }
      wanted_[place - 1].pages += inside;
      pages = {pages.first + inside, pages.count - inside};
    }
  };
  for (const Batch& batch : ahead) {
    for (const BlockRun& run : batch) count(*run.block, run.pages);
  }
  for (size_t i = next_; i < todo_.size(); ++i) {
    RamBlock* const block = blocks_[todo_[i].block];
    if (block != nullptr) count(*block, PagesOf(todo_[i], *block));
  }
}

// Where the content is in memory and huge pages are wanted, whole windows come, and not only their
// pages that are in the set: that is the shorter way. So it is from a disk, if they have many pages
// in the set. All are claimed before the first is loaded, for the guest would spoil them by having
// a page alone.
void WorkingSetThread::ClaimWindows() {
  for (const WantedWindow& want : wanted_) {
    RamBlock& block = *want.block;
    if (want.window.count < WindowPages(block)) continue;
    if (parts_.queue.huge(block) == HugePages::kNever) continue;
    const bool dense = want.pages * kDense >= block.CountNonzero(want.window);
    if (!dense && !parts_.loader.IsAtHand(block, want.window)) continue;
    parts_.queue.PutFirst({.block = &block,
                           .run = want.window,
                           .of_working_set = true,
                           .claim = parts_.loader.ClaimWindow(block, want.window),
                           .even_from_disk = dense});
  }
}

void WorkingSetThread::LoadWindows() {
  while (!quit_) {
    std::optional<EagerQueue::Window> window = parts_.queue.NextFirst();
    if (!window) return;
    windows_.LoadWindow(*std::move(window));
  }
}

// The next runs of attached blocks, in order of the file; empty if there are none.
WorkingSetThread::Batch WorkingSetThread::NextBatch() {
  Batch runs;
  const uint64_t most =
      MayHurry() && batch_bytes_ > 0 ? std::min(2 * batch_bytes_, kMaxBatchBytes) : kMinBatchBytes;
  for (uint64_t room = most; room > 0 && next_ < todo_.size();) {
    Extent& extent = todo_[next_];
    RamBlock* const block = blocks_[extent.block];
    if (block == nullptr) {
      skipped_.push_back(extent);
      ++next_;
      continue;
    }
    const PageRun pages = PagesOf(extent, *block);
    PageRun pending = block->FindPending(pages.first, pages.end());
    if (pending.count == 0) {
      ++next_;
      continue;
    }
    pending.count = std::min(pending.count, std::max<uint64_t>(1, room / block->page_size()));
    runs.push_back({block, pending});
    room -= std::min(room, block->BytesOf(pending.count));
    const uint64_t end = extent.offset + extent.length;
    extent.offset = block->BytesOf(pending.end());
    extent.length = end - std::min(end, extent.offset);
    if (extent.length == 0) ++next_;
  }
  if (!runs.empty()) batch_bytes_ = most;
  return Joined(std::move(runs));
}

WorkingSetThread::Batch WorkingSetThread::Joined(Batch runs) const {
  std::sort(runs.begin(), runs.end(),
            [this](const BlockRun& a, const BlockRun& b) { return FileOffset(a) < FileOffset(b); });
  Batch joined;
  for (const BlockRun& run : runs) {
    if (!joined.empty() && joined.back().block == run.block &&
        run.pages.first <= joined.back().pages.end() + kMaxGapBytes / run.block->page_size()) {
      PageRun& last = joined.back().pages;
      last.count = std::max(last.end(), run.pages.end()) - last.first;
    } else {
      joined.push_back(run);
    }
  }
  return joined;
}

uint64_t WorkingSetThread::FileOffset(const BlockRun& run) const {
  return parts_.snapshot.blocks()[run.block->index()].pages_offset +
         run.block->BytesOf(run.pages.first);
}

void WorkingSetThread::Prefetch(const Batch& batch) const {
  for (const BlockRun& run : batch) {
    const size_t index = run.block->index();
    const uint64_t offset = run.block->BytesOf(run.pages.first);
    const uint64_t limit = parts_.snapshot.blocks()[index].used_length;  // which may end in a page
    parts_.source.Prefetch(index, offset,
                           std::min(run.block->BytesOf(run.pages.count), limit - offset));
  }
}

void WorkingSetThread::Load(const Batch& batch) {
  for (const BlockRun& run : batch) {
    windows_.LoadRuns(*run.block, run.pages, &parts_.stats.working_set);
  }
}

}  // namespace ramjet
