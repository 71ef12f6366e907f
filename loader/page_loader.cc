// The page's trip, and why nothing is lost on it.
//
// Install, receive, wake, in this order, the first two inside the gate. A fault that was dropped
// because of a claim is thereby followed by a wake that comes after `received` is visible; it
// faults again and is seen truly. (tests/model shows that waking inside the gate would do, too;
// what must not leave the gate is `received`, and giving a claim back.) Every way out of a claim
// wakes, but two: kAgain, kNoMemory and kUnread of a faulted page give the claim back without a
// wake, since the fault thread holds the waiter's fault and comes again; whoever claims the page
// meanwhile wakes it. And where the VM is being stopped, who waits for a page that cannot be had
// goes on waiting: it must not run on.
//
// A faulted page is claimed before it is read, so that it is read once however many vCPUs touch it.
// Ahead of need it is the other way round: a run is read first and claimed when it is there, piece
// by piece, for the time of one ioctl. So a fault on a page in a run that is being read from a slow
// disk is nobody's hostage: the fault thread claims the page, reads it alone, and the run goes
// without it. What that costs is a page read twice now and then. The exception are whole windows:
// page_loader_windows.cc.
//
// A claimed page may be discarded at any time before its install. InstallGate says why the last
// look at `nonzero` and the install have to happen inside the gate. What is discarded is claimed by
// the discard, so that a claim for a page ahead of need, made inside the gate, finds only what is
// still wanted. A faulted page that was discarded in flight is received already; it is zero, and
// the claimant's wake makes its waiters see that.
//
// EEXIST on an install means that the page is there although nobody received it. That cannot happen
// to memory that is empty when it is registered and ours alone to fill; it is counted
// (`redundant`), marked received and woken, never ignored: a waiter whose page exists would
// otherwise sleep for ever.
//
// Memory with an alias is filled through the alias and then mapped (Continue). Both happen inside
// the gate: content that was written through the alias, and discarded since, would come back by the
// next fault. A page whose content is in the page cache and not mapped is still missing for
// everybody but the one who has claimed it.
#include "loader/page_loader.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "loader/run_reader.h"

namespace ramjet {
namespace {

constexpr int kReadAttempts = 4;
// One ioctl's worth, which is how long a claim of a run lasts: a copy costs no less a byte above
// it.
constexpr uint64_t kMaxInstallBytes = 64 << 10;
// The largest page of hugetlb that there is on x86-64 and arm64, but for 16 GiB ones.
constexpr uint64_t kMaxPageBytes = 1 << 30;

// Sleeps a little longer each time. For threads that nobody waits for.
class Patience {
 public:
  // False once the sleeps add up to about a second.
  bool Sleep() {
    timespec time{.tv_sec = 0, .tv_nsec = sleep_ns_};
    nanosleep(&time, nullptr);
    slept_ns_ += sleep_ns_;
    sleep_ns_ = std::min(sleep_ns_ * 2, kMaxSleepNs);
    return slept_ns_ < 1'000'000'000;
  }

