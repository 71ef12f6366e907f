#include <cstdint>
#include <utility>

#include "gtest/gtest.h"
#include "loader/outcome.h"

namespace ramjet {
namespace {

constexpr uint64_t kBegun = 1'000'000'000;

TEST(FailingSince, APageIsLostWhenItHasFailedForItsPatience) {
  for (const auto& [outcome, patience] :
       {std::pair(Outcome::kUnread, kMaxUnreadNs), std::pair(Outcome::kDamaged, kMaxDamagedNs)}) {
    FailingSince failing;
    EXPECT_FALSE(failing.IsLost(outcome, kBegun));
    failing.Note(outcome, kBegun);
    EXPECT_FALSE(failing.IsLost(outcome, kBegun + patience - 1));
    EXPECT_TRUE(failing.IsLost(outcome, kBegun + patience));
    EXPECT_FALSE(failing.IsLost(Outcome::kNoMemory, kBegun + patience));
    EXPECT_FALSE(failing.IsLost(Outcome::kAgain, kBegun + patience));
  }
}

TEST(FailingSince, WhatTheDiskWasGoneForIsNotHeldAgainstADamagedPage) {
  FailingSince failing;
  failing.Note(Outcome::kUnread, kBegun);
  const uint64_t back = kBegun + kMaxUnreadNs - 1 - kMaxDamagedNs;
  EXPECT_FALSE(failing.IsLost(Outcome::kDamaged, back));
  failing.Note(Outcome::kDamaged, back);
  EXPECT_FALSE(failing.IsLost(Outcome::kDamaged, back + kMaxDamagedNs - 1));
  failing.Note(Outcome::kUnread, back + 1);
  failing.Note(Outcome::kDamaged, back + 2);
  EXPECT_FALSE(failing.IsLost(Outcome::kDamaged, back + kMaxDamagedNs));
  // But it has been without its page all the time.
  EXPECT_TRUE(failing.IsLost(Outcome::kDamaged, kBegun + kMaxUnreadNs));
}

TEST(FailingSince, WhatAPageWaitsForMemoryIsLeftOut) {
  for (const auto& [outcome, patience] :
       {std::pair(Outcome::kUnread, kMaxUnreadNs), std::pair(Outcome::kDamaged, kMaxDamagedNs)}) {
    FailingSince failing;
    failing.Note(outcome, kBegun);
    failing.Note(outcome, kBegun + 10);
    failing.Note(Outcome::kNoMemory, kBegun + patience);
    EXPECT_FALSE(failing.IsLost(outcome, kBegun + 2 * patience - 11));
    EXPECT_TRUE(failing.IsLost(outcome, kBegun + 2 * patience - 10));
  }
}

// Looks at page 5, which fails so, and says whether it is lost.
bool Look(FailingPages& pages, Outcome outcome, uint64_t now_ns) {
  pages.BeginLook(now_ns);
  return pages.NoteAndTell(5, outcome);
}

TEST(FailingPages, APageIsLostWhenItHasFailedForItsPatience) {
  for (const auto& [outcome, patience] :
       {std::pair(Outcome::kUnread, kMaxUnreadNs), std::pair(Outcome::kDamaged, kMaxDamagedNs)}) {
    FailingPages pages(64);
    const uint64_t step = patience / 10;
    uint64_t now_ns = kBegun;
    for (; now_ns < kBegun + step + patience; now_ns += step) {
      EXPECT_FALSE(Look(pages, outcome, now_ns));
    }
    pages.BeginLook(now_ns);
    EXPECT_FALSE(pages.NoteAndTell(6, outcome));  // which fails for the first time
    EXPECT_TRUE(pages.NoteAndTell(5, outcome));
    // What comes now begins anew.
    EXPECT_FALSE(Look(pages, outcome, now_ns + 1));
    EXPECT_FALSE(Look(pages, outcome, now_ns + 2));
    EXPECT_FALSE(Look(pages, outcome, now_ns + 1 + patience));
    EXPECT_TRUE(Look(pages, outcome, now_ns + 2 + patience));
  }
}

// A page that failed at the end of a look of 2.2 s was lost 2 ms later.
TEST(FailingPages, PatienceBeginsWhenTheFirstLookHasEnded) {
  FailingPages pages(64);
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun));
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun + 3 * kMaxUnreadNs));
  EXPECT_TRUE(Look(pages, Outcome::kUnread, kBegun + 6 * kMaxUnreadNs));
}

TEST(FailingPages, WhatFailsFirstAfterTheFirstLookWaitsForTheNextPatience) {
  FailingPages pages(64);
  pages.BeginLook(kBegun);
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun + 1));
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun + 1 + kMaxUnreadNs));
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun + 2 + kMaxUnreadNs));
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun + 3 + kMaxUnreadNs));
  EXPECT_TRUE(Look(pages, Outcome::kUnread, kBegun + 3 + 2 * kMaxUnreadNs));
}

TEST(FailingPages, ADiskThatWasGoneMakesDamageBeginAnew) {
  FailingPages pages(64);
  EXPECT_FALSE(Look(pages, Outcome::kDamaged, kBegun));
  EXPECT_FALSE(Look(pages, Outcome::kDamaged, kBegun + 1));
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun + kMaxDamagedNs / 2));
  EXPECT_FALSE(Look(pages, Outcome::kDamaged, kBegun + kMaxDamagedNs - 1));
  EXPECT_FALSE(Look(pages, Outcome::kDamaged, kBegun + kMaxDamagedNs + 1));
  EXPECT_FALSE(Look(pages, Outcome::kDamaged, kBegun + kMaxDamagedNs + 2));
  EXPECT_FALSE(Look(pages, Outcome::kDamaged, kBegun + kMaxDamagedNs + 3));
  EXPECT_TRUE(Look(pages, Outcome::kDamaged, kBegun + 2 * kMaxDamagedNs + 3));
}

// A guest whose memory was short now and then waited for ever for a page that is not there.
TEST(FailingPages, APageThatLacksMemoryNowAndThenIsLostAllTheSame) {
  FailingPages pages(64);
  bool lost = false;
  int looks = 0;
  for (uint64_t now_ns = kBegun; !lost && looks < 1000; now_ns += kMaxUnreadNs / 100, ++looks) {
    lost = Look(pages, looks % 3 == 1 ? Outcome::kNoMemory : Outcome::kUnread, now_ns);
  }
  EXPECT_TRUE(lost);
  EXPECT_GE(looks, 100);
}

TEST(FailingPages, ATimeWithoutMemoryIsNotHeldAgainstThePage) {
  FailingPages pages(64);
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun));
  for (uint64_t i = 1; i < 100; ++i) {
    EXPECT_FALSE(Look(pages, Outcome::kNoMemory, kBegun + i * kMaxUnreadNs / 100));
  }
  EXPECT_FALSE(Look(pages, Outcome::kUnread, kBegun + 2 * kMaxUnreadNs));
}

TEST(FailingPages, WhatFailsBesideItDoesNotMatter) {
  FailingPages pages(64);
  for (const uint64_t now_ns : {kBegun, kBegun + 1, kBegun + 1 + kMaxDamagedNs}) {
    pages.BeginLook(now_ns);
    EXPECT_FALSE(pages.NoteAndTell(4, Outcome::kNoMemory));
    EXPECT_EQ(pages.NoteAndTell(5, Outcome::kDamaged), now_ns > kBegun + 1);
    EXPECT_FALSE(pages.NoteAndTell(6, Outcome::kUnread));
  }
}

}  // namespace
}  // namespace ramjet
