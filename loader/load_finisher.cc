#include "loader/load_finisher.h"

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "loader/backoff.h"
#include "loader/run_reader.h"

namespace ramjet {
namespace {

// Pages that are told lost as one.
constexpr uint64_t kMaxLostRun = 512;

}  // namespace

// Other threads may have claimed the rest, or the disk may not give it: then it is looked for again
// and again.
void LoadFinisher::Run() {
  constexpr uint64_t kPauseNs = 2'000'000;
  while (parts_.map.MissingPages() > 0 && !parts_.vm_stop.stopped() && !parts_.loader.quitting()) {
    const uint32_t moments = parts_.progress.moments();
    LoadQueue();
    for (RamBlock* block = parts_.map.FindFrom(0); block != nullptr;
         block = parts_.map.FindFrom(block->host() + block->length())) {
      FailingPages& pages = failing_.try_emplace(block->index(), block->pages()).first->second;
      LoadPending(*block, pages);
    }
    (void)parts_.progress.AwaitNext(moments, MonotonicNs() + kPauseNs);
  }
}

void LoadFinisher::LoadQueue() {
  while (std::optional<EagerQueue::Window> window = parts_.queue.TryNext()) {
    windows_.LoadWindow(*std::move(window));
  }
  while (windows_.any_begun()) windows_.EndOldest();
}

void LoadFinisher::LoadPending(RamBlock& block, FailingPages& failing) {
  if (block.remaining_pages() == 0 || !HaveBuffer(block.page_size())) return;
  uint8_t* const content = buffer_->first(block.page_size()).data();
  PageRun lost{0, 0};
  absl::Status why_lost;  // of the first page of the run
  uint64_t tell_by_ns = 0;
  failing.BeginLook(MonotonicNs());
  for (PageRun part = block.FindPending(0, block.pages());
       part.count > 0 && !parts_.loader.quitting();
       part = block.FindPending(part.first + 1, block.pages())) {
    const uint64_t page = part.first;
    if (lost.count > 0 && (lost.end() != page || lost.count == kMaxLostRun)) {
      LoseRun(block, std::exchange(lost, {}), why_lost, tell_by_ns);
    }
    absl::Status why = ReadRun(parts_.loader.parts().demand, block, {page, 1}, content);
    Outcome outcome;
    if (why.ok()) {
      outcome = parts_.loader.InstallAhead(block, {page, 1}, content);
      if (!block.pending(page)) continue;
      why = PageLoader::RefusedError(block, page);
    } else {
      outcome = OutcomeOf(why);
      parts_.stats.NoteFailedRead(why);
    }
    if (!failing.NoteAndTell(page, outcome)) continue;
    if (lost.count == 0) {
      lost.first = page;
      why_lost = std::move(why);
    }
    ++lost.count;
  }
  LoseRun(block, lost, why_lost, tell_by_ns);
}

// What is still pending of it: until here, a fault on one of its pages is served as any other.
void LoadFinisher::LoseRun(RamBlock& block, PageRun run, const absl::Status& why,
                           uint64_t& tell_by_ns) {
  parts_.loader.BeginTrip();
  for (PageRun part = block.FindPending(run.first, run.end()); part.count > 0;
       part = block.FindPending(part.end(), run.end())) {
    part.count = block.Claim(part);
    if (part.count > 0) {
      LoseClaimed(block, part, why, tell_by_ns);
    } else {
      part.count = 1;  // a fault was faster
    }
  }
  parts_.loader.EndTrip();
}

// REQUIRES: the run is claimed by the caller.
void LoadFinisher::LoseClaimed(RamBlock& block, PageRun run, const absl::Status& why,
                               uint64_t& tell_by_ns) {
  const std::string more =
      run.count > 1 ? absl::StrCat("; pages ", run.first, " to ", run.end() - 1, " alike") : "";
  if (parts_.loader.Lose(block, run, absl::Status(why.code(), absl::StrCat(why.message(), more))) !=
      Outcome::kLost) {
    return;
  }
  const uint64_t errors = parts_.stats.error_count();
  if (tell_by_ns == 0) tell_by_ns = MonotonicNs() + PageLoader::kMaxTellingNs;
  Backoff backoff;
  while (!parts_.stats.told(errors) && MonotonicNs() < tell_by_ns && !parts_.loader.quitting()) {
    backoff.Sleep();
  }
  for (uint64_t page = run.first; page < run.end(); ++page) {
    Outcome outcome = parts_.loader.GiveUp(block, page);
    while (!parts_.loader.quitting() &&
           (outcome == Outcome::kAgain || outcome == Outcome::kNoMemory)) {
      backoff.Sleep();
      outcome = parts_.loader.GiveUp(block, page);
    }
  }
}

bool LoadFinisher::HaveBuffer(uint64_t page_bytes) {
  if (buffer_ && page_bytes <= buffer_->size()) return true;
  absl::StatusOr<PageBuffer> buffer = PageBuffer::Create(page_bytes);
  if (!buffer.ok()) {
    parts_.stats.AddError(buffer.status());
    return false;
  }
  buffer_.emplace(*std::move(buffer));
  return true;
}

}  // namespace ramjet