 private:
  static constexpr int64_t kMaxSleepNs = 2'000'000;
  int64_t sleep_ns_ = 50'000;
  int64_t slept_ns_ = 0;
};

// memcpy() to where the kernel may have no memory to give, which would be a SIGBUS.
bool WriteSafely(uintptr_t to, const uint8_t* from, uint64_t length) {
  const iovec local{.iov_base = const_cast<uint8_t*>(from), .iov_len = length};
  const iovec remote{.iov_base = reinterpret_cast<void*>(to), .iov_len = length};
  const ssize_t written = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
  return written == static_cast<ssize_t>(length);
}

absl::Status NoMemoryError(const RamBlock& block, uint64_t page) {
  return absl::ResourceExhaustedError(absl::StrCat("block \"", block.idstr(), "\", page ", page,
                                                   ": the kernel has no memory for it"));
}

absl::Status RefusedError(const RamBlock& block, uint64_t page) {
  return absl::InternalError(absl::StrCat("block \"", block.idstr(), "\", page ", page,
                                          ": the kernel refuses to install it"));
}

}  // namespace

absl::Status PageLoader::PrepareZeros(uint64_t page_bytes) {
  if (page_bytes > kMaxPageBytes) {
    return absl::FailedPreconditionError("its pages are larger than 1 GiB");
  }
  if (zeros_) return absl::OkStatus();
  absl::StatusOr<PageBuffer> zeros = PageBuffer::CreateZeros(kMaxPageBytes);
  if (!zeros.ok()) return zeros.status();
  zeros_.emplace(*std::move(zeros));
  return absl::OkStatus();
}

Outcome PageLoader::LoadFaulted(RamBlock& block, uint64_t page, PageBuffer& buffer,
                                bool last_attempt) {
  const Trip trip(trips_);
  if (block.Claim({page, 1}) == 0) {
    return block.received(page) ? InstallZeroAgain(block, page) : Outcome::kInFlight;
  }
  uint8_t* const content = buffer.first(block.page_size()).data();
  if (block.nonzero(page)) {
    const absl::Status read = ReadRun(parts_.demand, block, {page, 1}, content);
    if (absl::IsUnavailable(read) && !last_attempt) {
      Count(parts_.stats.read_retries, 1);
      const InsideGate inside(parts_.gate);
      block.Unclaim({page, 1});
      return Outcome::kUnread;
    }
    if (!read.ok()) return Poison(block, page, read);
  }
  return InstallFaulted(block, page, content, last_attempt);
}

void PageLoader::PrefetchFaulted(const RamBlock& block, uint64_t page) const {
  if (!block.pending(page)) return;
  const RamBlock::Extent stored = block.FindStored({page, 1}, block.BytesOf(page));
  if (stored.length > 0) parts_.demand.Prefetch(block.index(), stored.offset, stored.length);
}

Outcome PageLoader::InstallFaulted(RamBlock& block, uint64_t page, const uint8_t* content,
                                   bool last_attempt) {
  Installed installed;
  bool nonzero;
  bool completed = false;
  {
    const InsideGate inside(parts_.gate);
    nonzero = block.nonzero(page);
    installed = nonzero ? InstallContent(block, {page, 1}, content) : InstallZero(block, page);
    switch (installed.result) {
      case InstallResult::kDone:
      case InstallResult::kExists:
      case InstallResult::kGone:  // unmapped: nobody can need it
        Count(nonzero ? parts_.stats.faulted : parts_.stats.zeroed, 1);
        // A page discarded while it was in flight is received already.
        if (!block.received(page)) completed = block.MarkReceived({page, 1});
        break;
      case InstallResult::kNoMemory:
      case InstallResult::kNothing:
        if (last_attempt) break;
        [[fallthrough]];
      case InstallResult::kAgain:
        block.Unclaim({page, 1});
        break;
      case InstallResult::kRefused:
        break;
    }
  }
  switch (installed.result) {
    case InstallResult::kExists:
      Count(parts_.stats.redundant, 1);
      [[fallthrough]];
    case InstallResult::kDone:
    case InstallResult::kGone:
      break;
    case InstallResult::kAgain:
      return Outcome::kAgain;
    case InstallResult::kNoMemory:
    case InstallResult::kNothing:
      if (!last_attempt) return Outcome::kNoMemory;
      return Poison(block, page, NoMemoryError(block, page));
    case InstallResult::kRefused:
      return Poison(block, page, RefusedError(block, page));
  }
  Wake(block, {page, 1});
  if (completed) parts_.progress.Note();
  return Outcome::kLoaded;
}

// The page had arrived. If it is missing now it was discarded, so it is zero. Not so a poisoned
// one: its fault is older than the poison, which the kernel would replace by zeros in shared
// memory.
Outcome PageLoader::InstallZeroAgain(RamBlock& block, uint64_t page) {
  if (block.poisoned(page)) {
    Wake(block, {page, 1});
    return Outcome::kReceived;
  }
  const Installed installed = InstallZero(block, page);
  if (installed.result == InstallResult::kAgain) return Outcome::kAgain;
  if (installed.result == InstallResult::kNoMemory) return Outcome::kNoMemory;
  if (installed.result == InstallResult::kDone) Count(parts_.stats.zeroed, 1);
  Wake(block, {page, 1});
  return Outcome::kReceived;
}

void PageLoader::LoadAhead(RamBlock& block, PageRun run, PageBuffer& buffer,
                           std::atomic<uint64_t>* also) {
  uint8_t* const content = buffer.first(block.BytesOf(run.count)).data();
  if (ReadRun(parts_.bulk, block, run, content).ok()) {
    InstallAhead(block, run, content, also);
  } else {
    LoadSingly(block, run, content, also);
  }
}

// Saves what can be saved of a run that could not be read whole.
void PageLoader::LoadSingly(RamBlock& block, PageRun run, uint8_t* content,
                            std::atomic<uint64_t>* also) {
  for (PageRun part = block.FindPending(run.first, run.end()); part.count > 0 && !quit_;
       part = block.FindPending(part.first + 1, run.end())) {
    const PageRun one{part.first, 1};
    const absl::Status read = ReadPatiently(block, one, content);
    if (read.ok()) {
      InstallAhead(block, one, content, also);
    } else {
      PoisonAhead(block, one.first, read);
    }
  }
}

// `content` is that of the whole run.
void PageLoader::InstallAhead(RamBlock& block, PageRun run, const uint8_t* content,
                              std::atomic<uint64_t>* also) {
  const uint64_t most_pages = std::max<uint64_t>(1, kMaxInstallBytes / block.page_size());
  Patience patience;
  bool one_by_one = false;
  for (uint64_t at = run.first; !quit_;) {
    PageRun part;
    Installed installed;
    uint64_t arrived;
    bool completed = false;
    {
      const Trip trip(trips_);
      {
        const InsideGate inside(parts_.gate);
        part = block.FindPending(at, run.end());
        if (part.count == 0) return;
        part.count = block.Claim({part.first, std::min(part.count, one_by_one ? 1 : most_pages)});
        if (part.count == 0) continue;  // a fault was faster
        installed = InstallContent(block, part, content + block.BytesOf(part.first - run.first));
        arrived = installed.length / block.page_size();
        const bool next_settled =
            installed.result == InstallResult::kExists ||
            (installed.result == InstallResult::kGone && part.count == 1);  // unmapped
        if (next_settled) ++arrived;
        // Before the last page is noted, for whoever waits for that reads the sums.
        Count(parts_.stats.eager, arrived);
        if (also != nullptr) Count(*also, arrived);
        if (arrived > 0) completed = block.MarkReceived({part.first, arrived});
        if (arrived < part.count) block.Unclaim({part.first + arrived, part.count - arrived});
      }
      Wake(block, part);
    }
    if (completed) parts_.progress.Note();
    at = part.first + arrived;
    switch (installed.result) {
      case InstallResult::kDone:
        break;
      case InstallResult::kExists:
        Count(parts_.stats.redundant, 1);
        break;
      case InstallResult::kGone:
        one_by_one = true;  // the run may cross from one mapping into another
        break;
      case InstallResult::kAgain:
        Count(parts_.stats.postponed, 1);
        patience.Sleep();
        break;
      case InstallResult::kNoMemory:
      case InstallResult::kNothing:
        if (!patience.Sleep()) PoisonAhead(block, at, NoMemoryError(block, at));
        break;
      case InstallResult::kRefused:
        PoisonAhead(block, at, RefusedError(block, at));
        break;
    }
  }
}

// Asks again where that may help, for a thread that nobody waits for.
absl::Status PageLoader::ReadPatiently(const RamBlock& block, PageRun run, uint8_t* content) const {
  Patience patience;
  absl::Status read = ReadRun(parts_.bulk, block, run, content);
  for (int attempt = 1; attempt < kReadAttempts && absl::IsUnavailable(read) && !quit_; ++attempt) {
    Count(parts_.stats.read_retries, 1);
    patience.Sleep();
    read = ReadRun(parts_.bulk, block, run, content);
  }
  return read;
}

// kExists, after pages that were installed, if one is there already.
Installed PageLoader::InstallContent(const RamBlock& block, PageRun run,
                                     const uint8_t* content) const {
  const uint64_t length = block.BytesOf(run.count);
  if (block.memory().alias == 0) return parts_.uffd.Copy(block.AddrOf(run.first), content, length);
  if (!WriteSafely(block.memory().alias + block.BytesOf(run.first), content, length)) {
    return {InstallResult::kNoMemory, 0};
  }
  return parts_.uffd.Continue(block.AddrOf(run.first), length);
}

Installed PageLoader::InstallZero(const RamBlock& block, uint64_t page) const {
  const uintptr_t addr = block.AddrOf(page);
  const Installed installed =
      block.memory().zeroable
          ? parts_.uffd.Zero(addr, block.page_size())
          : parts_.uffd.Copy(addr, zeros_->first(block.page_size()).data(), block.page_size());
  if (installed.result != InstallResult::kExists || block.memory().alias == 0) return installed;
  // In the page cache, and perhaps not mapped.
  return parts_.uffd.Continue(addr, block.page_size());
}

// REQUIRES: the page is claimed by the caller. Says why once it is done, so that a kAgain on the
// way does not say it twice; and before anybody can notice.
Outcome PageLoader::Poison(RamBlock& block, uint64_t page, const absl::Status& why) {
  bool unwanted;
  bool poisoned = false;
  {
    const InsideGate inside(parts_.gate);
    unwanted = block.received(page);  // discarded meanwhile, so it is zero, and no harm is done
    if (!unwanted && parts_.may_poison && parts_.uffd.features().poison) {
      switch (parts_.uffd.Poison(block.AddrOf(page), block.page_size()).result) {
        case InstallResult::kDone:
        case InstallResult::kExists:
        case InstallResult::kGone:
          poisoned = true;
          parts_.stats.AddError(why);
          Count(parts_.stats.poisoned, 1);
          block.MarkPoisoned(page);
          break;
        case InstallResult::kAgain:
          block.Unclaim({page, 1});
          return Outcome::kAgain;
        case InstallResult::kNoMemory:
        case InstallResult::kNothing:
        case InstallResult::kRefused:
          break;
      }
    }
  }
  if (!unwanted && !poisoned) {
    parts_.stats.AddError(why);
    parts_.vm_stop.Stop(why);
    parts_.progress.Note();
    return Outcome::kFailed;
  }
  Wake(block, {page, 1});
  if (poisoned) parts_.progress.Note();
  return unwanted ? Outcome::kReceived : Outcome::kFailed;
}

void PageLoader::PoisonAhead(RamBlock& block, uint64_t page, const absl::Status& why) {
  Patience patience;
  while (!quit_ && block.Claim({page, 1}) == 1) {
    const Trip trip(trips_);
    if (Poison(block, page, why) != Outcome::kAgain) return;
    Wake(block, {page, 1});
    patience.Sleep();
  }
}

void PageLoader::Discard(RamBlock& block, uintptr_t start, uintptr_t end) {
  const GateClosed closed(parts_.gate);
  DiscardInClosedGate(block, start, end);
}

void PageLoader::DiscardInClosedGate(RamBlock& block, uintptr_t start, uintptr_t end) {
  const PageRun run = block.PagesInside(start, end);
  if (run.count == 0) return;
  const RamBlock::Discarded discarded = block.Discard(run);
  Count(parts_.stats.removed, discarded.pages);
  if (discarded.block_completed) parts_.progress.Note();
}

void PageLoader::Wake(const RamBlock& block, PageRun run) const {
  if (run.count > 0) parts_.uffd.Wake(block.AddrOf(run.first), block.BytesOf(run.count));
}

}  // namespace ramjet
