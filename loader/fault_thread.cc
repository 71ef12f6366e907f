#include "loader/fault_thread.h"

#include <algorithm>
#include <utility>

#include "loader/outcome.h"

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

uint64_t RetryDelayNs(uint32_t attempts) {
  return static_cast<uint64_t>(std::min(kMinRetryNs << std::min(attempts, 10u), kMaxRetryNs));
}

// Holds any page but a huge one.
constexpr uint64_t kFirstBufferBytes = 64 << 10;

}  // namespace

absl::StatusOr<std::unique_ptr<FaultThread>> FaultThread::Start(const Parts& parts) {
  absl::StatusOr<EventReader> reader = EventReader::Create(parts.uffd);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<PageBuffer> buffer = PageBuffer::CreateAbsent(kFirstBufferBytes);
  if (!buffer.ok()) return buffer.status();
  std::unique_ptr<FaultThread> self(new FaultThread(parts, *std::move(reader), *std::move(buffer)));
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
      windows_({.trip = parts.window_trip,
                .queue = parts.eager_queue,
                .policy = parts.huge_pages,
                .offers = parts.offers,
                .stats = parts.stats}),
      watchdog_({.uffd = parts.uffd,
                 .map = parts.map,
                 .loader = parts.loader,
                 .vm_stop = parts.vm_stop,
                 .stats = parts.stats}) {}

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
    AwaitEvents(parked_.empty() ? watchdog_.pause_ns() : retry_ns);
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

    const size_t before = parked_.count();
    RetryParked();
    retry_ns = parked_.count() < before ? kMinRetryNs : std::min(retry_ns * 2, kMaxRetryNs);
    if (parked_.empty()) watchdog_.Watch();
  }
}

void FaultThread::AwaitEvents(int64_t timeout_ns) {
  windows_.TouchAhead();
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
  if (!events.faults.empty()) ServeBatch(events.faults);
  return more;
}

void FaultThread::ServeBatch(absl::Span<const MissingFault> events) {
  const uint64_t now_ns = MonotonicNs();
  for (size_t i = 0; i < events.size(); ++i) {
    batch_[i] = {.addr = events[i].addr, .read_ns = now_ns};
    Translate(batch_[i]);
  }
  const absl::Span<const Fault> faults(batch_.data(), events.size());
  parts_.stats.faults.fetch_add(faults.size(), std::memory_order_relaxed);
  windows_.BeginBatch(faults.size());
  if (faults.size() > 1 && !windows_.MayComeFromDisk()) Prefetch(faults);
  const FaultWindows::Offered offered = windows_.Offer(faults);
  for (size_t i = 0; i < faults.size(); ++i) {
    if (i < offered.size() && offered[i] && windows_.LoadOffered(faults[i])) continue;
    Serve(faults[i]);
  }
  if (can_spin_) served_ns_ = MonotonicNs();
}

void FaultThread::Translate(Fault& fault) const {
  fault.block = parts_.map.Find(fault.addr);
  if (fault.block != nullptr) fault.page = fault.block->PageOf(fault.addr);
}

// Of several threads that wait for a disk each would wait for all before it, too. Here the disk's
// queue has their pages all at once.
void FaultThread::Prefetch(absl::Span<const Fault> faults) const {
  for (const Fault& fault : faults) {
    if (fault.block != nullptr) parts_.loader.PrefetchFaulted(*fault.block, fault.page);
  }
}

void FaultThread::Serve(Fault fault) {
  if (fault.block == nullptr) Translate(fault);
  RamBlock* const block = fault.block;
  if (block == nullptr) {
    // In the end its block was never attached, so it has been unregistered, which woke the waiter.
    if (fault.attempts < kMaxAttempts) Park(fault);
    return;
  }
  const uint64_t page = fault.page;
  if (fault.tell_by_ns != 0) {
    GiveUp(fault);
    return;
  }
  // Pages of zeros are left out: they need no reading.
  if (parts_.record != nullptr && fault.attempts == 0 && block->pending(page) &&
      block->nonzero(page)) {
    parts_.record->Note(block->index(), page);
  }
  if (fault.attempts == 0 && windows_.Load(fault)) return;
  const Outcome outcome = parts_.loader.LoadFaulted(*block, page, buffer_, fault.failing);
  switch (outcome) {
    case Outcome::kLoaded:
      parts_.eager_queue.Hint(*block, page);
      [[fallthrough]];
    case Outcome::kReceived:
      parts_.stats.fault_ns.Add(MonotonicNs() - fault.read_ns);
      break;
    case Outcome::kInFlight:
      parts_.eager_queue.priority().NoteWaiting(*block, page);
      parts_.stats.in_flight.fetch_add(1, std::memory_order_relaxed);
      break;
    case Outcome::kFailed:
      break;
    case Outcome::kLost:
      fault.tell_by_ns = MonotonicNs() + PageLoader::kMaxTellingNs;
      fault.errors = parts_.stats.error_count();
      GiveUp(fault);
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
void FaultThread::GiveUp(Fault fault) {
  if (parts_.stats.told(fault.errors) || MonotonicNs() >= fault.tell_by_ns) {
    const Outcome outcome = parts_.loader.GiveUp(*fault.block, fault.page);
    if (outcome != Outcome::kAgain && outcome != Outcome::kNoMemory) return;
  }
  fault.retry_ns = 0;
  Park(fault);
}

void FaultThread::Park(const Fault& fault) {
  // A page that is lost, and therefore claimed, was parked before: it finds the room that it had.
  if (parked_.Park(fault) && fault.attempts == 0) {
    parts_.stats.parked.fetch_add(1, std::memory_order_relaxed);
  }
}

void FaultThread::RetryParked() {
  if (parked_.empty()) return;
  parked_.Retry(MonotonicNs(), [this](const Fault& fault) { Serve(fault); });
  if (parked_.TakeOverflow()) watchdog_.WakeAll();
}

}  // namespace ramjet
