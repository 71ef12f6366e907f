#include "loader/outcome.h"

#include <algorithm>
#include <utility>

namespace ramjet {

Outcome OutcomeOf(const absl::Status& read) {
  if (absl::IsResourceExhausted(read)) return Outcome::kNoMemory;
  return absl::IsUnavailable(read) ? Outcome::kUnread : Outcome::kDamaged;
}

void FailingSince::Note(Outcome outcome, uint64_t now_ns) {
  const bool damaged = outcome == Outcome::kDamaged;
  if (damaged || outcome == Outcome::kUnread) {
    if (unread_ns_ == 0) unread_ns_ = now_ns;
    if (!damaged) damaged_ns_ = 0;
    if (damaged && damaged_ns_ == 0) damaged_ns_ = now_ns;
  } else {
    if (unread_ns_ != 0) unread_ns_ += now_ns - noted_ns_;
    if (damaged_ns_ != 0) damaged_ns_ += now_ns - noted_ns_;
  }
  noted_ns_ = now_ns;
}

bool FailingSince::IsLost(Outcome outcome, uint64_t now_ns) const {
  const bool damaged = outcome == Outcome::kDamaged;
  if (!damaged && outcome != Outcome::kUnread) return false;
  return (unread_ns_ != 0 && now_ns - unread_ns_ >= kMaxUnreadNs) ||
         (damaged && damaged_ns_ != 0 && now_ns - damaged_ns_ >= kMaxDamagedNs);
}

void FailingPages::BeginLook(uint64_t now_ns) {
  unread_.BeginLook(pages_, kMaxUnreadNs, now_ns);
  damaged_.BeginLook(pages_, kMaxDamagedNs, now_ns);
}

bool FailingPages::NoteAndTell(uint64_t page, Outcome outcome) {
  const bool damaged = outcome == Outcome::kDamaged;
  const bool unread = outcome == Outcome::kUnread || damaged;
  if (unread) unread_.now.TestAndSet(page);
  if (damaged) damaged_.now.TestAndSet(page);
  if (outcome == Outcome::kUnread) damaged_.Forget(page);
  return (unread && unread_.part == kParts && unread_.before.Test(page)) ||
         (damaged && damaged_.part == kParts && damaged_.before.Test(page));
}

void FailingPages::Patience::BeginLook(uint64_t pages, uint64_t length_ns, uint64_t now_ns) {
  if (part == kParts) {
    begun_ns = 0;
    part = 0;
    before = PageBitmap();
    now = PageBitmap(pages);
    return;
  }
  const bool first = begun_ns == 0;
  if (first) begun_ns = now_ns;
  // A look may take longer than a part.
  const uint64_t next = std::min(kParts, (now_ns - begun_ns) * kParts / length_ns);
  if (next == part && !first) return;
  part = next;
  PageBitmap ended = std::exchange(now, PageBitmap(pages));
  if (before.size() == 0) {
    before = std::move(ended);
    return;
  }
  for (uint64_t i = 0; i < before.word_count(); ++i) {
    if (before.words()[i] != 0) before.words()[i] &= ended.words()[i];
  }
}

void FailingPages::Patience::Forget(uint64_t page) {
  now.TestAndClear(page);
  if (before.size() > 0) before.TestAndClear(page);
}

}  // namespace ramjet
