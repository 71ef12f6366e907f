#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {
namespace {

using Found = std::optional<PageRun>;

TEST(PageBitmap, NewOneIsClear) {
  PageBitmap bitmap(1000);
  EXPECT_EQ(bitmap.size(), 1000);
  EXPECT_EQ(bitmap.word_count(), 16);
  EXPECT_EQ(bitmap.Count(), 0);
  EXPECT_FALSE(bitmap.Test(0));
  EXPECT_FALSE(bitmap.Test(999));
}

TEST(PageBitmap, EmptyOneHasNothingToFind) {
  PageBitmap bitmap;
  EXPECT_EQ(bitmap.size(), 0);
  EXPECT_EQ(bitmap.word_count(), 0);
  EXPECT_EQ(bitmap.Count(), 0);
  EXPECT_EQ(bitmap.FindRun(true, 0, 0), std::nullopt);
  EXPECT_EQ(bitmap.FindRun(false, 0, 0), std::nullopt);
}

TEST(PageBitmap, TestAndSetTellsThePreviousValue) {
  PageBitmap bitmap(65);
  EXPECT_FALSE(bitmap.TestAndSet(64));
  EXPECT_TRUE(bitmap.TestAndSet(64));
  EXPECT_TRUE(bitmap.Test(64));
  EXPECT_TRUE(bitmap.TestAndClear(64));
  EXPECT_FALSE(bitmap.TestAndClear(64));
  EXPECT_FALSE(bitmap.Test(64));
}

TEST(PageBitmap, PageLiesWhereTheFileHasIt) {
  PageBitmap bitmap(200);
  bitmap.TestAndSet(0);
  bitmap.TestAndSet(65);
  bitmap.TestAndSet(191);
  EXPECT_EQ(bitmap.words()[0].load(), 1);
  EXPECT_EQ(bitmap.words()[1].load(), 2);
  EXPECT_EQ(bitmap.words()[2].load(), uint64_t{1} << 63);
}

TEST(PageBitmap, RunCountsOnlyWhatChanges) {
  PageBitmap bitmap(300);
  EXPECT_EQ(bitmap.SetRun({60, 140}), 140);
  EXPECT_EQ(bitmap.SetRun({50, 20}), 10);
  EXPECT_EQ(bitmap.Count(), 150);
  EXPECT_EQ(bitmap.CountRun({64, 64}), 64);
  EXPECT_EQ(bitmap.CountRun({195, 10}), 5);
  EXPECT_EQ(bitmap.ClearRun({0, 64}), 14);
  EXPECT_EQ(bitmap.ClearRun({0, 300}), 136);
  EXPECT_EQ(bitmap.Count(), 0);
}

TEST(PageBitmap, EmptyRunChangesNothing) {
  PageBitmap bitmap(128);
  EXPECT_EQ(bitmap.SetRun({64, 0}), 0);
  EXPECT_EQ(bitmap.SetRun({128, 0}), 0);
  EXPECT_EQ(bitmap.Count(), 0);
}

TEST(PageBitmap, SettingAllLeavesBitsPastTheEndClear) {
  PageBitmap bitmap(70);
  bitmap.SetRun({0, 70});
  EXPECT_EQ(bitmap.words()[1].load(), 0x3f);
}

TEST(PageBitmap, FindRunIsMaximalAndCutOffAtTheLimit) {
  PageBitmap bitmap(500);
  bitmap.SetRun({10, 5});
  bitmap.SetRun({60, 200});
  EXPECT_EQ(bitmap.FindRun(true, 0, 500), Found({10, 5}));
  EXPECT_EQ(bitmap.FindRun(true, 12, 500), Found({12, 3}));
  EXPECT_EQ(bitmap.FindRun(true, 15, 500), Found({60, 200}));
  EXPECT_EQ(bitmap.FindRun(true, 15, 100), Found({60, 40}));
  EXPECT_EQ(bitmap.FindRun(true, 15, 60), std::nullopt);
  EXPECT_EQ(bitmap.FindRun(true, 260, 500), std::nullopt);
  EXPECT_EQ(bitmap.FindRun(false, 60, 500), Found({260, 240}));
  EXPECT_EQ(bitmap.FindRun(false, 60, 260), std::nullopt);
  EXPECT_EQ(bitmap.FindRun(false, 499, 500), Found({499, 1}));
  EXPECT_EQ(bitmap.FindRun(false, 500, 500), std::nullopt);
}

TEST(PageBitmap, FindRunAgreesWithALoopOverBits) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    const uint64_t size = random() % 400;
    PageBitmap bitmap(size);
    for (uint64_t i = random() % 6; i > 0 && size > 0; --i) {
      const uint64_t first = random() % size;
      bitmap.SetRun({first, random() % (size - first + 1)});
    }
    const bool value = random() % 2 == 1;
    const uint64_t limit = random() % (size + 1);
    const uint64_t page = random() % (size + 1);
    uint64_t first = page;
    while (first < limit && bitmap.Test(first) != value) ++first;
    uint64_t end = first;
    while (end < limit && bitmap.Test(end) == value) ++end;
    const Found expected = first < limit ? Found({first, end - first}) : std::nullopt;
    ASSERT_EQ(bitmap.FindRun(value, page, limit), expected)
        << "round " << round << ": size " << size << ", [" << page << ", " << limit << ")";
  }
}

