#include "loader/fault_thread.h"

#include <algorithm>
#include <utility>

namespace ramjet {
namespace {

// A parked fault is tried again after this long, and twice as long each time nothing came of it, up
// to the maximum.
constexpr int64_t kMinRetryNs = 50'000;
constexpr int64_t kMaxRetryNs = 2'000'000;
// About two seconds of kMaxRetryNs. After that a block will not be attached.
constexpr uint32_t kMaxAttempts = 1000;

// From the answer to a fault until the guest's next one, if it does little in between: its waking,
// for the most part.
constexpr uint64_t kSpinNs = 40'000;
constexpr unsigned kMaxVainSpins = 8;

constexpr int64_t kWatchNs = 1'000'000'000;
// So many more looks, this far apart, have to see somebody before anything is believed to be lost.
constexpr unsigned kWatchesAgain = 10;
constexpr int64_t kWatchAgainNs = 20'000'000;

uint64_t RetryDelayNs(uint32_t attempts) {
  return static_cast<uint64_t>(std::min(kMinRetryNs << std::min(attempts, 10u), kMaxRetryNs));
}

// A disk brings a page in a tenth of the time that it takes for a window. A guest that has asked
// for so many pages, which had to come alone, is going on to ask...
constexpr int kEnoughAlone = 16;
// ...and is given windows from a disk, too: unless more than these wait for this thread, to whom
// a page each comes sooner,
constexpr size_t kMaxWaitingForWindows = 2;
// or a window has taken longer than this. Then it is the turn of pages again.
constexpr uint64_t kMaxDiskWindowNs = 4'000'000;

// Holds any page but a huge one.
constexpr uint64_t kFirstBufferBytes = 64 << 10;

}  // namespace

absl::StatusOr<std::unique_ptr<FaultThread>> FaultThread::Start(const Parts& parts) {
  absl::StatusOr<EventReader> reader = EventReader::Create(parts.uffd);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<PageBuffer> buffer = PageBuffer::CreateAbsent(kFirstBufferBytes);
  if (!buffer.ok()) return buffer.status();
  std::unique_ptr<FaultThread> self(new FaultThread(parts, *std::move(reader), *std::move(buffer)));
  absl::StatusOr<HugeStaging> staging = HugeStaging::Create();
  if (staging.ok()) self->staging_.emplace(*std::move(staging));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-fault", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

FaultThread::FaultThread(const Parts& parts, EventReader reader, PageBuffer buffer)
    : parts_(parts),
      can_spin_(UsableProcessors() > 1),
      reader_(std::move(reader)),
      buffer_(std::move(buffer)),
      queue_(parts.uffd) {}

FaultThread::~FaultThread() {
  stop_.store(true);
  reader_.Poke();
  thread_.reset();
  delete grown_.load();
}

absl::Status FaultThread::Grow(uint64_t page_bytes) {
  if (page_bytes <= kFirstBufferBytes) return absl::OkStatus();
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(page_bytes);
  if (!buffer.ok()) return buffer.status();
  delete grown_.exchange(new PageBuffer(*std::move(buffer)));
  Sync();  // it is taken over before anything is read for it
  return absl::OkStatus();
}

void FaultThread::Sync() {
  const uint32_t ticket = sync_wanted_.fetch_add(1) + 1;
  reader_.Poke();
  // Differences, for the counters may wrap.
  for (uint32_t done = sync_done_.load(); static_cast<int32_t>(done - ticket) < 0;
       done = sync_done_.load()) {
    sync_done_.wait(done);
  }
}

void FaultThread::Run() {
  buffer_.Touch();
  int64_t retry_ns = kMinRetryNs;
  while (!stop_.load()) {
    AwaitEvents(parked_count_ > 0 ? retry_ns : suspicions_ > 0 ? kWatchAgainNs : kWatchNs);
    // Taken first: whatever Sync() waits for, a larger buffer among it, was there in an earlier
    // round, or is seen in this one.
    const uint32_t ticket = sync_wanted_.load();
    if (PageBuffer* const grown = grown_.exchange(nullptr)) {
      if (grown->size() > buffer_.size()) buffer_ = std::move(*grown);
      delete grown;
    }
    while (ReadAndServe()) {
    }
    if (sync_done_.exchange(ticket) != ticket) sync_done_.notify_all();

    const size_t before = parked_count_;
    RetryParked();
    retry_ns = parked_count_ < before ? kMinRetryNs : std::min(retry_ns * 2, kMaxRetryNs);
    if (parked_count_ == 0) Watch();
  }
}

void FaultThread::AwaitEvents(int64_t timeout_ns) {
  // For the next window, while nobody waits: a huge page takes the kernel a tenth of a millisecond.
  if (std::exchange(staging_spent_, false) && staging_->fit()) (void)staging_->Touch();
  if (served_ns_ != 0 && vain_spins_ < kMaxVainSpins) {
    while (MonotonicNs() - served_ns_ < kSpinNs) {
      if (!reader_.Wait(0)) continue;
      vain_spins_ = 0;
      return;
    }
    ++vain_spins_;
  }
  reader_.Wait(timeout_ns);
  // It came so soon that looking for it would have been worth it.
  if (served_ns_ != 0 && MonotonicNs() - served_ns_ < 2 * kSpinNs) vain_spins_ = 0;
  served_ns_ = 0;
}

// True if there is probably more to read.
bool FaultThread::ReadAndServe() {
  bool more;
  Events events;
  {
    // InstallGate says why.
    const GateClosed closed(parts_.gate);
    events = reader_.Read(more);
    for (const RemoveEvent& remove : events.removes) {
      for (uintptr_t at = remove.start; at < remove.end;) {
        RamBlock* const block = parts_.map.FindFrom(at);
        if (block == nullptr || block->host() >= remove.end) break;
        parts_.loader.DiscardInClosedGate(*block, remove.start, remove.end);
        at = block->host() + block->length();
      }
    }
  }
  const uint64_t now_ns = events.faults.empty() ? 0 : MonotonicNs();
  parts_.stats.faults.fetch_add(events.faults.size(), std::memory_order_relaxed);
  crowded_ = events.faults.size() > kMaxWaitingForWindows;
  if (events.faults.size() > 1 && !WindowsMayComeFromDisk()) Prefetch(events.faults);
  const Offered offered = OfferWindows(events.faults, now_ns);
  for (size_t i = 0; i < events.faults.size(); ++i) {
    const uintptr_t addr = events.faults[i].addr;
    if (i < offered.size() && offered[i] && ServeOffered(addr)) continue;
    Serve({.addr = addr, .read_ns = now_ns});
  }
  if (!events.faults.empty() && can_spin_) served_ns_ = MonotonicNs();
  return more;
}

// Of several who wait for a disk each would wait for all before it, too. Here the disk's queue has
// them all at once.
void FaultThread::Prefetch(absl::Span<const MissingFault> faults) const {
  for (const MissingFault& fault : faults) {
    const RamBlock* const block = parts_.map.Find(fault.addr);
    if (block != nullptr) parts_.loader.PrefetchFaulted(*block, block->PageOf(fault.addr));
  }
}

// Of several who wait for windows each would wait for those before it, too. While this thread
// brings the first, those that load ahead may as well bring the others.
FaultThread::Offered FaultThread::OfferWindows(absl::Span<const MissingFault> faults,
                                               uint64_t read_ns) {
  Offered offered;
  if (faults.size() < 2 || !staging_ || !staging_->fit()) return offered;
  const RamBlock* const first_block = parts_.map.Find(faults[0].addr);
  for (size_t i = 1; i < std::min(faults.size(), offered.size()); ++i) {
    RamBlock* const block = parts_.map.Find(faults[i].addr);
    if (block == nullptr) continue;
    const uint64_t page = block->PageOf(faults[i].addr);
    const PageRun window = WindowOf(*block, page);
    const bool is_first = block == first_block &&
                          WindowOf(*block, block->PageOf(faults[0].addr)).first == window.first;
    // A page of zeros is not to be had alone by who loads ahead, if the window cannot be.
    if (is_first || !block->nonzero(page) || block->AnyClaimed(window) ||
        !parts_.eager_queue.WantsWhole(*block, window) || !parts_.loader.IsCached(*block, window)) {
      continue;
    }
    std::optional<PageLoader::ClaimedWindow> claim = parts_.loader.ClaimWindow(*block, window);
    offered[i] = claim && parts_.eager_queue.offers().Give({*std::move(claim), page, read_ns});
    // Of a part, perhaps, and for a moment, in which who loads ahead has passed by.
    if (!offered[i]) parts_.eager_queue.PutBack(*block, window);
  }
  return offered;
}

// False: it could not be had, and is to be served as any other.
bool FaultThread::ServeOffered(uintptr_t addr) {
  RamBlock& block = *parts_.map.Find(addr);
  std::optional<WaitedWindow> waited =
      parts_.eager_queue.offers().Take(block, WindowOf(block, block.PageOf(addr)).first);
  if (!waited) {  // somebody brings it, or has brought it
    parts_.stats.in_flight.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  const PageRun window = waited->window.run();
  if (staging_ && staging_->fit() &&
      parts_.loader.LoadFaultedHuge(std::move(waited->window), *staging_, {.faulted = 1}) ==
          PageLoader::Whole::kLoaded) {
    parts_.stats.AddWindow(MonotonicNs() - waited->read_ns);
    return true;
  }
  waited.reset();
  parts_.eager_queue.PutBack(block, window);
  return false;
}

void FaultThread::Serve(Fault fault) {
  RamBlock* const block = parts_.map.Find(fault.addr);
  if (block == nullptr) {
    // In the end its block was never attached, so it has been unregistered, which woke the waiter.
    if (fault.attempts < kMaxAttempts) Park(fault);
    return;
  }
  const uint64_t page = block->PageOf(fault.addr);
  if (fault.tell_by_ns != 0) {
    GiveUp(fault, *block, page);
    return;
  }
  // Pages of zeros are left out: they need no reading.
  if (parts_.record != nullptr && fault.attempts == 0 && block->pending(page) &&
      block->nonzero(page)) {
    parts_.record->Note(block->index(), page);
  }
  if (fault.attempts == 0 && LoadWindow(*block, page)) {
    parts_.stats.AddWindow(MonotonicNs() - fault.read_ns);
    return;
  }
  const Outcome outcome = parts_.loader.LoadFaulted(*block, page, buffer_, fault.failing);
  switch (outcome) {
    case Outcome::kLoaded:
      parts_.eager_queue.Hint(*block, page);
      [[fallthrough]];
    case Outcome::kReceived:
      parts_.stats.fault_ns.Add(MonotonicNs() - fault.read_ns);
      break;
    case Outcome::kInFlight:
      parts_.eager_queue.HintWaiting(*block, page);
      parts_.stats.in_flight.fetch_add(1, std::memory_order_relaxed);
      break;
    case Outcome::kFailed:
      break;
    case Outcome::kLost:
      fault.tell_by_ns = MonotonicNs() + PageLoader::kMaxTellingNs;
      fault.errors = parts_.stats.error_count();
      GiveUp(fault, *block, page);
      break;
    case Outcome::kUnread:
    case Outcome::kDamaged:
      // The disk's time, and not the events of others, which wake this thread at any moment.
      if (!fault.failing.unread()) fault.attempts = std::min(fault.attempts, 1u);
      fault.failing.Note(outcome, MonotonicNs());
      fault.retry_ns = MonotonicNs() + RetryDelayNs(fault.attempts);
      Park(fault);
      break;
    case Outcome::kNoMemory:
      Count(parts_.stats.no_memory, 1);
      [[fallthrough]];
    case Outcome::kAgain:
      fault.failing.Note(outcome, MonotonicNs());
      fault.retry_ns = 0;
      Park(fault);
      break;
  }
}

// A lost page is poisoned once its reason has been told. A thread that sleeps on it may die of
// that, and the process with it.
void FaultThread::GiveUp(Fault fault, RamBlock& block, uint64_t page) {
  if (parts_.stats.told(fault.errors) || MonotonicNs() >= fault.tell_by_ns) {
    const Outcome outcome = parts_.loader.GiveUp(block, page);
    if (outcome != Outcome::kAgain && outcome != Outcome::kNoMemory) return;
  }
  fault.retry_ns = 0;
  Park(fault);
}

// Given its page alone, a guest soon asks for the next, and the huge page that memory is wanted to
// be has to be put together from small ones: several times the work. So, if the content is at hand,
// who touches an untouched window waits longer once and has all of it.
bool FaultThread::LoadWindow(RamBlock& block, uint64_t page) {
  const PageRun window = WindowOf(block, page);
  if (!parts_.eager_queue.WantsWhole(block, window)) return false;
  if (!staging_ || !staging_->fit()) return false;
  const uint64_t begun_ns = MonotonicNs();
  const bool pending = block.pending(page);
  switch (LoadOrTakeOver(block, window, page)) {
    case PageLoader::Whole::kLoaded:
      staging_spent_ = true;
      if (MonotonicNs() - begun_ns > kMaxDiskWindowNs) came_alone_ = 0;
      return true;
    case PageLoader::Whole::kNotAtHand:
      if (pending) came_alone_ = std::min(came_alone_ + 1, kEnoughAlone);
      return false;
    case PageLoader::Whole::kGivenBack:
      parts_.eager_queue.PutBack(block, window);
      return false;
  }
  return false;
}

PageLoader::Whole FaultThread::LoadOrTakeOver(RamBlock& block, PageRun window, uint64_t page) {
  if (block.pending(page)) {
    return parts_.loader.LoadFaultedHuge(block, window, page, *staging_, WindowsMayComeFromDisk());
  }
  // One of a working set, perhaps, that nobody has begun to read.
  if (block.received(page) || !parts_.loader.IsCached(block, window)) {
    return PageLoader::Whole::kNotAtHand;
  }
  std::optional<PageLoader::ClaimedWindow> claim = parts_.eager_queue.TryTakeClaim(block, window);
  if (!claim) return PageLoader::Whole::kNotAtHand;
  parts_.stats.in_flight.fetch_add(1, std::memory_order_relaxed);
  return parts_.loader.LoadFaultedHuge(*std::move(claim), *staging_,
                                       {.also = &parts_.stats.working_set});
}

bool FaultThread::WindowsMayComeFromDisk() const {
  return came_alone_ == kEnoughAlone && !crowded_;
}

void FaultThread::Park(Fault fault) {
  if (IsParked(fault.addr)) return;
  // One that is lost, and therefore claimed, was parked before: it finds the room that it had.
  if (parked_count_ == kMaxParked) {
    overflowed_ = true;
    return;
  }
  if (fault.attempts++ == 0) parts_.stats.parked.fetch_add(1, std::memory_order_relaxed);
  parked_[parked_count_++] = fault;
}

// One answer wakes all who sleep on a page, so one fault stands for all of them. A thread with
// a signal pending faults on its page again and again, without an end.
bool FaultThread::IsParked(uintptr_t addr) const {
  const RamBlock* const block = parts_.map.Find(addr);
  return std::any_of(parked_.begin(), parked_.begin() + static_cast<ptrdiff_t>(parked_count_),
                     [&](const Fault& parked) {
                       return block == nullptr
                                  ? parked.addr == addr
                                  : block->Contains(parked.addr) &&
                                        block->PageOf(parked.addr) == block->PageOf(addr);
                     });
}

void FaultThread::RetryParked() {
  // Serve() parks again, at the front, what it cannot answer yet; it never gets ahead of the
  // reading index.
  const size_t count = std::exchange(parked_count_, 0);
  const uint64_t now_ns = count > 0 ? MonotonicNs() : 0;
  for (size_t i = 0; i < count; ++i) {
    if (parked_[i].retry_ns <= now_ns) {
      Serve(parked_[i]);
    } else {
      parked_[parked_count_++] = parked_[i];
    }
  }
  if (overflowed_ && parked_count_ < kMaxParked / 2) {
    overflowed_ = false;
    WakeAll();  // who was left out faults again
  }
}

void FaultThread::WakeAll() {
  for (RamBlock* block = parts_.map.FindFrom(0); block != nullptr;
       block = parts_.map.FindFrom(block->host() + block->length())) {
    parts_.uffd.Wake(block->host(), block->length());
  }
}

// Called between batches: each fault that was read is served, or left to whoever had claimed its
// page, whose trip shows. With no trip under way, who still sleeps has been forgotten.
//
// Not all in the queue sleep. Whom a signal woke first, our wake does not take out of it: who then
// waits for a processor, on a machine that has too few, stays there until it runs.
void FaultThread::Watch() {
  const uint64_t now_ns = MonotonicNs();
  const int64_t wait_ns = suspicions_ > 0 ? kWatchAgainNs : kWatchNs;
  if (now_ns - watched_ns_ < static_cast<uint64_t>(wait_ns)) return;
  watched_ns_ = now_ns;
  // Who waits for a page that cannot be had, while the VM is being stopped, is to go on waiting.
  if (parts_.vm_stop.stopped() || !parts_.loader.idle()) return;
  const unsigned suspicions = std::exchange(suspicions_, 0);
  const std::optional<FaultQueue::Sleepers> before = queue_.Look();
  if (!before || before->owed == 0) return;
  if (suspicions < kWatchesAgain) {
    suspicions_ = suspicions + 1;
    return;
  }
  WakeAll();
  const std::optional<FaultQueue::Sleepers> after = queue_.Look();
  const uint64_t awake = after ? std::min(after->owed, before->owed) : 0;
  parts_.stats.rescued.fetch_add(before->owed - awake, std::memory_order_relaxed);
}

}  // namespace ramjet
