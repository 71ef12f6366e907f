#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

#include "loader/ram_block.h"

namespace ramjet {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uintptr_t kHost = 0x7f0000000000;

// `pages` of the file of `stored_bytes`, in memory of pages of `host_bytes`.
RamBlock Block(uint64_t pages, const std::vector<PageRun>& nonzero,
               uint64_t stored_bytes = kPageBytes, uint64_t host_bytes = kPageBytes) {
  PageBitmap bitmap(pages);
  for (const PageRun& run : nonzero) bitmap.SetRun(run);
  return RamBlock(0,
                  {.idstr = "ram", .used_length = pages * stored_bytes, .page_size = stored_bytes},
                  {.host = kHost, .page_size = host_bytes}, std::move(bitmap));
}

TEST(RamBlock, AddressesAndPagesConvert) {
  const RamBlock block = Block(16, {});
  EXPECT_EQ(block.PageOf(kHost + kPageBytes + 5), 1u);
  EXPECT_EQ(block.AddrOf(3), kHost + 3 * kPageBytes);
  EXPECT_TRUE(block.Contains(kHost));
  EXPECT_FALSE(block.Contains(kHost - 1));
  EXPECT_FALSE(block.Contains(kHost + 16 * kPageBytes));
}

TEST(RamBlock, OnlyPagesWhollyInsideARangeCount) {
  const RamBlock block = Block(16, {});
  EXPECT_EQ(block.PagesInside(kHost + 1, kHost + 3 * kPageBytes), (PageRun{1, 2}));
  EXPECT_EQ(block.PagesInside(kHost, kHost + kPageBytes - 1).count, 0u);
  EXPECT_EQ(block.PagesInside(0, UINTPTR_MAX), (PageRun{0, 16}));
  EXPECT_EQ(block.PagesInside(kHost - 50 * kPageBytes, kHost).count, 0u);
  EXPECT_EQ(block.PagesInside(kHost + 16 * kPageBytes, UINTPTR_MAX).count, 0u);
}

TEST(RamBlock, PendingRunsAreThoseWithContentThatNobodyHasClaimed) {
  RamBlock block = Block(300, {{10, 100}, {200, 1}});
  EXPECT_EQ(block.FindPending(0, 300), (PageRun{10, 100}));
  EXPECT_EQ(block.Claim({20, 30}), 30u);
  EXPECT_EQ(block.FindPending(0, 300), (PageRun{10, 10}));
  EXPECT_EQ(block.FindPending(20, 300), (PageRun{50, 60}));
  EXPECT_EQ(block.FindPending(110, 300), (PageRun{200, 1}));
  EXPECT_EQ(block.FindPending(201, 300).count, 0u);
}

TEST(RamBlock, AClaimEndsAtTheFirstClaimedPage) {
  RamBlock block = Block(300, {{0, 300}});
  EXPECT_EQ(block.Claim({130, 1}), 1u);
  EXPECT_EQ(block.Claim({0, 300}), 130u);
  EXPECT_EQ(block.Claim({0, 300}), 0u);
  EXPECT_TRUE(block.pending(131));
}

TEST(RamBlock, CompleteWhenEveryPageWithContentIsReceived) {
  RamBlock block = Block(100, {{0, 10}});
  block.Claim({0, 100});
  EXPECT_FALSE(block.MarkReceived({50, 50})) << "pages without content are not owed";
  EXPECT_FALSE(block.MarkReceived({0, 9}));
  EXPECT_EQ(block.remaining_pages(), 1u);
  EXPECT_TRUE(block.MarkReceived({9, 1}));
}

TEST(RamBlock, ADiscardCountsEachPageOnceWhateverItsState) {
  RamBlock block = Block(100, {{0, 10}});
  block.Claim({0, 2});
  block.MarkReceived(
      {0, 1});  // 0 received, 1 in flight, 2 to 9 pending, the others without content
  const RamBlock::Discarded discarded = block.Discard({0, 100});
  EXPECT_EQ(discarded.pages, 9u);
  EXPECT_TRUE(discarded.block_completed);
  EXPECT_FALSE(block.nonzero(5));
  EXPECT_TRUE(block.received(5));
  EXPECT_EQ(block.Claim({5, 1}), 0u) << "nobody may load it any more";
  EXPECT_EQ(block.Discard({0, 100}).pages, 0u);
}

TEST(RamBlock, Invariant2OfManyClaimantsOneGetsThePage) {
  constexpr uint64_t kPages = 1 << 20;  // long enough for them to meet
  for (int round = 0; round < 24; ++round) {
    RamBlock block = Block(kPages, {{0, kPages}});
    std::atomic<uint64_t> claimed{0};
    std::latch all_run(4);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        all_run.arrive_and_wait();
        for (uint64_t page = 0; page < block.pages();) {
          const uint64_t count = block.Claim({page, std::min<uint64_t>(7, block.pages() - page)});
          claimed += count;
          page += std::max<uint64_t>(count, 1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(claimed, block.pages());
  }
}

// Who finds a page claimed and not received takes it for one in flight, and waits for its claimant;
// a discard is none. The fault thread hung a guest that way.
TEST(RamBlock, Invariant4ADiscardedPageIsNeverSeenClaimedAndNotReceived) {
  // A discard goes through one bitmap after the other: what it does too late, it does milliseconds
  // too late.
  constexpr uint64_t kPages = 1 << 24;
  for (int round = 0; round < 3; ++round) {
    RamBlock block = Block(kPages, {{0, kPages}});
    std::atomic<bool> done{false};
    std::atomic<uint64_t> seen_in_flight{0};
    std::latch both_run(2);
    std::thread faults([&] {
      both_run.arrive_and_wait();
      for (uint64_t page = kPages - 1; !done; page = kPages - 1 - page) {  // the last and the first
        if (!block.pending(page) && !block.received(page)) ++seen_in_flight;
      }
    });
    both_run.arrive_and_wait();
    block.Discard({0, kPages});
    done = true;
    faults.join();
    ASSERT_EQ(seen_in_flight, 0u);
  }
}

// Several may note discards at once: the gate keeps installs out, not them. Each page is to be
// counted by one of them, or the load would never be complete.
TEST(RamBlock, APageDiscardedByTwoAtOnceIsCountedOnce) {
  constexpr uint64_t kPages = 1 << 16;
  for (int round = 0; round < 20; ++round) {
    RamBlock block = Block(kPages, {{0, kPages}});
    std::atomic<uint64_t> lost{0};
    const auto discard = [&] {
      for (uint64_t page = 0; page < kPages; page += 64) lost += block.Discard({page, 64}).pages;
    };
    std::thread other(discard);
    discard();
    other.join();
    ASSERT_EQ(lost, kPages);
    ASSERT_EQ(block.remaining_pages(), 0u);
  }
}

// --- Pages of the file that are not the host's ---

TEST(RamBlock, AHugePageHasContentIfAnyOfItsPartsHas) {
  const RamBlock block = Block(1200, {{3, 1}, {600, 2}}, kPageBytes, 2 << 20);
  EXPECT_EQ(block.pages(), 3u) << "the last one is not full";
  EXPECT_EQ(block.nonzero_pages(), 2u);
  EXPECT_TRUE(block.nonzero(0) && block.nonzero(1) && !block.nonzero(2));
  const RamBlock::Extent first = block.FindStored({0, 2}, 0);
  EXPECT_EQ(first.offset, 3 * kPageBytes);
  EXPECT_EQ(first.length, kPageBytes);
  const RamBlock::Extent second = block.FindStored({0, 2}, first.end());
  EXPECT_EQ(second.offset, 600 * kPageBytes);
  EXPECT_EQ(second.length, 2 * kPageBytes);
  EXPECT_EQ(block.FindStored({0, 3}, second.end()).length, 0u);
  EXPECT_EQ(block.FindStored({1, 1}, 512 * kPageBytes).offset, 600 * kPageBytes);
}

TEST(RamBlock, ALargePageOfTheFileIsSeveralHere) {
  const RamBlock block = Block(4, {{1, 2}}, 16 * kPageBytes, kPageBytes);
  EXPECT_EQ(block.pages(), 64u);
  EXPECT_EQ(block.nonzero_pages(), 32u);
  EXPECT_EQ(block.FindPending(0, 64), (PageRun{16, 32}));
  EXPECT_EQ(block.FindStored({20, 2}, 20 * kPageBytes).length, 2 * kPageBytes);
}

}  // namespace
}  // namespace ramjet
