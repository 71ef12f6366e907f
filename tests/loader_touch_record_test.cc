#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/touch_record.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Touch = TouchRecord::Touch;
using WsRun = WorkingSet::Run;

TEST(TouchRecord, KeepsWhatItIsToldUntilItIsFull) {
  const auto record = TouchRecord::Create(2);
  ASSERT_TRUE(record.ok()) << record.status();
  (*record)->Note(TouchRecord::kMaxBlocks - 1, TouchRecord::kMaxPages - 1);
  (*record)->Note(0, 7);
  (*record)->Note(0, 8);
  ASSERT_EQ((*record)->touches().size(), 2u);
  EXPECT_EQ((*record)->touches()[0].block(), TouchRecord::kMaxBlocks - 1);
  EXPECT_EQ((*record)->touches()[0].page(), TouchRecord::kMaxPages - 1);
  EXPECT_EQ((*record)->touches()[1].page(), 7u);
}

TEST(TouchRecord, StoppedItTakesNoMore) {
  const auto record = TouchRecord::Create(2);
  (*record)->Note(0, 7);
  (*record)->Stop();
  (*record)->Note(0, 8);
  EXPECT_EQ((*record)->touches().size(), 1u);
}

// A tebibyte's worth costs address space only.
TEST(TouchRecord, RoomIsNotMemory) {
  const auto record = TouchRecord::Create(uint64_t{1} << 28);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_THAT((*record)->touches(), IsEmpty());
}

TEST(TouchRecord, IsReadWhileItGrows) {
  constexpr uint64_t kTouches = 100000;
  const auto record = TouchRecord::Create(kTouches);
  std::thread writer([&] {
    for (uint64_t i = 0; i < kTouches; ++i) (*record)->Note(i % 3, i);
  });
  for (size_t seen = 0; seen < kTouches;) {
    const auto touches = (*record)->touches();
    ASSERT_GE(touches.size(), seen);
    for (; seen < touches.size(); ++seen) {
      ASSERT_EQ(touches[seen].page(), seen);
      ASSERT_EQ(touches[seen].block(), seen % 3);
    }
  }
  writer.join();
}

TEST(TouchRecord, BecomesAWorkingSetOfBlocksThatWereTouched) {
  const SnapshotBlock blocks[] = {{.idstr = "rom", .used_length = 1 << 16, .page_size = 4096},
                                  {.idstr = "none", .used_length = 1 << 16, .page_size = 4096},
                                  {.idstr = "ram", .used_length = 1 << 20, .page_size = 4096}};
  const Touch touches[] = {{2, 9}, {2, 10}, {0, 3}, {2, 9}, {2, 8}, {0, 4}};
  const WorkingSet set = ToWorkingSet(touches, blocks, {4096, 0, 4096}, 77);
  EXPECT_EQ(set.snapshot_digest, 77u);
  EXPECT_THAT(set.blocks,
              ElementsAre(WorkingSet::Block{"ram", 4096, 256}, WorkingSet::Block{"rom", 4096, 16}));
  EXPECT_THAT(set.runs,
              ElementsAre(WsRun{0, {9, 2}}, WsRun{1, {3, 1}}, WsRun{0, {8, 1}}, WsRun{1, {4, 1}}));
}

TEST(TouchRecord, PagesOfTheMemoryBecomePagesOfTheFile) {
  const SnapshotBlock blocks[] = {{.idstr = "ram", .used_length = 7 << 12, .page_size = 4096}};
  const Touch huge[] = {{0, 1}, {0, 0}};
  EXPECT_THAT(ToWorkingSet(huge, blocks, {4 << 12}, 0).runs,
              ElementsAre(WsRun{0, {4, 3}}, WsRun{0, {0, 4}}))
      << "the last one ends behind the block";
  const SnapshotBlock large[] = {{.idstr = "ram", .used_length = 1 << 20, .page_size = 1 << 14}};
  const Touch small[] = {{0, 5}, {0, 7}, {0, 0}, {0, 8}};
  EXPECT_THAT(ToWorkingSet(small, large, {4096}, 0).runs,
              ElementsAre(WsRun{0, {1, 1}}, WsRun{0, {0, 1}}, WsRun{0, {2, 1}}));
}

}  // namespace
}  // namespace ramjet
