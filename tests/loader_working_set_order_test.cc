#include <cstdint>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/huge_page_policy.h"
#include "loader/working_set_order.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Windows = WorkingSetOrder::Windows;

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kWindowPages = 512;
constexpr uint64_t kPages = 8 * kWindowPages;
constexpr uintptr_t kHost = 0x7f0000000000;
constexpr uint64_t kMuch = 1 << 20;

// Says what is in memory, and is not read.
class Cache : public PageSource {
 public:
  absl::Status ReadPages(size_t, uint64_t, absl::Span<uint8_t>) const override {
    return absl::UnimplementedError("nobody reads here");
  }
  uint64_t CachedBytes(size_t, uint64_t offset, uint64_t length) const override {
    return pages.CountRun({offset / kPageBytes, length / kPageBytes}) * kPageBytes;
  }
  PageBitmap pages{kPages};
};

// Two blocks, full of content but for the last window of each; the second comes first in the file.
class WorkingSetOrderTest : public ::testing::Test {
 protected:
  static SnapshotBlock Stored(uint64_t pages_offset) {
    return {.idstr = "ram",
            .used_length = kPages * kPageBytes,
            .page_size = kPageBytes,
            .pages_offset = pages_offset};
  }
  static RamBlock Block(size_t index, const SnapshotBlock& stored) {
    PageBitmap nonzero(kPages);
    nonzero.SetRun({0, 7 * kWindowPages});
    return RamBlock(index, stored,
                    {.host = kHost + index * (uintptr_t{1} << 40), .page_size = kPageBytes},
                    std::move(nonzero));
  }
  // The set: runs of block 0, unless they say otherwise.
  void Set(const std::vector<PageRun>& runs, size_t block = 0) {
    std::vector<WorkingSetOrder::Extent> extents;
    for (const PageRun& run : runs) {
      extents.push_back({block, run.first * kPageBytes, run.count * kPageBytes});
    }
    order_.Set(std::move(extents));
  }
  void Attach(RamBlock& block, HugePages huge = HugePages::kWhereAnyContent) {
    huge_pages_.Add(block, huge);
    order_.Attach(block);
  }
  // The pages of the next step, a window's among them.
  std::vector<PageRun> Next(Windows windows, uint64_t most_bytes = kMuch) {
    const WorkingSetOrder::Step step = order_.Next(most_bytes, windows);
    std::vector<PageRun> runs;
    for (const WorkingSetOrder::BlockRun& run : step.runs) runs.push_back(run.pages);
    if (step.window) runs.push_back(step.window->pages);
    return runs;
  }

  const std::vector<SnapshotBlock> stored_ = {Stored(1 << 30), Stored(1 << 20)};
  RamBlock one_ = Block(0, stored_[0]);
  RamBlock two_ = Block(1, stored_[1]);
  Cache cache_;
  HugePagePolicy huge_pages_{2};
  WorkingSetOrder order_{stored_, cache_, huge_pages_};
};

TEST_F(WorkingSetOrderTest, BatchesComeInTheOrderOfTouchesAndEachInTheFiles) {
  Set({{900, 1}, {30, 2}, {700, 1}, {33, 1}, {2000, 8}});
  Attach(one_);
  EXPECT_THAT(Next(Windows::kBreak, 3 * kPageBytes), ElementsAre(PageRun{30, 2}, PageRun{900, 1}));
  EXPECT_THAT(Next(Windows::kBreak, 2 * kPageBytes), ElementsAre(PageRun{33, 1}, PageRun{700, 1}));
  EXPECT_THAT(Next(Windows::kBreak, 5 * kPageBytes), ElementsAre(PageRun{2000, 5}));
  EXPECT_THAT(Next(Windows::kBreak, 5 * kPageBytes), ElementsAre(PageRun{2005, 3}));
  EXPECT_THAT(Next(Windows::kBreak), IsEmpty());
}

TEST_F(WorkingSetOrderTest, RunsThatAreCloseAreReadInOneGo) {
  Set({{34, 1}, {30, 1}, {39, 1}});  // three pages between the first two, and four
  Attach(one_);
  EXPECT_THAT(Next(Windows::kBreak), ElementsAre(PageRun{30, 10}));
}

TEST_F(WorkingSetOrderTest, WhatSomebodyElseLoadsIsLeftOut) {
  Set({{10, 4}, {900, 1}});
  Attach(one_);
  one_.Claim({11, 2});
  EXPECT_THAT(Next(Windows::kBreak, kPageBytes), ElementsAre(PageRun{10, 1}));
  EXPECT_THAT(Next(Windows::kBreak, kPageBytes), ElementsAre(PageRun{13, 1}));
  one_.Claim({900, 1});
  EXPECT_THAT(Next(Windows::kBreak, kPageBytes), IsEmpty());
}

TEST_F(WorkingSetOrderTest, PagesOfABlockComeOnceItIsAttached) {
  Set({{10, 1}}, 1);
  EXPECT_THAT(Next(Windows::kBreak), IsEmpty());
  EXPECT_TRUE(order_.awaits_blocks());
  Attach(one_);
  EXPECT_THAT(Next(Windows::kBreak), IsEmpty());
  Attach(two_);
  EXPECT_THAT(Next(Windows::kBreak), ElementsAre(PageRun{10, 1}));
  EXPECT_FALSE(order_.awaits_blocks());
}

