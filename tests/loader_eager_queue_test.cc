#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "loader/eager_queue.h"

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

PageRun NextRun(EagerQueue& queue) {
  const std::optional<EagerQueue::Window> window = queue.Next();
  return window ? window->run : PageRun{};
}

TEST(EagerQueue, WindowsComeInOrderAndEndWhereHugePagesBegin) {
  // Begins 12 pages before a huge page.
  RamBlock block = Block(0, kHost - 12 * kPageBytes, 1200, {{0, 1200}});
  EagerQueue queue(1);
  queue.Add(block);
  std::optional<EagerQueue::Window> window = queue.Next();
  EXPECT_EQ(window->run, (PageRun{0, 12}));
  window = queue.Next();
  EXPECT_EQ(window->run, (PageRun{12, kWindowPages}));
  EXPECT_EQ(NextRun(queue), (PageRun{524, kWindowPages}));
  EXPECT_EQ(NextRun(queue), (PageRun{1036, 164}));
  queue.Close();
  EXPECT_FALSE(queue.Next().has_value());
}

TEST(EagerQueue, WindowsWithoutContentAreSkipped) {
  RamBlock block = Block(0, kHost, 100 * kWindowPages, {{50 * kWindowPages + 3, 1}});
  EagerQueue queue(1);
  queue.Add(block);
  EXPECT_EQ(NextRun(queue), (PageRun{50 * kWindowPages, kWindowPages}));
}

TEST(EagerQueue, TheWindowOfALateHintComesFirstAndOnlyWhileItHasSomethingToLoad) {
  RamBlock one = Block(0, kHost, 8 * kWindowPages, {{0, 8 * kWindowPages}});
  RamBlock two = Block(2, kHost + (1 << 30), 8 * kWindowPages, {{0, 4 * kWindowPages}});
  EagerQueue queue(3);
  queue.Add(one);
  queue.Add(two);
  EXPECT_EQ(NextRun(queue).first, 0u);
  queue.Hint(one, 5 * kWindowPages + 17);
  queue.Hint(two, 2 * kWindowPages);
  queue.Hint(two, 2 * kWindowPages + 1);  // the same window
  queue.Hint(two, 6 * kWindowPages);      // nothing there
  std::optional<EagerQueue::Window> window = queue.Next();
  EXPECT_EQ(window->block, &two);
  EXPECT_EQ(window->run, (PageRun{2 * kWindowPages, kWindowPages}));
  EXPECT_EQ(two.Claim(window->run), kWindowPages);
  window = queue.Next();
  EXPECT_EQ(window->block, &one);
  EXPECT_EQ(window->run, (PageRun{5 * kWindowPages, kWindowPages}));
  queue.Hint(two, 2 * kWindowPages);  // claimed meanwhile
  EXPECT_EQ(NextRun(queue), (PageRun{kWindowPages, kWindowPages}));
}

TEST(EagerQueue, WhoHasSomethingElseToDoIsNotKept) {
  RamBlock block = Block(0, kHost, 3 * kWindowPages, {{0, 3 * kWindowPages}});
  EagerQueue queue(1);
  EXPECT_FALSE(queue.TryNext().has_value());
  queue.Add(block);
  queue.Hold();
  EXPECT_FALSE(queue.TryNext().has_value());
  queue.priority().Put({.block = &block, .run = {kWindowPages, kWindowPages}});
  EXPECT_EQ(queue.TryNext()->run.first, kWindowPages);
  queue.Release();
  EXPECT_EQ(queue.TryNext()->run.first, 0u);
  queue.Close();
  EXPECT_FALSE(queue.TryNext().has_value());
}

TEST(EagerQueue, WhatIsLimitedIsNotGivenEarlierToWhoDoesNotWait) {
  RamBlock block = Block(0, kHost, 3 * kWindowPages, {{0, 3 * kWindowPages}});
  EagerQueue queue(1, /*bytes_per_s=*/1);
  queue.Add(block);
  EXPECT_TRUE(queue.TryNext().has_value());
  EXPECT_FALSE(queue.TryNext().has_value());
}

TEST(EagerQueue, WhatIsPutBackForLaterComesWhenNothingElseIsLeft) {
  RamBlock one = Block(0, kHost, 2 * kWindowPages, {{0, 2 * kWindowPages}});
  RamBlock two = Block(1, kHost + (1 << 30), 2 * kWindowPages, {{0, 2 * kWindowPages}});
  EagerQueue queue(2);
  queue.Add(one);
  queue.Add(two);
  for (int window = 0; window < 4; ++window) {
    const std::optional<EagerQueue::Window> next = queue.Next();
    ASSERT_EQ(next->block, window < 2 ? &one : &two);
    ASSERT_EQ(next->run.first, window % 2 * kWindowPages);
    if (window < 2) queue.PutBackForLater(one, next->run);
    if (window >= 2) next->block->Claim(next->run);
  }
  EXPECT_EQ(NextRun(queue), (PageRun{0, kWindowPages})) << "the next round, which waits a while";
  EXPECT_EQ(NextRun(queue), (PageRun{kWindowPages, kWindowPages}));
}