TEST(PageBitmap, AnyRunIsCounted) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    const uint64_t size = 1 + random() % 400;
    PageBitmap bitmap(size);
    for (uint64_t i = 0; i < size / 2; ++i) bitmap.TestAndSet(random() % size);
    const uint64_t first = random() % (size + 1);
    const uint64_t end = first + random() % (size - first + 1);
    uint64_t expected = 0;
    for (uint64_t page = first; page < end; ++page) expected += bitmap.Test(page) ? 1 : 0;
    ASSERT_EQ(bitmap.CountRun({first, end - first}), expected)
        << "round " << round << ": size " << size << ", [" << first << ", " << end << ")";
  }
}

// In large pages, where there are any.
TEST(PageBitmap, OneThatIsExpectedToBeFilledIsClearAtFirst) {
  constexpr uint64_t kPages = uint64_t{1} << 25;
  PageBitmap bitmap(kPages);
  bitmap.ExpectToBeFilled();
  EXPECT_EQ(bitmap.Count(), 0);
  EXPECT_EQ(bitmap.SetRun({5, kPages - 10}), kPages - 10);
  EXPECT_EQ(bitmap.Count(), kPages - 10);
  EXPECT_FALSE(bitmap.Test(4));
  EXPECT_FALSE(bitmap.Test(kPages - 5));
}

TEST(PageBitmap, LeadingClearBitsAreSetUpToTheFirstSetOne) {
  PageBitmap bitmap(300);
  bitmap.TestAndSet(200);
  EXPECT_EQ(bitmap.SetLeadingClear({10, 100}), 100);
  EXPECT_EQ(bitmap.SetLeadingClear({10, 1}), 0);
  EXPECT_EQ(bitmap.SetLeadingClear({110, 190}), 90);
  EXPECT_EQ(bitmap.SetLeadingClear({300, 0}), 0);
  EXPECT_FALSE(bitmap.Test(9));
  EXPECT_TRUE(bitmap.Test(199));
  EXPECT_FALSE(bitmap.Test(201));
  EXPECT_EQ(bitmap.Count(), 191);
}

TEST(PageBitmap, MovedFromIsEmpty) {
  PageBitmap from(100);
  from.TestAndSet(42);
  PageBitmap to(std::move(from));
  EXPECT_TRUE(to.Test(42));
  EXPECT_EQ(from.size(), 0);  // NOLINT: what was moved from is empty, that is the promise
  PageBitmap assigned(7);
  assigned = std::move(to);
  EXPECT_EQ(assigned.size(), 100);
  EXPECT_TRUE(assigned.Test(42));
}

// 2^38 pages: their bits would be 32 GiB if they were written.
TEST(PageBitmap, PetabyteGuestCostsNothingUntilTouched) {
  PageBitmap bitmap(uint64_t{1} << 38);
  EXPECT_FALSE(bitmap.TestAndSet((uint64_t{1} << 38) - 1));
  EXPECT_TRUE(bitmap.Test((uint64_t{1} << 38) - 1));
}

TEST(PageBitmap, OfSeveralThreadsExactlyOneClearsABit) {
  constexpr uint64_t kPages = 1 << 16;
  PageBitmap bitmap(kPages);
  bitmap.SetRun({0, kPages});
  std::atomic<uint64_t> cleared = 0;
  std::vector<std::jthread> threads;
  threads.reserve(4);
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      uint64_t mine = 0;
      if (thread % 2 == 0) {
        for (uint64_t page = 0; page < kPages; ++page) mine += bitmap.TestAndClear(page);
      } else {
        for (uint64_t page = 0; page < kPages; page += 100) {
          mine += bitmap.ClearRun({page, std::min<uint64_t>(100, kPages - page)});
        }
      }
      cleared += mine;
    });
  }
  threads.clear();
  EXPECT_EQ(cleared, kPages);
  EXPECT_EQ(bitmap.Count(), 0);
}

}  // namespace
}  // namespace ramjet
