#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "loader/huge_page_policy.h"

namespace ramjet {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kWindowPages = 512;
constexpr uintptr_t kHost = 0x7f0000000000;

RamBlock Block(size_t index, uintptr_t host, uint64_t pages, const std::vector<PageRun>& nonzero) {
  PageBitmap bitmap(pages);
  for (const PageRun& run : nonzero) bitmap.SetRun(run);
  return RamBlock(index,
                  {.idstr = "ram", .used_length = pages * kPageBytes, .page_size = kPageBytes},
                  {.host = host, .page_size = kPageBytes}, std::move(bitmap));
}

TEST(HugePagePolicy, WindowsAreWantedWholeOnceAllowedWhereTheyAreToBeHuge) {
  const RamBlock huge = Block(0, kHost, 2 * kWindowPages, {{0, 1}});
  const RamBlock small = Block(1, kHost + (1 << 30), kWindowPages, {{0, kWindowPages}});
  const PageRun first{0, kWindowPages};
  HugePagePolicy policy(2);
  policy.AllowWhole();
  EXPECT_FALSE(policy.WantsWhole(huge, first)) << "it has not been added";
  policy.Add(huge, HugePages::kWhereAnyContent);
  policy.Add(small, HugePages::kNever);
  EXPECT_TRUE(policy.WantsWhole(huge, first));
  EXPECT_FALSE(policy.WantsWhole(huge, {kWindowPages, kWindowPages})) << "it has no content";
  EXPECT_FALSE(policy.WantsWhole(small, first));
  HugePagePolicy early(2);
  early.Add(huge, HugePages::kWhereAnyContent);
  EXPECT_FALSE(early.WantsWhole(huge, first)) << "not allowed yet";
  EXPECT_TRUE(early.IsHuge(huge, first));
}

TEST(HugePagePolicy, AShortWindowIsNotHuge) {
  // Begins 12 pages before a huge page.
  const RamBlock block = Block(0, kHost - 12 * kPageBytes, 1200, {{0, 1200}});
  HugePagePolicy policy(1);
  policy.Add(block, HugePages::kWhereAnyContent);
  EXPECT_FALSE(policy.IsHuge(block, {0, 12}));
  EXPECT_TRUE(policy.IsHuge(block, {12, kWindowPages}));
}

TEST(HugePagePolicy, WhatWasSaidStaysAsItIsWhenTheRestIsDecided) {
  const RamBlock said = Block(0, kHost, kWindowPages, {{0, kWindowPages}});
  const RamBlock open = Block(1, kHost + (1 << 30), kWindowPages, {{0, kWindowPages}});
  HugePagePolicy policy(2);
  policy.Add(said, HugePages::kNever);
  policy.Add(open, HugePages::kUndecided);
  EXPECT_FALSE(policy.IsHuge(open, {0, kWindowPages}));
  (void)policy.DecideIsHuge(open, {0, kWindowPages});  // as this host wants it
  EXPECT_NE(policy.of(open), HugePages::kUndecided);
  EXPECT_EQ(policy.of(said), HugePages::kNever);
}

TEST(HugePagePolicy, AWindowIsHugeWhereAPlainReadWouldHaveMadeItSo) {
  const RamBlock block = Block(0, kHost, 4 * kWindowPages, {{5, 1}, {512, 256}, {1024, 255}});
  const auto is_huge = [&](uint64_t window, HugePages huge) {
    return IsHugeWindow(block, {window * kWindowPages, kWindowPages}, huge);
  };
  EXPECT_TRUE(is_huge(0, HugePages::kWhereAnyContent));
  EXPECT_FALSE(is_huge(3, HugePages::kWhereAnyContent));
  EXPECT_FALSE(is_huge(0, HugePages::kWhereHalfFull));
  EXPECT_TRUE(is_huge(1, HugePages::kWhereHalfFull));
  EXPECT_FALSE(is_huge(2, HugePages::kWhereHalfFull));
  EXPECT_FALSE(is_huge(1, HugePages::kNever));
}

}  // namespace
}  // namespace ramjet
