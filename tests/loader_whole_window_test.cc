// Who touches a page gets the huge page around it, on a real userfaultfd.
#include <sys/prctl.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "loader/snapshot_loader.h"
#include "tests/loader_testing.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr uint64_t kWindowPages = 512;
constexpr uint64_t kPages = 8 * kWindowPages;
// As many pages as come alone from a disk before windows do.
constexpr uint64_t kEnough = 16;
// In one window, the fourth.
constexpr uint64_t kTouched = 1600;
constexpr uint64_t kFirst = 1536;
constexpr uint64_t kLast = 2047;

// A load of which all but the first and the last page have content.
class WholeWindow : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SKIP_WITHOUT_HUGE_WINDOWS();
    if (HostPageBytes() != 4096) GTEST_SKIP() << "huge pages of this host are larger";
  }

  void Attach(SnapshotLoader::Options options = {}, bool cached = true) {
    options.eager_threads = 1;
    load_.emplace(kPages, std::vector<PageRun>{{1, kPages - 2}}, MemoryKind::kPrivate, options);
    load_->source->SetCached(cached);
  }
  // Afterwards the guest runs, and the eager thread waits in its read of the first window.
  void StartEager() {
    load_->source->Hold(5);
    ASSERT_TRUE(load_->loader->StartEager().ok());
    load_->source->AwaitHeld(5);
  }
  void ExpectCompletion() {
    load_->source->Release(5);
    ASSERT_TRUE(load_->loader->Wait().ok());
    ASSERT_TRUE(load_->loader->Detach().ok());
  }
  // Everywhere but on page `odd`.
  void ExpectContent(uint64_t odd = kPages) {
    for (uint64_t page = 1; page < kPages - 1; ++page) {
      ASSERT_TRUE(page == odd || load_->memory.HoldsPattern(page)) << "page " << page;
    }
    EXPECT_TRUE(load_->memory.HoldsZeros(0));
    EXPECT_TRUE(load_->memory.HoldsZeros(kPages - 1));
  }
  void ExpectOnlyThePageComes() {
    EXPECT_TRUE(load_->memory.HoldsPattern(kTouched));
    EXPECT_EQ(stats().faulted, 1u);
    EXPECT_EQ(stats().eager, 0u);
  }
  // Touches pages of the second window, each of which comes alone, for long enough.
  void BeHungry() {
    for (uint64_t page = 600; page < 600 + kEnough; ++page) {
      ASSERT_TRUE(load_->memory.HoldsPattern(page));
    }
    ASSERT_EQ(stats().faulted, kEnough);
    ASSERT_EQ(stats().moved, 0u);
  }
  const LoadStats& stats() const { return load_->loader->stats(); }

  std::optional<OneBlockLoad> load_;
};

TEST_F(WholeWindow, ComesWithTheFirstTouch) {
  Attach();
  StartEager();
  EXPECT_TRUE(load_->memory.HoldsPattern(kTouched));
  EXPECT_TRUE(load_->memory.HoldsPattern(kFirst));
  EXPECT_TRUE(load_->memory.HoldsPattern(kLast));
  EXPECT_EQ(stats().faults, 1u);
  EXPECT_EQ(stats().faulted, 1u);
  EXPECT_EQ(stats().eager, kWindowPages - 1);
  EXPECT_EQ(stats().moved, kWindowPages);
  ExpectCompletion();
  ExpectContent();
}

TEST_F(WholeWindow, ComesForAPageOfZerosToo) {
  Attach();
  StartEager();
  EXPECT_TRUE(load_->memory.HoldsZeros(kPages - 1));
  EXPECT_TRUE(load_->memory.HoldsPattern(kPages - 2));
  EXPECT_EQ(stats().faults, 1u);
  EXPECT_EQ(stats().faulted, 0u);
  ExpectCompletion();
  ExpectContent();
}

TEST_F(WholeWindow, DoesNotComeBeforeTheGuestRuns) {
  Attach();
  ExpectOnlyThePageComes();
}

TEST_F(WholeWindow, DoesNotComeFromADiskAtFirst) {
  Attach({}, /*cached=*/false);
  StartEager();
  ExpectOnlyThePageComes();
  ExpectCompletion();
}

TEST_F(WholeWindow, ComesFromADiskToWhoHasAskedForManyPages) {
  Attach({}, /*cached=*/false);
  StartEager();
  BeHungry();
  EXPECT_TRUE(load_->memory.HoldsPattern(kTouched));
  EXPECT_TRUE(load_->memory.HoldsPattern(kFirst));
  EXPECT_TRUE(load_->memory.HoldsPattern(kLast));
  EXPECT_EQ(stats().faults, kEnough + 1);
  EXPECT_EQ(stats().moved, kWindowPages);
  ExpectCompletion();
  ExpectContent();
}

