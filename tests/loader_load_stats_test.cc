#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "loader/load_stats.h"

namespace ramjet {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::Le;

TEST(LatencyHistogram, EmptyItSaysZero) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.QuantileNs(0.99), 0u);
  EXPECT_EQ(histogram.max_ns(), 0u);
}

TEST(LatencyHistogram, QuantilesAreGoodToATenth) {
  LatencyHistogram histogram;
  for (uint64_t ns = 1; ns <= 100'000; ++ns) histogram.Add(ns);
  EXPECT_EQ(histogram.count(), 100'000u);
  EXPECT_THAT(histogram.QuantileNs(0.5), AllOf(Ge(50'000u), Le(55'000u)));
  EXPECT_THAT(histogram.QuantileNs(0.99), AllOf(Ge(99'000u), Le(100'000u)));
  EXPECT_EQ(histogram.QuantileNs(1), 100'000u);
}

TEST(LatencyHistogram, EveryDurationHasABucketThatIsNotBelowIt) {
  for (unsigned bit = 0; bit < 64; ++bit) {
    for (const uint64_t ns :
         {uint64_t{1} << bit, (uint64_t{1} << bit) - 1, (uint64_t{3} << bit) / 2}) {
      LatencyHistogram histogram;
      histogram.Add(ns);
      histogram.Add(UINT64_MAX);  // so that the quantile is the bucket's end, and not the maximum
      EXPECT_GE(histogram.QuantileNs(0.5), ns);
      EXPECT_LE(histogram.QuantileNs(0.5), ns + ns / 16);
    }
  }
}

TEST(LoadStats, ErrorsBeyondTheFirstAreCounted) {
  LoadStats stats;
  for (char i = 'a'; i < 'u'; ++i) stats.AddError(absl::DataLossError(std::string("bad") + i));
  ASSERT_EQ(stats.errors().size(), LoadStats::kMaxErrors + 1);
  EXPECT_EQ(stats.errors().back(), "and 4 more");
}

// One run of 16 pages that could not be read was told 16 times.
TEST(LoadStats, AnErrorThatComesAgainIsToldOnce) {
  LoadStats stats;
  stats.TellErrors();
  for (int i = 0; i < 20; ++i) stats.AddError(absl::DataLossError("bad"));
  EXPECT_EQ(stats.errors().size(), 1u);
  EXPECT_EQ(stats.error_count(), 1u);
  EXPECT_FALSE(stats.told(1));
  const LoadStats::Untold untold = stats.TakeUntold();
  EXPECT_EQ(untold.messages.size(), 1u);
  stats.MarkTold(untold.upto);
  EXPECT_TRUE(stats.told(1));
  EXPECT_FALSE(stats.any_untold());
}

// 100 threads died of poison, and 64 reasons were told.
TEST(LoadStats, OfTooManyErrorsAtOnceItIsToldHowMany) {
  LoadStats stats;
  stats.TellErrors();
  for (int i = 0; i < 100; ++i) stats.AddError(absl::DataLossError(absl::StrCat("page ", i)));
  const LoadStats::Untold untold = stats.TakeUntold();
  EXPECT_EQ(untold.messages.size(), 65u);
  EXPECT_EQ(untold.messages.back(), "and 36 more");
  stats.AddError(absl::DataLossError("page 100"));
  EXPECT_EQ(stats.TakeUntold().messages, std::vector<std::string>{"page 100"});
}

}  // namespace
}  // namespace ramjet
