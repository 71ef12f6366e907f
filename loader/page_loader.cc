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
// Nothing is given up that no thread waits for. Ahead of need, a page that cannot be read stays
// pending: the disk may give it later, and the guest may never ask for it. A page that a thread
// waits for is asked for again (outcome.h); then it is lost, and stays claimed until the reason
// has been told (LoadStats::told()), for a guest or a VMM may die of the poison at once. Want of
// memory destroys nothing at all: whoever waits goes on waiting.
//
// A faulted page is claimed before it is read, so that it is read once however many vCPUs touch it.
// Ahead of need it is the other way round: a run is read first and claimed when it is there, piece
// by piece, for the time of one ioctl. So a fault on a page in a run that is being read from a slow
// disk is nobody's hostage: the fault thread claims the page, reads it alone, and the run goes
// without it. What that costs is a page read twice now and then. The exception are whole windows:
// window_trip.cc.
//
// A claimed page may be discarded at any time before its install. InstallGate says why the last
// look at `nonzero` and the install have to happen inside the gate. What is discarded is claimed by
// the discard, so that a claim for a page ahead of need, made inside the gate, finds only what is
// still wanted. A faulted page that was discarded in flight is received already; it is zero, and
// the claimant's wake makes its waiters see that.
//
// EEXIST on an install means that the page is there although nobody received it. That cannot happen
// to memory that is empty when it is registered and ours alone to fill. Where it does, somebody
// else has filled the page: the kernel with zeros for a huge page (shared memory, before Linux
// 6.4), or another mapping. If the page holds what the file has, no harm is done: it is counted
// (`redundant`), marked received and woken. If not, the guest may have read it already, and the VM
// is stopped.
//
// Memory with an alias is filled through the alias and then mapped (Continue). Both happen inside
// the gate: content that was written through the alias, and discarded since, would come back by the
// next fault. A page whose content is in the page cache and not mapped is still missing for
// everybody but the one who has claimed it.
#include "loader/page_loader.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "loader/backoff.h"
#include "loader/run_reader.h"
#include "loader/safe_copy.h"

