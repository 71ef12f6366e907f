// The page's trip, and why nothing is lost on it.
//
// Install, receive, wake, in this order. Copying and waking in one ioctl would save one, but then a
// page that is discarded right after its arrival, and before `received` is set, would be faulted
// on, found claimed, left to its claimant, and never be woken. So: install without waking, set
// `received`, wake. A fault that was dropped because of a claim is thereby followed by a wake that
// comes after `received` is visible; it faults again and is seen truly. Every way out of a claim
// wakes, but one: kAgain and kNoMemory of a faulted page give the claim back without a wake, since
// the fault thread holds the waiter's fault and comes again; whoever claims the page meanwhile
// wakes it.
//
// A claimed page may be discarded at any time before its install. InstallGate says why the last
// look at `nonzero` and the install have to happen inside the gate. Pages found discarded are
// skipped: Discard() has marked them received, and the claimant's wake makes their waiters fault
// again, to be given zeros.
//
// EEXIST on an install means that the page is there although nobody received it. That cannot happen
// to memory that is empty when it is registered and ours alone to fill; it is counted
// (`redundant`), marked received and woken, never ignored: a waiter whose page exists would
// otherwise sleep for ever.
#include "loader/page_loader.h"

#include <algorithm>
#include <ctime>

namespace ramjet {
namespace {

constexpr int kReadAttempts = 3;

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

void Count(std::atomic<uint64_t>& counter, uint64_t pages) {
  counter.fetch_add(pages, std::memory_order_relaxed);  // only a statistic
}

}  // namespace

Outcome PageLoader::LoadFaulted(RamBlock& block, uint64_t page, PageBuffer& buffer) {
  if (block.Claim({page, 1}) == 0) {
    return block.received(page) ? InstallZeroAgain(block, page) : Outcome::kInFlight;
  }
  const absl::Span<uint8_t> content = buffer.first(block.page_size());
  if (block.nonzero(page)) {
    const absl::Status read = Read(block, {page, 1}, content);
    if (!read.ok()) return Poison(block, page, read);
  }
  return InstallFaulted(block, page, content.data());
}

Outcome PageLoader::InstallFaulted(RamBlock& block, uint64_t page, const uint8_t* content) {
  const uintptr_t addr = block.AddrOf(page);
  Installed installed;
  bool nonzero;
  bool completed = false;
  {
    InsideGate inside(gate_);
    nonzero = block.nonzero(page);
    installed = nonzero ? uffd_.Copy(addr, content, block.page_size())
                        : uffd_.Zero(addr, block.page_size());
    switch (installed.result) {
      case InstallResult::kDone:
      case InstallResult::kExists:
      case InstallResult::kGone:  // unmapped: nobody can need it
        // A page discarded while it was in flight is received already.
        if (!block.received(page)) completed = block.MarkReceived({page, 1});
        break;
      case InstallResult::kAgain:
      case InstallResult::kNoMemory:
        if (!block.received(page)) block.Unclaim({page, 1});
        break;
      case InstallResult::kRefused:
        break;
    }
  }
  switch (installed.result) {
    case InstallResult::kExists:
      Count(stats_.redundant, 1);
      [[fallthrough]];
    case InstallResult::kDone:
    case InstallResult::kGone:
      Count(nonzero ? stats_.faulted : stats_.zeroed, 1);
      break;
    case InstallResult::kAgain:
      return Outcome::kAgain;
    case InstallResult::kNoMemory:
      return Outcome::kNoMemory;
    case InstallResult::kRefused:
      return Poison(block, page, absl::InternalError("the kernel refuses to install the page"));
  }
  Wake(block, {page, 1});
  if (completed) progress_.Note();
  return Outcome::kLoaded;
}

// The page had arrived. If it is missing now it was discarded, so it is zero.
Outcome PageLoader::InstallZeroAgain(RamBlock& block, uint64_t page) {
  const Installed installed = uffd_.Zero(block.AddrOf(page), block.page_size());
  if (installed.result == InstallResult::kAgain) return Outcome::kAgain;
  if (installed.result == InstallResult::kNoMemory) return Outcome::kNoMemory;
  if (installed.result == InstallResult::kDone) Count(stats_.zeroed, 1);
  Wake(block, {page, 1});
  return Outcome::kReceived;
}

Outcome PageLoader::GiveUp(RamBlock& block, uint64_t page) {
  if (block.Claim({page, 1}) == 0) return Outcome::kInFlight;
  return Poison(block, page, absl::ResourceExhaustedError("the kernel has no memory for the page"));
}

uint64_t PageLoader::LoadAhead(RamBlock& block, PageRun run, PageBuffer& buffer) {
  run.count = block.Claim(run);
  if (run.count == 0) return 1;
  const absl::Span<uint8_t> content = buffer.first(block.BytesOf(run.count));
  if (Read(block, run, content).ok()) {
    InstallAhead(block, run, content.data());
  } else {
    LoadSingly(block, run, content.data());
  }
  return run.count;
}

// Saves what can be saved of a run that could not be read whole.
void PageLoader::LoadSingly(RamBlock& block, PageRun run, uint8_t* content) {
  const absl::Span<uint8_t> one(content, block.page_size());
  for (uint64_t page = run.first; page < run.end(); ++page) {
    const absl::Status read = Read(block, {page, 1}, one);
    if (read.ok()) {
      InstallAhead(block, {page, 1}, content);
    } else {
      PoisonPatiently(block, page, read);
    }
  }
}

void PageLoader::InstallAhead(RamBlock& block, PageRun run, const uint8_t* content) {
  Patience patience;
  uint64_t at = run.first;
  uint64_t most_pages = run.count;
  bool completed = false;
  for (;;) {
    PageRun part;
    Installed installed;
    uint64_t arrived = 0;
    {
      InsideGate inside(gate_);
      part = block.FindNonzero(at, run.end());
      if (part.count == 0) break;
      part.count = std::min(part.count, most_pages);
      installed =
          uffd_.Copy(block.AddrOf(part.first), content + block.BytesOf(part.first - run.first),
                     block.BytesOf(part.count));
      arrived = installed.length / block.page_size();
      const bool next_settled =
          installed.result == InstallResult::kExists ||
          (installed.result == InstallResult::kGone && part.count == 1);  // unmapped
      if (next_settled) ++arrived;
      if (arrived > 0) completed |= block.MarkReceived({part.first, arrived});
    }
    Count(stats_.eager, arrived);
    at = part.first + arrived;
    switch (installed.result) {
      case InstallResult::kDone:
        break;
      case InstallResult::kExists:
        Count(stats_.redundant, 1);
        break;
      case InstallResult::kGone:
        most_pages = 1;  // the run may cross from one mapping into another
        break;
      case InstallResult::kAgain:
        Wake(block, {run.first, at - run.first});
        patience.Sleep();
        break;
      case InstallResult::kNoMemory:
        Wake(block, {run.first, at - run.first});
        if (patience.Sleep()) break;
        PoisonPatiently(block, at++,
                        absl::ResourceExhaustedError("the kernel has no memory for it"));
        break;
      case InstallResult::kRefused:
        PoisonPatiently(block, at++, absl::InternalError("the kernel refuses to install it"));
        break;
    }
  }
  Wake(block, run);
  if (completed) progress_.Note();
}

uint64_t PageLoader::LoadAheadHuge(RamBlock& block, PageRun run, HugeStaging& staging) {
  const uint64_t whole = run.count;
  run.count = block.Claim(run);
  if (run.count == 0) return 1;
  uint8_t* const content = staging.memory().data();
  const auto content_at = [&](uint64_t page) { return content + block.BytesOf(page - run.first); };

  // What the huge page does not take goes the ordinary way, from where it lies in the staging
  // memory.
  PageRun rest = run;
  if (!ReadNonzero(block, run, content)) {
    for (PageRun part = block.FindNonzero(run.first, run.end()); part.count > 0;
         part = block.FindNonzero(part.end(), run.end())) {
      LoadSingly(block, part, content_at(part.first));
    }
  } else {
    if (run.count == whole) rest.first += MoveHuge(block, run, content);
    rest.count = run.end() - rest.first;
    if (rest.count > 0) InstallAhead(block, rest, content_at(rest.first));
  }
  if (rest.count > 0) {
    {
      InsideGate inside(gate_);
      block.MarkZeroReceived(rest);
    }
    Wake(block, run);
    staging.Renew();
  }
  return run.count;
}

bool PageLoader::ReadNonzero(const RamBlock& block, PageRun run, uint8_t* content) const {
  for (PageRun part = block.FindNonzero(run.first, run.end()); part.count > 0;
       part = block.FindNonzero(part.end(), run.end())) {
    const absl::Span<uint8_t> bytes(content + block.BytesOf(part.first - run.first),
                                    block.BytesOf(part.count));
    if (!Read(block, part, bytes).ok()) return false;
  }
  return true;
}

// Moves as much of `run` as the kernel takes, normally all; returns how many pages arrived.
uint64_t PageLoader::MoveHuge(RamBlock& block, PageRun run, uint8_t* content) {
  uint64_t arrived;
  uint64_t nonzero;
  bool completed = false;
  {
    InsideGate inside(gate_);
    if (block.AnyReceived(run)) return 0;  // discarded meanwhile: not to be moved with the others
    const Installed installed =
        uffd_.Move(block.AddrOf(run.first), content, block.BytesOf(run.count));
    arrived = installed.length / block.page_size();
    if (arrived == 0) return 0;
    run.count = arrived;
    nonzero = block.CountNonzero(run);
    completed = block.MarkReceived(run);
  }
  Wake(block, run);
  Count(stats_.eager, nonzero);
  Count(stats_.moved, nonzero);
  if (completed) progress_.Note();
  return arrived;
}

// Calls again where asking again may help.
absl::Status PageLoader::Read(const RamBlock& block, PageRun run,
                              absl::Span<uint8_t> buffer) const {
  absl::Status status;
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    status = source_.ReadPages(block.index(), run, buffer);
    if (!absl::IsUnavailable(status)) break;
  }
  return status;
}