// The next round began at once, and so on for ever: who finished a load never saw the queue empty.
TEST(EagerQueue, ARoundOfSlowFailuresIsFollowedByAPause) {
  RamBlock block = Block(0, kHost, 2 * kWindowPages, {{0, 2 * kWindowPages}});
  EagerQueue queue(1);
  queue.Add(block);
  for (int round = 0; round < 6; ++round) {
    const std::optional<EagerQueue::Window> first = queue.Next();
    queue.PutBackForLater(block, first->run);
    absl::SleepFor(absl::Milliseconds(25));  // of the second failure
    const std::optional<EagerQueue::Window> second = queue.Next();
    ASSERT_EQ(second->run.first, kWindowPages);
    queue.PutBackForLater(block, second->run);
  }
  EXPECT_FALSE(queue.TryNext().has_value());  // for the 320 ms of the sixth round
}

TEST(EagerQueue, WhoHurriesKnowsNoLimitAndNoHold) {
  RamBlock block = Block(0, kHost, 4 * kWindowPages, {{0, 4 * kWindowPages}});
  EagerQueue queue(1, /*bytes_per_s=*/1);
  queue.Add(block);
  EXPECT_TRUE(queue.TryNext().has_value());
  std::thread waits([&] { EXPECT_EQ(NextRun(queue).first, kWindowPages); });
  queue.Hold();
  queue.Hurry();
  waits.join();
  EXPECT_EQ(NextRun(queue).first, 2 * kWindowPages);
}

// Pacing followed the clock of the day: set back by an hour, it loaded nothing for an hour.
TEST(EagerQueue, AClockThatIsSetBackHoldsNothingUp) {
  if (std::getenv("RAMJET_TEST_OWNS_MACHINE") == nullptr) {
    GTEST_SKIP() << "only in a machine of our own the clock may be set (tests/under_kernel)";
  }
  RamBlock block = Block(0, kHost, 4 * kWindowPages, {{0, 4 * kWindowPages}});
  EagerQueue queue(1, /*bytes_per_s=*/4 * kWindowPages * kPageBytes);  // a window in 250 ms
  queue.Add(block);
  EXPECT_EQ(NextRun(queue).first, 0u);
  timespec now;
  ASSERT_EQ(clock_gettime(CLOCK_REALTIME, &now), 0);
  now.tv_sec -= 3600;
  ASSERT_EQ(clock_settime(CLOCK_REALTIME, &now), 0) << std::strerror(errno);
  EXPECT_EQ(NextRun(queue).first, kWindowPages);
  EXPECT_EQ(NextRun(queue).first, 2 * kWindowPages);
}

TEST(EagerQueue, HintsAtABlockThatIsNotThereYetAreForgotten) {
  RamBlock one = Block(0, kHost, kWindowPages, {{0, kWindowPages}});
  RamBlock two = Block(1, kHost + (1 << 30), 2 * kWindowPages, {{0, 2 * kWindowPages}});
  EagerQueue queue(2);
  queue.Hint(two, kWindowPages);
  queue.Add(one);
  EXPECT_EQ(queue.Next()->block, &one);
  queue.Add(two);
  EXPECT_EQ(NextRun(queue).first, 0u);
}

TEST(EagerQueue, WhatIsPutFirstComesInItsOrderButForWhatIsWaitedFor) {
  RamBlock one = Block(0, kHost, 8 * kWindowPages, {{0, 8 * kWindowPages}});
  RamBlock two = Block(1, kHost + (1 << 30), 8 * kWindowPages, {{0, 8 * kWindowPages}});
  EagerQueue queue(2);
  queue.Add(one);
  queue.Hold();  // which does not concern them
  EXPECT_FALSE(queue.priority().Take());
  for (const uint64_t window : {5, 3, 6, 1}) {
    queue.priority().Put({&one, {window * kWindowPages, kWindowPages}});
  }
  queue.Hint(one, 7 * kWindowPages);
  queue.priority().NoteWaiting(two, 6 * kWindowPages);  // nobody put it here
  queue.priority().NoteWaiting(one, 6 * kWindowPages + 9);
  EXPECT_EQ(NextRun(queue).first, 6 * kWindowPages);
  EXPECT_EQ(queue.priority().Take()->run.first, 5 * kWindowPages);
  queue.priority().NoteWaiting(one, 5 * kWindowPages);  // it is in hand
  queue.priority().NoteWaiting(one, 1 * kWindowPages);
  EXPECT_EQ(NextRun(queue).first, 1 * kWindowPages);
  EXPECT_EQ(NextRun(queue).first, 3 * kWindowPages);
  EXPECT_FALSE(queue.priority().Take());
  queue.Release();
  EXPECT_EQ(NextRun(queue).first, 7 * kWindowPages) << "as it was touched";
}

