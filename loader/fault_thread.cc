#include "loader/fault_thread.h"

#include <ctime>
#include <utility>

namespace ramjet {
namespace {

// A parked fault is tried again after this long, and twice as long each time nothing came of it, up
// to the maximum.
constexpr int64_t kMinRetryNs = 50'000;
constexpr int64_t kMaxRetryNs = 2'000'000;
// About two seconds of kMaxRetryNs. After that, memory will not come and a block will not be
// attached.
constexpr uint32_t kMaxAttempts = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<FaultThread>> FaultThread::Start(const Userfaultfd& uffd,
                                                                const RamMap& map,
                                                                PageLoader& loader,
                                                                InstallGate& gate, LoadStats& stats,
                                                                size_t page_bytes) {
  absl::StatusOr<EventReader> reader = EventReader::Create(uffd);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(page_bytes);
  if (!buffer.ok()) return buffer.status();
  std::unique_ptr<FaultThread> self(
      new FaultThread(map, loader, gate, stats, *std::move(reader), *std::move(buffer)));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-fault", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

FaultThread::FaultThread(const RamMap& map, PageLoader& loader, InstallGate& gate, LoadStats& stats,
                         EventReader reader, PageBuffer buffer)
    : map_(map),
      loader_(loader),
      gate_(gate),
      stats_(stats),
      reader_(std::move(reader)),
      buffer_(std::move(buffer)) {}

FaultThread::~FaultThread() {
  stop_.store(true);
  reader_.Poke();
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
  int64_t retry_ns = kMinRetryNs;
  while (!stop_.load()) {
    reader_.Wait(parked_count_ == 0 ? -1 : retry_ns);
    // Taken before reading: whatever Sync() waits for was read in an earlier round, or is read in
    // this one.
    const uint32_t ticket = sync_wanted_.load();
    while (ReadAndServe()) {
    }
    if (sync_done_.exchange(ticket) != ticket) sync_done_.notify_all();

    const size_t before = parked_count_;
    RetryParked();
    retry_ns = parked_count_ < before ? kMinRetryNs : std::min(retry_ns * 2, kMaxRetryNs);
  }
}

// True if there is probably more to read.
bool FaultThread::ReadAndServe() {
  if (parked_count_ + EventReader::kBatch > kMaxParked) return false;
  bool more;
  Events events;
  {
    // InstallGate says why.
    GateClosed closed(gate_);
    events = reader_.Read(more);
    for (const RemoveEvent& remove : events.removes) {
      for (uintptr_t at = remove.start; at < remove.end;) {
        RamBlock* const block = map_.FindFrom(at);
        if (block == nullptr || block->host() >= remove.end) break;
        loader_.DiscardInClosedGate(*block, remove.start, remove.end);
        at = block->host() + block->length();
      }
    }
  }
  const uint64_t now_ns = events.faults.empty() ? 0 : NowNs();
  stats_.faults.fetch_add(events.faults.size(), std::memory_order_relaxed);
  for (const MissingFault& fault : events.faults) {
    Serve({.addr = fault.addr, .read_ns = now_ns, .attempts = 0});
  }
  return more;
}

void FaultThread::Serve(Fault fault) {
  RamBlock* const block = map_.Find(fault.addr);
  Outcome outcome = Outcome::kAgain;
  if (block != nullptr) {
    const uint64_t page = block->PageOf(fault.addr);
    outcome = loader_.LoadFaulted(*block, page, buffer_);
    if (outcome == Outcome::kNoMemory && fault.attempts >= kMaxAttempts) {
      outcome = loader_.GiveUp(*block, page);
    }
  } else if (fault.attempts >= kMaxAttempts) {
    return;  // its block was never attached, so it has been unregistered, which woke the waiter
  }
  switch (outcome) {
    case Outcome::kLoaded:
    case Outcome::kReceived:
      stats_.fault_ns.Add(NowNs() - fault.read_ns);
      break;
    case Outcome::kInFlight:
      stats_.in_flight.fetch_add(1, std::memory_order_relaxed);
      break;
    case Outcome::kFailed:
      break;
    case Outcome::kAgain:
    case Outcome::kNoMemory:
      if (fault.attempts++ == 0) stats_.parked.fetch_add(1, std::memory_order_relaxed);
      parked_[parked_count_++] = fault;
      break;
  }
}

void FaultThread::RetryParked() {
  // Serve() parks again, at the front, what it cannot answer yet; it never gets ahead of the
  // reading index.
  const size_t count = std::exchange(parked_count_, 0);
  for (size_t i = 0; i < count; ++i) Serve(parked_[i]);
}

uint64_t FaultThread::NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace ramjet