TEST_F(WholeWindow, ThatTookADiskTooLongIsFollowedByPages) {
  Attach({}, /*cached=*/false);
  StartEager();
  BeHungry();
  load_->source->Hold(kTouched);
  std::thread guest([&] { EXPECT_TRUE(load_->memory.HoldsPattern(kTouched)); });
  EXPECT_EQ(load_->source->AwaitHeld(kTouched), (PageRun{kFirst, kWindowPages}));
  const absl::Time held = absl::Now();
  while (absl::Now() - held < absl::Milliseconds(5)) std::this_thread::yield();
  load_->source->Release(kTouched);
  guest.join();
  EXPECT_EQ(stats().moved, kWindowPages);
  EXPECT_TRUE(load_->memory.HoldsPattern(kTouched + kWindowPages));
  EXPECT_EQ(stats().moved, kWindowPages);
  ExpectCompletion();
  ExpectContent();
}

// Windows one after the other would make the last wait for all.
TEST_F(WholeWindow, DoesNotComeFromADiskWhileSeveralWait) {
  Attach({}, /*cached=*/false);
  StartEager();
  BeHungry();
  load_->source->Hold(700);  // comes alone, like its neighbours
  std::vector<std::thread> guests;
  guests.emplace_back([&] { EXPECT_TRUE(load_->memory.HoldsPattern(700)); });
  EXPECT_EQ(load_->source->AwaitHeld(700), (PageRun{700, 1}));
  for (uint64_t window = 3; window < 6; ++window) {
    guests.emplace_back(
        [&, window] { EXPECT_TRUE(load_->memory.HoldsPattern(window * kWindowPages + 7)); });
  }
  while (UnreadFaults() < 3) std::this_thread::yield();
  load_->source->Release(700);
  for (std::thread& guest : guests) guest.join();
  EXPECT_EQ(stats().moved, 0u);
  EXPECT_EQ(stats().faulted, kEnough + 4);
  ExpectCompletion();
  ExpectContent();
}

TEST_F(WholeWindow, FromADiskThatFailsComesByItsPages) {
  Attach({}, /*cached=*/false);
  StartEager();
  BeHungry();
  load_->source->Fail(1700, absl::UnavailableError("busy"), 1);
  EXPECT_TRUE(load_->memory.HoldsPattern(kTouched));
  EXPECT_EQ(stats().faulted, kEnough + 1);
  EXPECT_EQ(stats().moved, 0u);
  ExpectCompletion();
  ExpectContent();
}

TEST_F(WholeWindow, DoesNotComeWhereThatIsNotWanted) {
  Attach({.whole_windows = false});
  StartEager();
  ExpectOnlyThePageComes();
  ExpectCompletion();
}

TEST_F(WholeWindow, DoesNotComeWhereLoadingAheadHasALimit) {
  Attach({.eager_bytes_per_s = uint64_t{1} << 40});
  StartEager();
  ExpectOnlyThePageComes();
  ExpectCompletion();
}

TEST_F(WholeWindow, WithAnUnreadablePageComesButForThat) {
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  Attach();
  StartEager();
  load_->source->Fail(1700, absl::DataLossError("page 1700 is gone"), 1 << 30);
  EXPECT_TRUE(load_->memory.HoldsPattern(kTouched));
  EXPECT_TRUE(IsPoisoned(load_->memory.data() + 1700 * HostPageBytes()));
  ExpectCompletion();
  ExpectContent(/*odd=*/1700);
  EXPECT_EQ(stats().poisoned, 1u);
}

// The eager thread has passed by while it was claimed, and would never come again.
TEST_F(WholeWindow, ThatIsGivenBackIsStillLoaded) {
  Attach();
  StartEager();
  load_->source->Hold(kTouched);
  std::thread guest([&] { EXPECT_TRUE(load_->memory.HoldsPattern(kTouched)); });
  EXPECT_EQ(load_->source->AwaitHeld(kTouched), (PageRun{kFirst, kWindowPages}));
  load_->source->Release(5);
  while (stats().eager < kPages - 2 - kWindowPages) std::this_thread::yield();
  load_->source->Fail(kTouched, absl::UnavailableError("busy"), 1);
  load_->source->Release(kTouched);
  guest.join();
  ExpectCompletion();
  ExpectContent();
}

// Three vCPUs. What the first waits for has come, the fault thread is held up in the window of the
// second, kTouched's, and meanwhile the third's is offered to the eager thread, which is held up,
// too, in the first window.
class OfferedWindow : public WholeWindow {
 protected:
  static constexpr uint64_t kOffered = 3600;  // in the last window