// It is claimed before it is put there, and whoever touches it may be told of in between.
TEST(EagerQueue, WhatIsWaitedForBeforeItIsPutFirstComesFirstToo) {
  RamBlock block = Block(0, kHost, 4 * kWindowPages, {{0, 4 * kWindowPages}});
  const auto window = [&](uint64_t number) {
    return EagerQueue::Window{.block = &block, .run = {number * kWindowPages, kWindowPages}};
  };
  EagerQueue queue(1);
  queue.priority().Put(window(0));
  queue.priority().NoteWaiting(block, 3 * kWindowPages + 7);
  EXPECT_EQ(queue.priority().Take()->run.first, 0u);  // forgets the hint
  queue.priority().Put(window(1));
  queue.priority().Put(window(2));
  queue.priority().Put(window(3));
  EXPECT_EQ(queue.priority().Take()->run.first, 3 * kWindowPages);
  EXPECT_EQ(queue.priority().Take()->run.first, kWindowPages);
  EXPECT_EQ(queue.priority().Take()->run.first, 2 * kWindowPages);
  EXPECT_FALSE(queue.priority().Take().has_value());
}

// Passed by while it was claimed, it would be handed out to nobody, and the load never be complete.
TEST(EagerQueue, WhatIsPutBackIsHandedOutOnceMore) {
  RamBlock one = Block(0, kHost, 4 * kWindowPages, {{0, 4 * kWindowPages}});
  RamBlock two = Block(1, kHost + (1 << 30), kWindowPages, {{0, kWindowPages}});
  EagerQueue queue(2);
  queue.Add(one);
  queue.Add(two);
  one.Claim({kWindowPages, kWindowPages});
  EXPECT_EQ(NextRun(queue), (PageRun{0, kWindowPages}));
  EXPECT_EQ(NextRun(queue), (PageRun{2 * kWindowPages, kWindowPages}));
  EXPECT_EQ(NextRun(queue), (PageRun{3 * kWindowPages, kWindowPages}));
  EXPECT_EQ(queue.Next()->block, &two);
  one.Claim({0, kWindowPages});
  one.Unclaim({kWindowPages, kWindowPages});
  queue.PutBack(one, {kWindowPages, kWindowPages});
  const std::optional<EagerQueue::Window> window = queue.Next();
  EXPECT_EQ(window->block, &one);
  EXPECT_EQ(window->run, (PageRun{kWindowPages, kWindowPages}));
}

TEST(EagerQueue, WhatIsHeldComesAfterItsRelease) {
  RamBlock block = Block(0, kHost, kWindowPages, {{0, kWindowPages}});
  EagerQueue queue(1);
  queue.Hold();
  queue.Hold();
  queue.Add(block);
  std::atomic<int> released{0};
  std::thread taker([&] {
    EXPECT_EQ(NextRun(queue).count, kWindowPages);
    EXPECT_EQ(released, 2);
  });
  for (int i = 0; i < 2; ++i) {
    ++released;
    queue.Release();
  }
  taker.join();
}

// At a rate at which the second window would come after a year.
TEST(EagerQueue, AClosedQueueWaitsForNoRate) {
  RamBlock block = Block(0, kHost, 2 * kWindowPages, {{0, 2 * kWindowPages}});
  EagerQueue queue(1, 1);
  queue.Add(block);
  EXPECT_EQ(NextRun(queue).first, 0u);
  std::thread taker([&] { EXPECT_FALSE(queue.Next().has_value()); });
  queue.Close();
  taker.join();
}

TEST(EagerQueue, WindowsComeNoFasterThanTheRateAllows) {
  RamBlock block = Block(0, kHost, 4 * kWindowPages, {{0, 4 * kWindowPages}});
  EagerQueue queue(1, 200 << 20);
  queue.Add(block);
  const absl::Time begun = absl::Now();
  for (int i = 0; i < 4; ++i) NextRun(queue);
  // The first at once, each of the others 10 ms after the one before. More is no fault.
  EXPECT_GE(absl::Now() - begun, absl::Milliseconds(29));
}

}  // namespace
}  // namespace ramjet
