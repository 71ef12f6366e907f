#include <sys/mman.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "loader/page_buffer.h"
#include "tests/loader_testing.h"

namespace ramjet {
namespace {

// As the comment of Touch() says.
constexpr int kRefusals = 63;

bool AnyPresent(const HugeStaging& staging) {
  std::vector<unsigned char> resident(HugeStaging::kBytes / HostPageBytes());
  EXPECT_EQ(mincore(staging.memory().data(), HugeStaging::kBytes, resident.data()), 0);
  return std::any_of(resident.begin(), resident.end(), [](unsigned char page) { return page & 1; });
}

// A memory cgroup that is full has no huge page to give. It was filled with small ones then, 2 MiB
// at a time in each thread, and the guest was killed for memory although there was swap.
TEST(HugeStaging, TakesNoSmallPagesWhereThereIsNoHugeOne) {
  SKIP_WITHOUT_HUGE_WINDOWS();
  HugeStaging staging = *HugeStaging::Create();
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
  EXPECT_FALSE(staging.Touch());
  EXPECT_FALSE(AnyPresent(staging));
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
  HugeStaging moved = std::move(staging);
  for (int i = 0; i < kRefusals; ++i) EXPECT_FALSE(moved.Touch()) << i;
  EXPECT_FALSE(AnyPresent(moved));
  EXPECT_TRUE(moved.Touch());
  EXPECT_TRUE(AnyPresent(moved));
  EXPECT_TRUE(moved.Touch()) << "it is there";
}

}  // namespace
}  // namespace ramjet
