#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/parked_faults.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPages = 4096;

class ParkedFaultsTest : public ::testing::Test {
 protected:
  Fault At(uint64_t page, uint64_t retry_ns = 0) {
    return {.addr = block_.AddrOf(page), .block = &block_, .page = page, .retry_ns = retry_ns};
  }
  // The pages whose time has come, each of which is parked again if `again`.
  std::vector<uint64_t> Retry(uint64_t now_ns, bool again) {
    std::vector<uint64_t> pages;
    faults_->Retry(now_ns, [&](const Fault& fault) {
      pages.push_back(fault.page);
      EXPECT_TRUE(!again || faults_->Park(fault));
    });
    return pages;
  }

  RamBlock block_{0,
                  {.idstr = "ram", .used_length = kPages * kPageBytes, .page_size = kPageBytes},
                  {.host = 0x7f0000000000, .page_size = kPageBytes},
                  PageBitmap(kPages)};
  const std::unique_ptr<ParkedFaults> faults_ = std::make_unique<ParkedFaults>();
};

TEST_F(ParkedFaultsTest, OneFaultStandsForAllOfItsPage) {
  EXPECT_TRUE(faults_->Park(At(1)));
  EXPECT_FALSE(faults_->Park(At(1)));
  EXPECT_TRUE(faults_->Park(At(2)));
  // Of memory that is not attached yet, the address alone is known.
  EXPECT_TRUE(faults_->Park({.addr = 0x1000}));
  EXPECT_FALSE(faults_->Park({.addr = 0x1000}));
  EXPECT_TRUE(faults_->Park({.addr = 0x2000}));
  EXPECT_EQ(faults_->count(), 4u);
}

// Else two would be parked for one page: the one that loses it and claims it for good would find no
// room behind the other, and whoever sleeps on the page would never be woken.
TEST_F(ParkedFaultsTest, OneThatWasParkedBeforeItsBlockWasKnownStandsForItsPage) {
  EXPECT_TRUE(faults_->Park({.addr = block_.AddrOf(7) + 17}));
  EXPECT_FALSE(faults_->Park(At(7)));
  EXPECT_TRUE(faults_->Park(At(8)));
  EXPECT_EQ(faults_->count(), 2u);
}

TEST_F(ParkedFaultsTest, OnlyThoseWhoseTimeHasComeAreServed) {
  for (const uint64_t page : {1, 2, 3, 4}) faults_->Park(At(page, page * 10));
  EXPECT_THAT(Retry(20, /*again=*/true), ElementsAre(1, 2));
  EXPECT_EQ(faults_->count(), 4u);
  EXPECT_THAT(Retry(30, /*again=*/false), ElementsAre(1, 2, 3));
  EXPECT_THAT(Retry(39, /*again=*/false), IsEmpty());
  EXPECT_THAT(Retry(40, /*again=*/false), ElementsAre(4));
  EXPECT_TRUE(faults_->empty());
}

TEST_F(ParkedFaultsTest, AttemptsAreCounted) {
  faults_->Park(At(1));
  for (uint32_t attempts = 1; attempts < 4; ++attempts) {
    faults_->Retry(0, [&](const Fault& fault) {
      EXPECT_EQ(fault.attempts, attempts);
      faults_->Park(fault);
    });
  }
}

TEST_F(ParkedFaultsTest, WhatFoundNoRoomIsToldOnceWhenThereIsRoomAgain) {
  for (uint64_t page = 0; page < ParkedFaults::kMost; ++page) {
    ASSERT_TRUE(faults_->Park(At(page, page < ParkedFaults::kMost / 2 ? 2 : 1)));
  }
  EXPECT_FALSE(faults_->TakeOverflow()) << "all have found room";
  EXPECT_FALSE(faults_->Park(At(ParkedFaults::kMost)));
  EXPECT_FALSE(faults_->TakeOverflow()) << "it is still full";
  Retry(1, /*again=*/false);
  EXPECT_FALSE(faults_->TakeOverflow()) << "half full";
  Retry(2, /*again=*/false);
  EXPECT_TRUE(faults_->TakeOverflow());
  EXPECT_FALSE(faults_->TakeOverflow());
}

}  // namespace
}  // namespace ramjet
