#include <atomic>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/read_pacer.h"
#include "mappedram/read_queue.h"

namespace ramjet {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// Gives nothing, notes the sizes of what it was asked for of block 0, and may hold a read of block
// 1 up.
class NotingSource : public PageSource {
 public:
  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    if (block == 2) return absl::OkStatus();
    if (block == 1) {
      held_ = true;
      held_.notify_all();
      release_.wait(false);
      return absl::OkStatus();
    }
    if (offset != expected_offset_) return absl::InternalError("a piece is missing");
    expected_offset_ += buffer.size();
    pieces_.push_back(buffer.size());
    if (buffer.size() == fails_at_) return absl::UnavailableError("EIO");
    return absl::OkStatus();
  }

  bool BeginRead(ReadQueue&, size_t, size_t, uint64_t, absl::Span<uint8_t>) const override {
    return true;
  }

  mutable std::atomic<bool> held_{false};
  mutable std::atomic<bool> release_{false};
  mutable uint64_t expected_offset_ = 0;
  mutable std::vector<uint64_t> pieces_;
  uint64_t fails_at_ = 0;
};

// As slow as a disk.
class SlowSource : public NotingSource {
 public:
  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    const absl::Time begun = absl::Now();
    while (absl::Now() - begun < absl::Nanoseconds(buffer.size())) continue;
    return NotingSource::ReadPages(block, offset, buffer);
  }
};

constexpr uint64_t kMin = ReadPacer::kMinPieceBytes;

TEST(ReadPacer, WithoutFaultsPiecesGrowFromTheSmallestToTheLargest) {
  NotingSource source;
  ReadPacer pacer(source, source);
  std::vector<uint8_t> buffer(16 << 20);
  ASSERT_TRUE(pacer.bulk().ReadPages(0, 0, absl::MakeSpan(buffer)).ok());
  ASSERT_GE(source.pieces_.size(), 6u);
  EXPECT_EQ(source.pieces_[0], 2 * kMin);
  EXPECT_EQ(source.pieces_[1], 4 * kMin);
  EXPECT_EQ(source.pieces_[5], ReadPacer::kMaxPieceBytes);
  EXPECT_EQ(source.expected_offset_, buffer.size());
}

TEST(ReadPacer, WhileFaultsComeOneUponTheOtherPiecesAreTheSmallest) {
  NotingSource source;
  ReadPacer pacer(source, source);
  std::vector<uint8_t> buffer(8 << 20);
  ASSERT_TRUE(pacer.bulk().ReadPages(0, 0, absl::MakeSpan(buffer)).ok());
  // So many that they come too often, whatever the machine is busy with meanwhile.
  for (int i = 0; i < 100'000; ++i) ASSERT_TRUE(pacer.demand().ReadPages(2, 0, {}).ok());
  source.expected_offset_ = 0;
  source.pieces_.clear();
  ASSERT_TRUE(pacer.bulk().ReadPages(0, 0, absl::MakeSpan(buffer).first(3 * kMin)).ok());
  EXPECT_THAT(source.pieces_, ElementsAre(kMin, 2 * kMin));
}

TEST(ReadPacer, MuchThatSomebodyWaitsForComesInOnePieceAndKeepsBulkPiecesSmall) {
  NotingSource source;
  ReadPacer pacer(source, source);
  std::vector<uint8_t> buffer(8 << 20);
  ASSERT_TRUE(pacer.demand_bulk().ReadPages(0, 0, absl::MakeSpan(buffer)).ok());
  EXPECT_THAT(source.pieces_, ElementsAre(buffer.size()));
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(pacer.demand_bulk().ReadPages(2, 0, absl::MakeSpan(buffer)).ok());
  }
  source.expected_offset_ = 0;
  source.pieces_.clear();
  ASSERT_TRUE(pacer.bulk().ReadPages(0, 0, absl::MakeSpan(buffer).first(3 * kMin)).ok());
  EXPECT_THAT(source.pieces_, ElementsAre(kMin, 2 * kMin));
}

// A guest that faults without a pause, or one whose page does not come, must not stop the rest.
TEST(ReadPacer, BulkGoesOnWhileADemandReadStalls) {
  NotingSource source;
  ReadPacer pacer(source, source);
  uint8_t page[4096];
  std::thread demand(
      [&] { ASSERT_TRUE(pacer.demand().ReadPages(1, 0, absl::MakeSpan(page)).ok()); });
  source.held_.wait(false);
  std::vector<uint8_t> buffer(1 << 20);
  EXPECT_TRUE(pacer.bulk().ReadPages(0, 0, absl::MakeSpan(buffer)).ok());
  EXPECT_EQ(source.expected_offset_, buffer.size());
  source.release_ = true;
  source.release_.notify_all();
  demand.join();
}

