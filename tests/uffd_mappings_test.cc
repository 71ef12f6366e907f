#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "uffd/mappings.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr uint64_t kPages = 1024;

// Of the kernel's question whether memory holds anything; unlike MappingAt() there is no other way
// to answer it.
class HoldsAnythingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Holds(0, kPages).has_value()) GTEST_SKIP() << "no PAGEMAP_SCAN (Linux 6.7)";
    ASSERT_EQ(madvise(memory_.data(), memory_.length(), MADV_NOHUGEPAGE), 0);
  }
  // Of pages [first, end).
  std::optional<bool> Holds(uint64_t first, uint64_t end) const {
    return HoldsAnything(memory_.addr(first), memory_.addr(end));
  }
  void ExpectOnlyPage(uint64_t page) const {
    EXPECT_EQ(Holds(0, kPages), true);
    EXPECT_EQ(Holds(page, page + 1), true);
    EXPECT_EQ(Holds(0, page), false);
    EXPECT_EQ(Holds(page + 1, kPages), false);
  }
  volatile uint8_t* At(uint64_t page) { return memory_.data() + page * HostPageBytes(); }

  GuestMemory memory_{kPages * HostPageBytes(), BlockMemory::kPrivate};
};

TEST_F(HoldsAnythingTest, MemoryThatNobodyTouchedHoldsNothing) {
  EXPECT_EQ(Holds(0, kPages), false);
}

TEST_F(HoldsAnythingTest, AWrittenPageIsSomething) {
  *At(700) = 1;
  ExpectOnlyPage(700);
}

TEST_F(HoldsAnythingTest, APageOfZerosThatWasOnlyReadIsSomething) {
  EXPECT_EQ(*At(700), 0);
  ExpectOnlyPage(700);
}

TEST_F(HoldsAnythingTest, ADiscardedPageIsNothing) {
  *At(700) = 1;
  memory_.MadviseDontNeed(700, 1);
  EXPECT_EQ(Holds(0, kPages), false);
}

TEST_F(HoldsAnythingTest, AHugePageIsSomething) {
  ASSERT_EQ(madvise(memory_.data(), memory_.length(), MADV_HUGEPAGE), 0);
  *At(700) = 1;
  EXPECT_EQ(Holds(0, kPages), true);
  EXPECT_EQ(Holds(700, 701), true);
}

TEST_F(HoldsAnythingTest, WhatIsNotMappedHoldsNothing) {
  ASSERT_EQ(munmap(memory_.data() + 100 * HostPageBytes(), 100 * HostPageBytes()), 0);
  EXPECT_EQ(Holds(0, kPages), false);
  *At(700) = 1;
  ExpectOnlyPage(700);
  // For the destructor, which unmaps all of it.
  ASSERT_NE(mmap(memory_.data() + 100 * HostPageBytes(), 100 * HostPageBytes(), PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
}

TEST_F(HoldsAnythingTest, ASwappedPageIsSomething) {
  *At(700) = 1;
  ASSERT_EQ(madvise(memory_.data(), memory_.length(), MADV_PAGEOUT), 0);
  ExpectOnlyPage(700);  // present still, where there is no swap
}

TEST_F(HoldsAnythingTest, APoisonedPageIsSomething) {
  SKIP_WITHOUT_USERFAULTFD();
  const Userfaultfd uffd = *Userfaultfd::Open();
  if (!uffd.features().poison) GTEST_SKIP() << "no UFFDIO_POISON (Linux 6.6)";
  ASSERT_TRUE(uffd.Register(memory_.addr(), memory_.length()).ok());
  EXPECT_EQ(Holds(0, kPages), false) << "registering brings nothing";
  ASSERT_EQ(uffd.Poison(memory_.addr(700), HostPageBytes()).result, InstallResult::kDone);
  ExpectOnlyPage(700);
  ASSERT_TRUE(uffd.Unregister(memory_.addr(), memory_.length()).ok());
}

}  // namespace
}  // namespace ramjet