namespace ramjet {
namespace {

// One ioctl's worth, which is how long a claim of a run lasts: a copy costs no less a byte above
// it.
constexpr uint64_t kMaxInstallBytes = 64 << 10;
// The largest page of hugetlb that there is on x86-64 and arm64, but for 16 GiB ones.
constexpr uint64_t kMaxPageBytes = 1 << 30;

// Whether the page, which is present, holds `content`.
bool Holds(const RamBlock& block, uint64_t page, const uint8_t* content) {
  std::array<uint8_t, 4096> piece;  // no system's pages are smaller
  for (uint64_t at = 0; at < block.page_size(); at += piece.size()) {
    const uintptr_t from = block.AddrOf(page) + at;
    if (CopySafely(piece.data(), reinterpret_cast<void*>(from), piece.size()) != 0) return false;
    if (std::memcmp(piece.data(), content + at, piece.size()) != 0) return false;
  }
  return true;
}

absl::Status ForeignError(const RamBlock& block, uint64_t page) {
  return absl::DataLossError(
      absl::StrCat("block \"", block.idstr(), "\", page ", page,
                   ": something else than the snapshot's content is in its memory already: another "
                   "mapping, or before Linux 6.4 the kernel (huge pages of shared memory), has "
                   "filled it"));
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

absl::Status PageLoader::RefusedError(const RamBlock& block, uint64_t page) {
  return absl::InternalError(absl::StrCat("block \"", block.idstr(), "\", page ", page,
                                          ": the kernel refuses to install it"));
}

Outcome PageLoader::LoadFaulted(RamBlock& block, uint64_t page, PageBuffer& buffer,
                                const FailingSince& failing) {
  const Trip trip(*this);
  if (block.Claim({page, 1}) == 0) {
    return block.received(page) ? InstallZeroAgain(block, page) : Outcome::kInFlight;
  }
  uint8_t* const content = buffer.first(block.page_size()).data();
  if (block.nonzero(page)) {
    const absl::Status read = ReadRun(parts_.demand, block, {page, 1}, content);
    if (!read.ok()) {
      const Outcome outcome = OutcomeOf(read);
      if (failing.IsLost(outcome, MonotonicNs())) return Lose(block, {page, 1}, read);
      if (outcome != Outcome::kNoMemory) Count(parts_.stats.read_retries, 1);
      const InsideGate inside(parts_.gate);
      block.Unclaim({page, 1});
      return outcome;
    }
  }
  return InstallFaulted(block, page, content, failing);
}

void PageLoader::PrefetchFaulted(const RamBlock& block, uint64_t page) const {
  if (!block.pending(page)) return;
  const RamBlock::Extent stored = block.FindStored({page, 1}, block.BytesOf(page));
  if (stored.length > 0) parts_.demand.Prefetch(block.index(), stored.offset, stored.length);
}

Outcome PageLoader::InstallFaulted(RamBlock& block, uint64_t page, const uint8_t* content,
                                   const FailingSince& failing) {
  Installed installed;
  bool nonzero;
  bool lost = false;
  bool foreign = false;
  bool completed = false;
  {
    const InsideGate inside(parts_.gate);
    nonzero = block.nonzero(page);
    installed = nonzero ? InstallContent(block, {page, 1}, content) : InstallZero(block, page);
    switch (installed.result) {
      case InstallResult::kExists:
        foreign = nonzero && !Holds(block, page, content);
        if (foreign) break;
        [[fallthrough]];
      case InstallResult::kDone:
      case InstallResult::kGone:  // unmapped: nobody can need it
        Count(nonzero ? parts_.stats.faulted : parts_.stats.zeroed, 1);
        // A page discarded while it was in flight is received already.
        if (!block.received(page)) completed = block.MarkReceived({page, 1});
        break;
      case InstallResult::kRefused:
        lost = failing.IsLost(Outcome::kDamaged, MonotonicNs());
        if (lost) break;
        [[fallthrough]];
      case InstallResult::kNoMemory:
      case InstallResult::kNothing:
      case InstallResult::kAgain:
        block.Unclaim({page, 1});
        break;
    }
  }
  switch (installed.result) {
    case InstallResult::kExists:
      if (foreign) return StopVm(ForeignError(block, page));
      Count(parts_.stats.redundant, 1);
      [[fallthrough]];
    case InstallResult::kDone:
    case InstallResult::kGone:
      break;
    case InstallResult::kAgain:
      return Outcome::kAgain;
    case InstallResult::kNoMemory:
    case InstallResult::kNothing:
      return Outcome::kNoMemory;
    case InstallResult::kRefused:
      if (!lost) return Outcome::kDamaged;
      return Lose(block, {page, 1}, RefusedError(block, page));
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
                           std::atomic<uint64_t>* extra_counter, bool short_of_memory) {
  uint8_t* const content = buffer.first(block.BytesOf(run.count)).data();
  // Counted as a demand, the read also makes the other threads read less at a time.
  const PageSource& source = short_of_memory ? parts_.demand : parts_.bulk;
  if (ReadRun(source, block, run, content).ok()) {
    InstallAhead(block, run, content, extra_counter);
  } else {
    LoadSingly(block, run, content, extra_counter);
  }
}

// Saves what can be saved of a run that could not be read whole.
void PageLoader::LoadSingly(RamBlock& block, PageRun run, uint8_t* content,
                            std::atomic<uint64_t>* extra_counter) {
  for (PageRun part = block.FindPending(run.first, run.end()); part.count > 0 && !quit_;
       part = block.FindPending(part.first + 1, run.end())) {
    const PageRun one{part.first, 1};
    const absl::Status read = ReadRun(parts_.bulk, block, one, content);
    if (read.ok()) {
      InstallAhead(block, one, content, extra_counter);
    } else {
      parts_.stats.NoteFailedRead(read);
    }
  }
}

Outcome PageLoader::InstallAhead(RamBlock& block, PageRun run, const uint8_t* content,
                                 std::atomic<uint64_t>* extra_counter) {
  const uint64_t most_pages = std::max<uint64_t>(1, kMaxInstallBytes / block.page_size());
  Backoff mapping, memory;
  bool one_by_one = false;
  for (uint64_t at = run.first; !quit_;) {
    PageRun part;
    Installed installed;
    uint64_t arrived;
    bool foreign = false;
    bool completed = false;
    {
      const Trip trip(*this);
      {
        const InsideGate inside(parts_.gate);
        part = block.FindPending(at, run.end());
        if (part.count == 0) return Outcome::kReceived;
        part.count = block.Claim({part.first, std::min(part.count, one_by_one ? 1 : most_pages)});
        if (part.count == 0) continue;  // a fault was faster
        const uint8_t* const from = content + block.BytesOf(part.first - run.first);
        installed = InstallContent(block, part, from);
        arrived = installed.length / block.page_size();
        const uint64_t next = part.first + arrived;
        foreign = installed.result == InstallResult::kExists &&
                  !Holds(block, next, from + installed.length);
        const bool next_settled =
            (installed.result == InstallResult::kExists && !foreign) ||
            (installed.result == InstallResult::kGone && part.count == 1);  // unmapped
        if (next_settled) ++arrived;
        // Before the last page is noted, for whoever waits for that reads the sums.
        Count(parts_.stats.eager, arrived);
        if (extra_counter != nullptr) Count(*extra_counter, arrived);
        if (arrived > 0) completed = block.MarkReceived({part.first, arrived});
        const uint64_t kept = arrived + (foreign ? 1 : 0);  // which nobody is to have
        if (kept < part.count) block.Unclaim({part.first + kept, part.count - kept});
      }
      Wake(block, part);
    }
    if (completed) parts_.progress.Note();
    at = part.first + arrived;
    switch (installed.result) {
      case InstallResult::kDone:
        break;
      case InstallResult::kExists:
        if (foreign) {
          return StopVm(ForeignError(block, at));
        }
        Count(parts_.stats.redundant, 1);
        break;
      case InstallResult::kGone:
        one_by_one = true;  // the run may cross from one mapping into another
        break;
      case InstallResult::kAgain:
        Count(parts_.stats.postponed, 1);
        mapping.Sleep();
        break;
      case InstallResult::kNoMemory:
      case InstallResult::kNothing:
        Count(parts_.stats.no_memory, 1);
        if (!memory.Sleep()) return Outcome::kNoMemory;
        break;
      case InstallResult::kRefused:
        parts_.stats.NoteUnread(RefusedError(block, at));
        return Outcome::kDamaged;
    }
  }
  return Outcome::kAgain;
}

// kExists, after pages that were installed, if one is there already.
Installed PageLoader::InstallContent(const RamBlock& block, PageRun run,
                                     const uint8_t* content) const {
  const uint64_t length = block.BytesOf(run.count);
  if (block.memory().alias == 0) return parts_.uffd.Copy(block.AddrOf(run.first), content, length);
  const uintptr_t alias = block.memory().alias + block.BytesOf(run.first);
  const int error = CopySafely(reinterpret_cast<void*>(alias), content, length);
  if (error != 0) return {error == EPERM ? InstallResult::kRefused : InstallResult::kNoMemory, 0};
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

Outcome PageLoader::Lose(const RamBlock& block, PageRun run, const absl::Status& why) {
  bool wanted = false;
  {
    const InsideGate inside(parts_.gate);
    for (uint64_t page = run.first; page < run.end() && !wanted; ++page) {
      wanted = !block.received(page);  // else it was discarded meanwhile: it is zero
    }
  }
  if (!wanted) {
    Wake(block, run);
    return Outcome::kReceived;
  }
  if (!parts_.may_poison || !block.memory().poisonable || !parts_.uffd.features().poison) {
    return StopVm(why);
  }
  // Counted before anybody can read the statistics because of the error.
  Count(parts_.stats.poisoned, run.count);
  parts_.stats.AddError(why);
  parts_.progress.Note();
  return Outcome::kLost;
}

Outcome PageLoader::GiveUp(RamBlock& block, uint64_t page) {
  const Trip trip(*this);
  InstallResult result = InstallResult::kDone;
  bool unwanted;
  {
    const InsideGate inside(parts_.gate);
    unwanted = block.received(page);
    if (!unwanted) result = parts_.uffd.Poison(block.AddrOf(page), block.page_size()).result;
    const bool settled = result == InstallResult::kDone || result == InstallResult::kGone;
    if (!unwanted && settled) block.MarkPoisoned(page);
  }
  if (unwanted) parts_.stats.poisoned.fetch_sub(1, std::memory_order_relaxed);
  switch (result) {
    case InstallResult::kDone:
    case InstallResult::kGone:
      Wake(block, {page, 1});
      parts_.progress.Note();
      return unwanted ? Outcome::kReceived : Outcome::kFailed;
    case InstallResult::kAgain:
      return Outcome::kAgain;
    case InstallResult::kNoMemory:
    case InstallResult::kNothing:
      return Outcome::kNoMemory;
    case InstallResult::kExists:
    case InstallResult::kRefused:
      break;
  }
  return StopVm(ForeignError(block, page));
}

// Whoever waits goes on waiting.
Outcome PageLoader::StopVm(const absl::Status& why) {
  parts_.stats.AddError(why);
  parts_.vm_stop.Stop(why);
  parts_.progress.Note();
  return Outcome::kFailed;
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