// REQUIRES: the page is claimed by the caller. Says why once it is done, so that a kAgain on the
// way does not say it twice.
Outcome PageLoader::Poison(RamBlock& block, uint64_t page, const absl::Status& why) {
  if (!uffd_.features().poison) {
    stats_.AddError(why);
    unanswerable_.store(true, std::memory_order_release);
    progress_.Note();
    return Outcome::kFailed;
  }
  bool unwanted;
  {
    InsideGate inside(gate_);
    unwanted = block.received(page);
    if (!unwanted) {
      const Installed installed = uffd_.Poison(block.AddrOf(page), block.page_size());
      if (installed.result == InstallResult::kAgain) {
        block.Unclaim({page, 1});
        return Outcome::kAgain;
      }
      block.MarkReceived({page, 1});
    }
  }
  if (!unwanted) {
    // Before the wake, which may be the end of the VM.
    Count(stats_.poisoned, 1);
    stats_.AddError(why);
    progress_.Note();
  }
  Wake(block, {page, 1});
  // Unwanted: discarded meanwhile, so it is zero, and no harm is done.
  return unwanted ? Outcome::kReceived : Outcome::kFailed;
}

void PageLoader::PoisonPatiently(RamBlock& block, uint64_t page, const absl::Status& why) {
  Patience patience;
  while (Poison(block, page, why) == Outcome::kAgain) {
    Wake(block, {page, 1});
    patience.Sleep();
    if (block.Claim({page, 1}) == 0) return;  // the fault thread has it now
  }
}

void PageLoader::Discard(RamBlock& block, uintptr_t start, uintptr_t end) {
  GateClosed closed(gate_);
  DiscardInClosedGate(block, start, end);
}

void PageLoader::DiscardInClosedGate(RamBlock& block, uintptr_t start, uintptr_t end) {
  const PageRun run = block.PagesInside(start, end);
  if (run.count == 0) return;
  const RamBlock::Discarded discarded = block.Discard(run);
  Count(stats_.removed, discarded.pages);
  if (discarded.block_completed) progress_.Note();
}

void PageLoader::Wake(const RamBlock& block, PageRun run) const {
  if (run.count > 0) uffd_.Wake(block.AddrOf(run.first), block.BytesOf(run.count));
}

}  // namespace ramjet
