// The file of a working set: what goes in comes out, whatever is damaged is refused, and the union
// of several.
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/working_set.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using WsRun = WorkingSet::Run;

WorkingSet OfRam(std::vector<WsRun> runs) {
  return {.snapshot_digest = 0x1122334455667788,
          .blocks = {{"ram", 4096, 32}, {"rom", 4096, 16}},
          .runs = std::move(runs)};
}

// Bit by bit, unlike the code.
uint32_t Crc32c(const std::string& bytes) {
  uint32_t crc = 0xffffffff;
  for (const char byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
  }
  return ~crc;
}

std::string WithCrc(std::string content) {
  const uint32_t crc = Crc32c(content);
  for (int i = 0; i < 4; ++i) content.push_back(static_cast<char>(crc >> (8 * i)));
  return content;
}

// The header, and then `rest`.
std::string Forged(const std::string& rest) {
  return WithCrc(std::string("ramjetWS\1\0\0\0digest64", 20) + rest);
}

absl::Status StatusOf(const std::string& bytes) {
  const absl::StatusOr<WorkingSet> set = DecodeWorkingSet(bytes);
  return set.ok() ? CheckDisjoint(*set) : set.status();
}

TEST(WorkingSet, TheCrcIsTheOneThatIsPublished) { EXPECT_EQ(Crc32c("123456789"), 0xe3069283u); }

// As the header has it.
TEST(WorkingSet, TheExampleIsEncodedAsDocumented) {
  const WorkingSet set{.snapshot_digest = 0x1122334455667788,
                       .blocks = {{"ram", 4096, 32}},
                       .runs = {{0, {5, 1}}, {0, {2, 2}}}};
  const std::string bytes = WithCrc(std::string(
      "ramjetWS\1\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\1\3ram\x80\x20\x20\2\2\x0a\4\7", 33));
  EXPECT_EQ(EncodeWorkingSet(set), bytes);
  const absl::StatusOr<WorkingSet> decoded = DecodeWorkingSet(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, set);
}

TEST(WorkingSet, WhatIsEncodedIsDecoded) {
  const WorkingSet sets[] = {
      {},
      OfRam({}),
      OfRam({{1, {0, 16}}, {0, {31, 1}}, {0, {0, 31}}}),
      {.snapshot_digest = ~uint64_t{0},
       .blocks = {{"", uint64_t{1} << 30, uint64_t{1} << 22}, {std::string(300, '\xff'), 1, 1}},
       .runs = {{1, {0, 1}}, {0, {(uint64_t{1} << 22) - 1, 1}}, {0, {0, 1 << 20}}}}};
  for (const WorkingSet& set : sets) {
    const absl::StatusOr<WorkingSet> decoded = DecodeWorkingSet(EncodeWorkingSet(set));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, set);
  }
}

TEST(WorkingSet, NeighboursThatComeOneAfterTheOtherAreOneRun) {
  WorkingSet set = OfRam({});
  set.Append(0, {4, 1});
  set.Append(0, {5, 1});
  set.Append(1, {6, 1});
  set.Append(0, {6, 2});
  set.Append(0, {3, 1});
  EXPECT_THAT(set.runs,
              ElementsAre(WsRun{0, {4, 2}}, WsRun{1, {6, 1}}, WsRun{0, {6, 2}}, WsRun{0, {3, 1}}));
  EXPECT_EQ(set.pages(), 6u);
  EXPECT_EQ(set.bytes(), 6u * 4096);
}

TEST(WorkingSet, AFewPagesTakeAFewBytes) {
  std::mt19937 random(1);
  WorkingSet set{.snapshot_digest = 1, .blocks = {{"pc.ram", 4096, 262144}}, .runs = {}};
  for (uint64_t page = 0; page < 200000; page += 2 + random() % 30) set.Append(0, {page, 1});
  EXPECT_LT(EncodeWorkingSet(set).size(), set.runs.size() * 2 + 64);
}

TEST(WorkingSet, WhatIsNoWorkingSetIsToldFromADamagedOne) {
  EXPECT_TRUE(absl::IsInvalidArgument(StatusOf("")));
  EXPECT_TRUE(absl::IsInvalidArgument(StatusOf("ramjetW")));
  EXPECT_TRUE(absl::IsInvalidArgument(StatusOf(std::string(64, 'x'))));
  std::string later = EncodeWorkingSet(OfRam({}));
  later[8] = 2;
  EXPECT_TRUE(absl::IsInvalidArgument(StatusOf(later)));
  EXPECT_THAT(std::string(StatusOf(later).message()), HasSubstr("version is 2"));
  EXPECT_TRUE(absl::IsDataLoss(StatusOf("ramjetWS")));
  EXPECT_TRUE(absl::IsDataLoss(StatusOf(std::string("ramjetWS\1\0\0\0", 12))));
}

