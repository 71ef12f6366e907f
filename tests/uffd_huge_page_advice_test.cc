// Huge pages are kept away from every mapping of the memory, and the owner's advice comes back.
#include <sys/mman.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "uffd/huge_page_advice.h"
#include "uffd/mappings.h"

namespace ramjet {
namespace {

constexpr uint64_t kPages = 16;

class HugePagesOffTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (AdviceAt(memory_.addr()) != "hg") GTEST_SKIP() << "this kernel has no huge pages";
    ASSERT_NE(second_, MAP_FAILED);
    ASSERT_EQ(madvise(second_, 8 * HostPageBytes(), MADV_HUGEPAGE), 0);
    ASSERT_EQ(madvise(Second(8), 4 * HostPageBytes(), MADV_NOHUGEPAGE), 0);
  }
  void TearDown() override {
    if (second_ != MAP_FAILED) munmap(second_, memory_.length());
  }
  void* Second(uint64_t page) const {
    return static_cast<uint8_t*>(second_) + page * HostPageBytes();
  }
  uintptr_t SecondAddr(uint64_t page) const { return reinterpret_cast<uintptr_t>(Second(page)); }
  static std::string AdviceAt(uintptr_t addr) {
    std::string advice = "unmapped";
    const absl::Status read = VisitMappings([&](const KernelMapping& mapping) {
      if (mapping.start <= addr && addr < mapping.end) {
        advice = mapping.huge_advised ? "hg" : mapping.huge == HugeAdvice::kUnwanted ? "nh" : "";
      }
      return true;
    });
    EXPECT_TRUE(read.ok()) << read;
    return advice;
  }

  const GuestMemory memory_{kPages * HostPageBytes(), MemoryKind::kShared};
  void* const second_ =
      mmap(nullptr, memory_.length(), PROT_READ | PROT_WRITE, MAP_SHARED, memory_.memfd(), 0);
};

TEST_F(HugePagesOffTest, EveryMappingOfTheBytesIsAdvisedAndGetsItsOwnAdviceBack) {
  {
    absl::StatusOr<HugePagesOff> off = HugePagesOff::Over(memory_.addr(4), 8 * HostPageBytes());
    ASSERT_TRUE(off.ok()) << off.status();
    const HugePagesOff moved = *std::move(off);
    EXPECT_EQ(AdviceAt(memory_.addr(3)), "hg") << "other bytes are left alone";
    EXPECT_EQ(AdviceAt(memory_.addr(4)), "nh");
    EXPECT_EQ(AdviceAt(memory_.addr(11)), "nh");
    EXPECT_EQ(AdviceAt(memory_.addr(12)), "hg");
    EXPECT_EQ(AdviceAt(SecondAddr(3)), "hg");
    EXPECT_EQ(AdviceAt(SecondAddr(4)), "nh");
    EXPECT_EQ(AdviceAt(SecondAddr(7)), "nh");
  }
  EXPECT_EQ(AdviceAt(memory_.addr(4)), "hg");
  EXPECT_EQ(AdviceAt(memory_.addr(11)), "hg");
  EXPECT_EQ(AdviceAt(SecondAddr(4)), "hg");
  EXPECT_EQ(AdviceAt(SecondAddr(8)), "nh") << "that was its owner's";
  EXPECT_EQ(AdviceAt(SecondAddr(12)), "") << "it gets none by this host's settings";
}

TEST_F(HugePagesOffTest, WhatIsMappedThereLaterIsLeftAlone) {
  {
    const absl::StatusOr<HugePagesOff> off = HugePagesOff::Over(memory_.addr(), memory_.length());
    ASSERT_TRUE(off.ok()) << off.status();
    ASSERT_EQ(mmap(second_, HostPageBytes(), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              second_);
    ASSERT_EQ(munmap(Second(1), HostPageBytes()), 0);
  }
  EXPECT_EQ(AdviceAt(SecondAddr(0)), "");
  EXPECT_EQ(AdviceAt(SecondAddr(1)), "unmapped");
  EXPECT_EQ(AdviceAt(SecondAddr(2)), "hg");
}

}  // namespace
}  // namespace ramjet