TEST_F(WorkingSetOrderTest, ABatchOfTwoBlocksIsInTheFilesOrder) {
  order_.Set({{0, 0, kPageBytes}, {1, 5 * kPageBytes, kPageBytes}});
  Attach(one_);
  Attach(two_);
  EXPECT_THAT(Next(Windows::kBreak), ElementsAre(PageRun{5, 1}, PageRun{0, 1}));
}

TEST_F(WorkingSetOrderTest, AWindowInThePageCacheComesWholeAndOnce) {
  Set({{10, 1}, {600, 1}, {20, 1}, {700, 1}});
  cache_.pages.SetRun({512, 300});  // most of what the file has of it
  Attach(one_);
  EXPECT_THAT(Next(Windows::kWhole, kPageBytes), ElementsAre(PageRun{10, 1}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{512, 512}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{20, 1}));
}

// Its pages are not read before it because they lie before it in the file.
TEST_F(WorkingSetOrderTest, AWindowEndsTheBatchBeforeIt) {
  Set({{3000, 1}, {600, 1}, {10, 1}});
  cache_.pages.SetRun({512, 512});
  Attach(one_);
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{3000, 1}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{512, 512}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{10, 1}));
}

TEST_F(WorkingSetOrderTest, FromADiskAWindowComesWholeIfTheSetHasMuchOfIt) {
  Set({{512, 64}, {1024, 63}});
  Attach(one_);
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{512, 512}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{1024, 63}));
}

TEST_F(WorkingSetOrderTest, ARunThatCrossesWindowsComesByPagesWhereItMust) {
  Set({{1000, 600}});  // 24 pages of the second window, all of the third, 64 of the fourth
  Attach(one_);
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{1000, 24}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{1024, 512}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{1536, 512}));
  EXPECT_THAT(Next(Windows::kWhole), IsEmpty());
}

TEST_F(WorkingSetOrderTest, AWindowThatIsBrokenComesByItsPages) {
  Set({{600, 1}, {512, 100}});
  Attach(one_);
  EXPECT_THAT(Next(Windows::kBreak, kPageBytes), ElementsAre(PageRun{600, 1}));
  one_.Claim({600, 1});
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{512, 100}));
}

TEST_F(WorkingSetOrderTest, AWindowThatCannotBeHadComesByItsPages) {
  Set({{600, 1}, {700, 1}});
  cache_.pages.SetRun({512, 512});
  Attach(one_);
  const WorkingSetOrder::Step step = order_.Next(kMuch, Windows::kWhole);
  ASSERT_TRUE(step.window);
  order_.Break(*step.window);
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{600, 1}, PageRun{700, 1}));
}

TEST_F(WorkingSetOrderTest, NoWindowComesWholeWhereNoHugePageIsWanted) {
  Set({{600, 100}});
  cache_.pages.SetRun({512, 512});
  Attach(one_, HugePages::kNever);
  EXPECT_THAT(Next(Windows::kLater, kPageBytes), ElementsAre(PageRun{600, 1}))
      << "nor waits for it";
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{601, 99}));
}

// What the first batches have broken anyway need not wait.
TEST_F(WorkingSetOrderTest, OnlyCachedWindowsThatAreWholeWaitForLater) {
  Set({{10, 1}, {600, 1}, {20, 1}, {2000, 1}});
  cache_.pages.SetRun({0, 1024});
  Attach(one_, HugePages::kUndecided);
  EXPECT_THAT(Next(Windows::kBreak, kPageBytes), ElementsAre(PageRun{10, 1}));
  EXPECT_THAT(Next(Windows::kLater), ElementsAre(PageRun{20, 1}, PageRun{2000, 1}));
  EXPECT_THAT(Next(Windows::kLater), IsEmpty());
  EXPECT_TRUE(order_.any_later());
  order_.ResumeLater();
  EXPECT_FALSE(order_.any_later());
  EXPECT_THAT(Next(Windows::kBreak), ElementsAre(PageRun{600, 1}));
}

TEST_F(WorkingSetOrderTest, WhatWaitedComesBeforeWhatHasNotBeenLookedAt) {
  Set({{600, 1}, {10, 1}, {2000, 1}});
  cache_.pages.SetRun({512, 512});
  Attach(one_);
  EXPECT_THAT(Next(Windows::kLater, kPageBytes), ElementsAre(PageRun{10, 1}));
  order_.ResumeLater();
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{512, 512}));
  EXPECT_THAT(Next(Windows::kWhole), ElementsAre(PageRun{2000, 1}));
}

TEST_F(WorkingSetOrderTest, ABatchHoldsAtLeastAPage) {
  Set({{10, 2}});
  Attach(one_);
  EXPECT_THAT(Next(Windows::kBreak, 1), ElementsAre(PageRun{10, 1}));
  EXPECT_THAT(Next(Windows::kBreak, 1), ElementsAre(PageRun{11, 1}));
}

}  // namespace
}  // namespace ramjet