TEST(ReadPacer, WithoutFaultsForAWhileReadsBeginWithoutBeingWaitedForUpToALimit) {
  SlowSource source;
  ReadPacer pacer(source, source);
  ReadQueue queue;
  std::vector<uint8_t> buffer(ReadPacer::kMaxPieceBytes);
  EXPECT_FALSE(pacer.bulk().BeginRead(queue, 0, 2, 0, absl::MakeSpan(buffer))) << "at first";
  while (!pacer.bulk().BeginRead(queue, 0, 2, 0, absl::MakeSpan(buffer))) {
    ASSERT_TRUE(pacer.bulk().ReadPages(2, 0, absl::MakeSpan(buffer)).ok());
  }
  for (uint64_t begun = buffer.size(); begun < ReadPacer::kMaxQueuedBytes; begun += buffer.size()) {
    ASSERT_TRUE(pacer.bulk().BeginRead(queue, 0, 2, 0, absl::MakeSpan(buffer))) << begun;
  }
  EXPECT_FALSE(pacer.bulk().BeginRead(queue, 0, 2, 0, absl::MakeSpan(buffer))) << "too much";
  ASSERT_TRUE(pacer.bulk().EndRead(queue, 0, 2, 0, absl::MakeSpan(buffer)).ok());
  EXPECT_TRUE(pacer.bulk().BeginRead(queue, 0, 2, 0, absl::MakeSpan(buffer)));
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(pacer.bulk().EndRead(queue, 0, 2, 0, absl::MakeSpan(buffer)).ok());
  }
  ASSERT_TRUE(pacer.demand().ReadPages(2, 0, {}).ok());
  EXPECT_FALSE(pacer.bulk().BeginRead(queue, 0, 2, 0, absl::MakeSpan(buffer))) << "a fault";
}

TEST(ReadPacer, WhatComesFromThePageCacheIsWaitedFor) {
  NotingSource source;
  ReadPacer pacer(source, source);
  ReadQueue queue;
  std::vector<uint8_t> buffer(ReadPacer::kMaxPieceBytes);
  const absl::Time begun = absl::Now();
  while (absl::Now() - begun < absl::Milliseconds(50) || pacer.waits_for_disk()) {
    ASSERT_TRUE(pacer.bulk().ReadPages(2, 0, absl::MakeSpan(buffer)).ok());
  }
  EXPECT_FALSE(pacer.bulk().BeginRead(queue, 0, 2, 0, absl::MakeSpan(buffer)));
}

// QEMU's main loop waited for the rest of a load, and its guest's faults kept the reads small.
TEST(ReadPacer, OnceHurriedFaultsMakeNoDifference) {
  SlowSource source;
  ReadPacer pacer(source, source);
  ReadQueue queue;
  std::vector<uint8_t> buffer(4 * ReadPacer::kMaxPieceBytes);
  pacer.Hurry();
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(pacer.demand().ReadPages(2, 0, {}).ok());
  ASSERT_TRUE(pacer.bulk().ReadPages(0, 0, absl::MakeSpan(buffer)).ok());
  EXPECT_THAT(source.pieces_, Each(ReadPacer::kMaxPieceBytes));
  const absl::Span<uint8_t> one = absl::MakeSpan(buffer).first(ReadPacer::kMaxPieceBytes);
  ASSERT_TRUE(pacer.demand().ReadPages(2, 0, {}).ok());
  EXPECT_TRUE(pacer.bulk().BeginRead(queue, 0, 2, 0, one));
  ASSERT_TRUE(pacer.bulk().EndRead(queue, 0, 2, 0, one).ok());
}

TEST(ReadPacer, AFailedPieceEndsTheRead) {
  NotingSource source;
  source.fails_at_ = 4 * kMin;
  ReadPacer pacer(source, source);
  std::vector<uint8_t> buffer(8 << 20);
  EXPECT_TRUE(absl::IsUnavailable(pacer.bulk().ReadPages(0, 0, absl::MakeSpan(buffer))));
  EXPECT_THAT(source.pieces_, ElementsAre(2 * kMin, 4 * kMin));
}

}  // namespace
}  // namespace ramjet