TEST(WorkingSet, EveryFlippedBitAndEveryCutIsNoticed) {
  const std::string good = EncodeWorkingSet(OfRam({{0, {5, 1}}, {1, {2, 2}}, {0, {9, 9}}}));
  ASSERT_TRUE(StatusOf(good).ok());
  for (size_t i = 0; i < good.size(); ++i) {
    EXPECT_FALSE(StatusOf(good.substr(0, i)).ok()) << "cut to " << i;
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 1 << bit);
      EXPECT_FALSE(StatusOf(bad).ok()) << "bit " << bit << " of byte " << i;
    }
  }
  EXPECT_FALSE(StatusOf(good + "x").ok());
}

// With a right checksum: what only intent can make.
TEST(WorkingSet, ForgedOnesAreRefusedWithTheReason) {
  const std::string block("\1\3ram\x80\x20\x20", 8);  // of 32 pages
  ASSERT_TRUE(StatusOf(Forged(block + std::string("\1\2\0", 3))).ok());
  const std::string huge("\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 10);  // 2^64 - 1
  const std::pair<std::string, const char*> cases[] = {
      {"", "ends early"},
      {huge, "ends early"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\2\0", 11), "too large"},
      {std::string("\1\4ram", 5), "ends early"},
      {"\1" + huge, "ends early"},
      {std::string("\1\3ram\3\x20\0", 8), "pages of 3 bytes"},
      {std::string("\1\3ram\0\x20\0", 8), "pages of 0 bytes"},
      {std::string("\1\3ram\1\0\0", 8), "0 pages"},
      {"\1\3ram\2" + huge, "pages of 2 bytes"},
      {block, "ends early"},
      {block + huge, "ends early"},
      {block + std::string("\1\0\0", 3), "0 pages"},
      // 1 + 2^64
      {block + "\x81\x80\x80\x80\x80\x80\x80\x80\x80\2" + std::string("\2\0", 2), "too large"},
      {block + std::string("\1\x42\0", 3), "does not lie in its block"},
      {block + std::string("\1\2\x40", 3), "does not lie in its block"},
      {block + std::string("\1\2\1", 3), "does not lie in its block"},
      {block + "\1" + huge + huge, "ends early"},
      {block + "\1\2" + huge, "does not lie in its block"},
      {block + std::string("\1\3\1\0", 4), "is of block 1 of 1"},
      {block + std::string("\2\4\0\2\1", 5), "page 1 of block 0 is there twice"},
      {block + std::string("\1\2\0\0", 4), "bytes follow its end"},
      {std::string("\0\1\2\0", 4), "is of block 0 of 0"},
  };
  for (const auto& [rest, reason] : cases) {
    const absl::Status status = StatusOf(Forged(rest));
    EXPECT_TRUE(absl::IsDataLoss(status)) << reason << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
  }
}

// Whatever bytes, and a right checksum: no crash, and what is accepted comes out as it went in.
TEST(WorkingSet, AnyMutationIsRefusedOrMeansWhatItSays) {
  std::mt19937 random(7);
  const std::string good = EncodeWorkingSet(
      OfRam({{0, {5, 1}}, {1, {2, 2}}, {0, {9, 9}}, {0, {0, 3}}, {0, {30, 2}}, {1, {7, 1}}}));
  int accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    std::string bad = good.substr(0, good.size() - 4);
    for (uint64_t changes = 1 + random() % 3; changes > 0; --changes) {
      const size_t at = 20 + random() % (bad.size() - 20);
      switch (random() % 3) {
        case 0:
          bad[at] = static_cast<char>(random());
          break;
        case 1:
          bad.erase(at, 1);
          break;
        default:
          bad.insert(at, 1, static_cast<char>(random()));
      }
    }
    const absl::StatusOr<WorkingSet> decoded = DecodeWorkingSet(WithCrc(bad));
    if (!decoded.ok()) continue;
    ++accepted;
    for (const WsRun& run : decoded->runs) {
      ASSERT_LT(run.block, decoded->blocks.size());
      ASSERT_LE(run.pages.end(), decoded->blocks[run.block].pages);
    }
    const absl::StatusOr<WorkingSet> again = DecodeWorkingSet(EncodeWorkingSet(*decoded));
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_EQ(*again, *decoded);
  }
  EXPECT_GT(accepted, 1000);
}

TEST(WorkingSet, AFileIsNamedInWhatIsWrongWithIt) {
  const std::string path = ::testing::TempDir() + "/damaged.ws";
  std::ofstream(path) << "ramjetWS but not quite";
  EXPECT_THAT(std::string(ReadWorkingSet(path).status().message()), HasSubstr("damaged.ws"));
  unlink(path.c_str());
  EXPECT_THAT(std::string(ReadWorkingSet(path).status().message()), HasSubstr("damaged.ws"));
  EXPECT_THAT(std::string(ReadWorkingSet(::testing::TempDir()).status().message()),
              HasSubstr("directory"));
}

TEST(WorkingSet, MergedTheMostCommonPagesComeFirstAndThenTheEarliest) {
  const WorkingSet sets[] = {
      OfRam({{0, {10, 1}}, {0, {20, 1}}, {0, {30, 1}}}),
      OfRam({{0, {30, 1}}, {0, {10, 1}}, {0, {5, 1}}}),
      OfRam({{0, {30, 1}}, {1, {3, 1}}, {0, {10, 1}}, {0, {20, 1}}}),
  };
  const absl::StatusOr<WorkingSet> merged = MergeWorkingSets(sets);
  ASSERT_TRUE(merged.ok()) << merged.status();
  // In all three: 30 (ranks 2, 0, 0) and 10 (0, 1, 2). In two: 20. In one: 3 of rom at 1, 5 at 2.
  EXPECT_THAT(merged->runs, ElementsAre(WsRun{0, {30, 1}}, WsRun{0, {10, 1}}, WsRun{0, {20, 1}},
                                        WsRun{1, {3, 1}}, WsRun{0, {5, 1}}));
  EXPECT_EQ(merged->snapshot_digest, sets[0].snapshot_digest);
}

TEST(WorkingSet, MergedRunsThatOverlapAreCutWhereTheyDiffer) {
  const WorkingSet sets[] = {OfRam({{0, {0, 10}}}), OfRam({{0, {20, 2}}, {0, {4, 10}}})};
  const absl::StatusOr<WorkingSet> merged = MergeWorkingSets(sets);
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_THAT(merged->runs, ElementsAre(WsRun{0, {4, 6}}, WsRun{0, {0, 4}}, WsRun{0, {20, 2}},
                                        WsRun{0, {10, 4}}));
  EXPECT_EQ(*MergeWorkingSets({sets, 1}), sets[0]);
}

// Files list only the blocks they have pages of, in an order of their own.
TEST(WorkingSet, MergedBlocksGoByTheirNames) {
  WorkingSet one{.snapshot_digest = 3, .blocks = {{"b", 4096, 9}}, .runs = {{0, {1, 1}}}};
  WorkingSet two{.snapshot_digest = 3,
                 .blocks = {{"a", 4096, 9}, {"b", 4096, 9}},
                 .runs = {{0, {2, 1}}, {1, {1, 1}}}};
  const absl::StatusOr<WorkingSet> merged = MergeWorkingSets({one, two});
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_THAT(merged->blocks, ElementsAre(one.blocks[0], two.blocks[0]));
  EXPECT_THAT(merged->runs, ElementsAre(WsRun{0, {1, 1}}, WsRun{1, {2, 1}}));
}

// A few bytes may claim 2^40 pages.
TEST(WorkingSet, MergedEnormousRunsCostNoMoreThanSmallOnes) {
  WorkingSet set{.snapshot_digest = 3,
                 .blocks = {{"b", 4096, uint64_t{1} << 40}},
                 .runs = {{0, {0, uint64_t{1} << 40}}}};
  const absl::StatusOr<WorkingSet> merged = MergeWorkingSets({set, set});
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(*merged, set);
}

TEST(WorkingSet, OfDifferentSnapshotsNothingIsMerged) {
  WorkingSet other = OfRam({});
  other.snapshot_digest = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(MergeWorkingSets({OfRam({}), other}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MergeWorkingSets({}).status()));
  const absl::StatusOr<WorkingSet> nothing = MergeWorkingSets({OfRam({}), OfRam({})});
  ASSERT_TRUE(nothing.ok());
  EXPECT_THAT(nothing->runs, IsEmpty());
}

}  // namespace
}  // namespace ramjet
