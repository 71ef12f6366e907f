#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "mappedram/crc32c.h"

namespace ramjet {
namespace {

// RFC 3720 (iSCSI), B.4.
TEST(Crc32c, KnownSums) {
  std::vector<uint8_t> bytes(32);
  EXPECT_EQ(Crc32c(bytes), 0x8a9136aau);
  EXPECT_EQ(PlainCrc32c(bytes), 0x8a9136aau);
  bytes.assign(32, 0xff);
  EXPECT_EQ(Crc32c(bytes), 0x62a8ab43u);
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  EXPECT_EQ(Crc32c(bytes), 0x46dd794eu);
  EXPECT_EQ(PlainCrc32c(bytes), 0x46dd794eu);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST(Crc32c, EveryLengthAtEveryAddressIsAsTheTableHasItWholeOrInParts) {
  std::vector<uint8_t> bytes(200);
  std::mt19937 random(1);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (size_t at = 0; at < 16; ++at) {
    for (size_t length = 0; at + length <= bytes.size(); ++length) {
      const auto part = absl::MakeConstSpan(bytes).subspan(at, length);
      const uint32_t crc = PlainCrc32c(part);
      ASSERT_EQ(Crc32c(part), crc) << length << " at " << at;
      const size_t cut = length / 3;
      ASSERT_EQ(Crc32c(part.subspan(cut), Crc32c(part.first(cut))), crc) << length << " at " << at;
    }
  }
}

}  // namespace
}  // namespace ramjet