  void SetUp() override {
    WholeWindow::SetUp();
    if (IsSkipped()) return;
    Attach();
    StartEager();
    load_->source->Hold(700);
    std::thread first([&] { EXPECT_TRUE(load_->memory.HoldsPattern(700)); });
    load_->source->AwaitHeld(700);
    load_->source->Hold(kTouched);
    second_ = std::thread([&] { EXPECT_TRUE(load_->memory.HoldsPattern(kTouched)); });
    while (UnreadFaults() < 1) std::this_thread::yield();
    third_ = std::thread([&] { EXPECT_TRUE(load_->memory.HoldsPattern(kOffered)); });
    while (UnreadFaults() < 2) std::this_thread::yield();
    load_->source->Release(700);
    first.join();
    EXPECT_EQ(load_->source->AwaitHeld(kTouched), (PageRun{kFirst, kWindowPages}));
    load_->source->Hold(1100);  // in the third window, which were the eager thread's next
  }
  void Finish() {
    load_->source->Release(1100);
    load_->source->Release(kTouched);
    if (second_.joinable()) second_.join();
    ExpectCompletion();
  }

  std::thread second_;
  std::thread third_;
};

TEST_F(OfferedWindow, ComesByWhoLoadsAheadBeforeAllThatNobodyWaitsFor) {
  load_->source->Release(5);
  third_.join();
  EXPECT_EQ(stats().faulted, 2u);
  EXPECT_EQ(stats().moved, kWindowPages - 1 + kWindowPages + kWindowPages - 1);
  Finish();
  ExpectContent();
  EXPECT_EQ(stats().faulted, 3u);
  EXPECT_EQ(stats().in_flight, 1u);
  EXPECT_EQ(stats().fault_ns.count(), 3u) << "a fault was counted twice";
  EXPECT_EQ(stats().window_ns.count(), 3u);
}

TEST_F(OfferedWindow, ThatNobodyTakesComesInItsTurn) {
  load_->source->Release(kTouched);
  second_.join();
  third_.join();
  EXPECT_EQ(stats().faulted, 3u);
  EXPECT_EQ(stats().in_flight, 0u);
  Finish();
  ExpectContent();
}

TEST_F(OfferedWindow, ThatNobodyTakesAndCannotBeReadIsServedAsAnyOther) {
  load_->source->Fail(kOffered, absl::UnavailableError("busy"), 1);
  load_->source->Release(kTouched);
  second_.join();
  third_.join();
  Finish();
  ExpectContent();
}

TEST_F(OfferedWindow, OfWhichAPageIsDiscardedComesWithoutIt) {
  const uintptr_t discarded =
      reinterpret_cast<uintptr_t>(load_->memory.data()) + 3700 * HostPageBytes();
  load_->loader->Discard(discarded, discarded + HostPageBytes());
  load_->source->Release(5);
  third_.join();
  Finish();
  EXPECT_TRUE(load_->memory.HoldsZeros(3700));
  ExpectContent(/*odd=*/3700);
  EXPECT_EQ(stats().removed, 1u);
}

TEST_F(OfferedWindow, ThatCannotBeReadComesByItsPages) {
  load_->source->Fail(kOffered, absl::UnavailableError("busy"), 1);
  load_->source->Release(5);
  third_.join();
  Finish();
  ExpectContent();
}

// Guests read, write and discard, each its own pages and all in the same windows.
TEST_F(WholeWindow, GuestsMayDoAsTheyLikeMeanwhile) {
  Attach();
  std::atomic<int> wrong{0};
  ASSERT_TRUE(load_->loader->StartEager().ok());
  std::vector<std::thread> guests;
  for (uint64_t guest = 0; guest < 3; ++guest) {
    guests.emplace_back([&, guest] {
      for (uint64_t i = 0; i < kPages / 3; ++i) {
        const uint64_t page = (i * 617 % (kPages / 3)) * 3 + guest;  // all, in no order
        if (page == 0) continue;
        uint8_t* const byte = load_->memory.data() + page * HostPageBytes();
        switch (i % 8) {
          case 0:
            *byte = 0xa5;
            wrong += *byte != 0xa5;
            break;
          case 1:
            load_->memory.MadviseDontNeed(page, 1);
            wrong += !load_->memory.HoldsZeros(page);
            break;
          default:
            wrong += !load_->memory.HoldsPattern(page);
        }
      }
    });
  }
  for (std::thread& guest : guests) guest.join();
  ASSERT_TRUE(load_->loader->Wait().ok());
  ASSERT_TRUE(load_->loader->Detach().ok());
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(stats().eager + stats().faulted + stats().removed, kPages - 2);
}

// Where the kernel has no huge page to give, windows were filled from small pages all the same, as
// much at once as a huge page. They come in runs, for eager threads and for who touches them.
TEST_F(WholeWindow, WithoutAHugePageToFillComesInRuns) {
  Attach();
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
  StartEager();
  ExpectOnlyThePageComes();
  ExpectCompletion();
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
  ExpectContent();
  EXPECT_EQ(stats().moved, 0u);
}

}  // namespace
}  // namespace ramjet
