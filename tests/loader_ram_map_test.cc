#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "loader/ram_map.h"

namespace ramjet {
namespace {

constexpr uint64_t kPageBytes = 4096;

std::unique_ptr<RamBlock> Block(uintptr_t host, uint64_t pages) {
  return std::make_unique<RamBlock>(
      0, SnapshotBlock{.idstr = "ram", .used_length = pages * kPageBytes, .page_size = kPageBytes},
      RamBlock::Memory{.host = host, .page_size = kPageBytes}, PageBitmap(pages));
}

TEST(RamMap, FindsTheBlockThatContainsAnAddress) {
  RamMap map(3);
  const auto middle = Block(0x20000, 2), low = Block(0x10000, 1), high = Block(0x40000, 16);
  map.Insert(*middle);
  map.Insert(*high);
  map.Insert(*low);
  EXPECT_EQ(map.Find(0x10fff), low.get());
  EXPECT_EQ(map.Find(0x11000), nullptr);
  EXPECT_EQ(map.Find(0x21fff), middle.get());
  EXPECT_EQ(map.Find(0x22000), nullptr);
  EXPECT_EQ(map.Find(0x4ffff), high.get());
  EXPECT_EQ(map.Find(0x50000), nullptr);
  EXPECT_EQ(map.Find(0), nullptr);
}

TEST(RamMap, FindsTheFirstBlockBehindAnAddress) {
  RamMap map(2);
  const auto low = Block(0x10000, 1), high = Block(0x40000, 1);
  EXPECT_EQ(map.FindFrom(0), nullptr);
  map.Insert(*low);
  map.Insert(*high);
  EXPECT_EQ(map.FindFrom(0), low.get());
  EXPECT_EQ(map.FindFrom(0x11000), high.get());
  EXPECT_EQ(map.FindFrom(0x41000), nullptr);
}

TEST(RamMap, GrownWhileItIsSearchedItNeverMissesABlock) {
  constexpr size_t kBlocks = 4096;
  RamMap map(kBlocks);
  std::vector<std::unique_ptr<RamBlock>> blocks;
  for (size_t i = 0; i < kBlocks; ++i) blocks.push_back(Block(0x100000 + 0x2000 * i, 1));
  map.Insert(*blocks[kBlocks / 2]);
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) {
      EXPECT_EQ(map.Find(blocks[kBlocks / 2]->host()), blocks[kBlocks / 2].get());
    }
  });
  for (size_t i = kBlocks; i-- > 0;) {
    if (i != kBlocks / 2) map.Insert(*blocks[i]);
  }
  stop = true;
  reader.join();
  for (const auto& block : blocks) EXPECT_EQ(map.Find(block->host()), block.get());
}

}  // namespace
}  // namespace ramjet
