#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mappedram/zero_scan.h"

namespace ramjet {
namespace {

constexpr size_t kMaxAlignment = 128;  // twice the widest vector

class ZeroScanTest : public testing::TestWithParam<ZeroScan> {};

// All that surrounds the bytes is not zero, and does not count.
TEST_P(ZeroScanTest, AllZerosOfEveryLengthAtEveryAddressAreZeros) {
  for (size_t length = 0; length < 600; ++length) {
    for (size_t at = 1; at <= kMaxAlignment; ++at) {
      std::vector<uint8_t> bytes(at + length + 1, 0xff);
      std::memset(bytes.data() + at, 0, length);
      ASSERT_TRUE(GetParam().is_zero(bytes.data() + at, length)) << length << " at " << at;
    }
  }
}

TEST_P(ZeroScanTest, OneBitAnywhereAtEveryAddressIsFound) {
  constexpr size_t kLength = 600;
  std::vector<uint8_t> bytes(kMaxAlignment + kLength);
  for (size_t at = 0; at < kMaxAlignment; ++at) {
    for (size_t byte = 0; byte < kLength; ++byte) {
      bytes[at + byte] = static_cast<uint8_t>(1 << byte % 8);
      for (const size_t length : {kLength, byte + 1}) {
        ASSERT_FALSE(GetParam().is_zero(bytes.data() + at, length)) << byte << " at " << at;
      }
      ASSERT_TRUE(GetParam().is_zero(bytes.data() + at, byte));
      bytes[at + byte] = 0;
    }
  }
}

TEST_P(ZeroScanTest, OneBitAnywhereInAPageIsFound) {
  std::vector<uint8_t> page(65536);
  for (size_t byte = 0; byte < page.size(); ++byte) {
    page[byte] = 0x80;
    ASSERT_FALSE(GetParam().is_zero(page.data(), page.size())) << byte;
    page[byte] = 0;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ZeroScanTest,
                         testing::ValuesIn(ZeroScans().begin(), ZeroScans().end()),
                         [](const testing::TestParamInfo<ZeroScan>& test) {
                           const std::string name = test.param.name;
                           return name == "AVX-512" ? "AVX512" : name;
                         });

TEST(ZeroScan, TheLastIsTheOneInUse) {
  std::vector<uint8_t> page(4096);
  EXPECT_TRUE(IsZero(page));
  EXPECT_TRUE(IsZero({}));
  page[4095] = 1;
  EXPECT_FALSE(IsZero(page));
  EXPECT_STREQ(ZeroScans()[0].name, "plain");
}

}  // namespace
}  // namespace ramjet
