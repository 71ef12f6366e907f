// Windows that a disk has been asked for while others are still to come, on a real userfaultfd.
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/snapshot_loader.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kWindowPages = 512;
constexpr uint64_t kPages = 40 * kWindowPages;
// By then windows are under way, of which this page's is the oldest: one takes 2 ms.
constexpr uint64_t kHeld = 30 * kWindowPages + 7;
constexpr uint64_t kNext = kHeld + kWindowPages;  // in the window after it

// A load of which one page in each window has no content, and of which one window is held up, with
// those behind it. Until then nobody has touched anything.
class QueuedWindow : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SKIP_WITHOUT_HUGE_WINDOWS();
    if (HostPageBytes() != 4096) GTEST_SKIP() << "huge pages of this host are larger";
    std::vector<PageRun> nonzero;
    for (uint64_t page = 0; page < kPages; page += kWindowPages) {
      nonzero.push_back({page, 5});
      nonzero.push_back({page + 6, kWindowPages - 6});
    }
    load_.emplace(kPages, nonzero, MemoryKind::kPrivate,
                  SnapshotLoader::Options{.eager_threads = 1});
    load_->source->SetQueued(true);
    load_->source->Hold(kHeld);
    ASSERT_TRUE(load_->loader->StartEager().ok());
    load_->source->AwaitHeld(kHeld);
    const bool next_begun = load_->source->begun_to() > kNext;
    if (!next_begun) load_->source->Release(kHeld);
    ASSERT_TRUE(next_begun) << load_->source->begun_to();
  }
  void ExpectCompletion() {
    load_->source->Release(kHeld);
    ASSERT_TRUE(load_->loader->Wait().ok());
    ASSERT_TRUE(load_->loader->Detach().ok());
  }
  void ExpectContent(PageRun but = {}) {
    for (uint64_t page = 0; page < kPages; ++page) {
      if (page >= but.first && page < but.end()) continue;
      ASSERT_TRUE(page % kWindowPages == 5 ? load_->memory.HoldsZeros(page)
                                           : load_->memory.HoldsPattern(page))
          << "page " << page;
    }
  }
  const LoadStats& stats() const { return load_->loader->stats(); }

  std::optional<OneBlockLoad> load_;
};

TEST_F(QueuedWindow, AllOfThemArrive) {
  ExpectCompletion();
  EXPECT_GE(stats().queued, 10 * (kWindowPages - 1));
  EXPECT_LE(stats().queued, stats().eager);
  EXPECT_EQ(stats().moved, stats().eager);
  EXPECT_EQ(stats().eager, kPages / kWindowPages * (kWindowPages - 1));
  ExpectContent();
}

TEST_F(QueuedWindow, WhoTouchesAPageOfOneOnItsWayDoesNotWaitForIt) {
  EXPECT_TRUE(load_->memory.HoldsPattern(kNext));
  EXPECT_TRUE(load_->memory.HoldsZeros(kNext - 2));
  EXPECT_EQ(stats().faulted, 1u);
  ExpectCompletion();
  ExpectContent();
}

TEST_F(QueuedWindow, Invariant3WhatIsDiscardedOnItsWayIsZeroForEver) {
  const PageRun discarded{kNext, 3};
  load_->memory.MadviseDontNeed(discarded.first, discarded.count);
  ExpectCompletion();
  EXPECT_EQ(stats().removed, discarded.count);
  for (uint64_t page = discarded.first; page < discarded.end(); ++page) {
    EXPECT_TRUE(load_->memory.HoldsZeros(page)) << "page " << page;
  }
  ExpectContent(discarded);
}

TEST_F(QueuedWindow, AnUnreadablePageOfOneIsPoisonedAndNoOther) {
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  load_->source->Fail(kNext, absl::DataLossError("it is gone"), 1 << 30);
  load_->source->Release(kHeld);
  ASSERT_TRUE(load_->loader->Finish().ok());
  EXPECT_TRUE(IsPoisoned(load_->memory.data() + kNext * HostPageBytes()));
  EXPECT_THAT(stats().errors(), ElementsAre("it is gone"));
  ExpectContent({kNext, 1});
}

TEST_F(QueuedWindow, AbandonedOnTheirWayNothingIsLeftOfThem) {
  std::thread vmm([&] { load_->loader->Abandon(); });
  EXPECT_TRUE(absl::IsCancelled(load_->loader->Wait()));
  load_->source->Release(kHeld);
  vmm.join();
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
}

// The real thing: past the page cache, through io_uring.
TEST(QueuedWindows, ComeFromAFile) {
  SKIP_WITHOUT_USERFAULTFD();
  SKIP_WITHOUT_HUGE_WINDOWS();
  GuestMemory memory(kPages * HostPageBytes(), MemoryKind::kPrivate);
  const auto loader = SnapshotLoader::Create(OneBlockSnapshot(kPages, {{3, kPages - 3}}),
                                             {.direct = DirectReads::kAlways,
                                              .eager_threads = 1,
                                              .eager_bytes_per_s = 1 << 30});  // to take a while
  ASSERT_TRUE(loader.ok()) << loader.status();
  ASSERT_TRUE((*loader)->Attach(0, memory.mapping()).ok());
  ASSERT_TRUE((*loader)->StartEager().ok());
  ASSERT_TRUE((*loader)->Wait().ok());
  ASSERT_TRUE((*loader)->Detach().ok());
  for (uint64_t page = 3; page < kPages; ++page) {
    ASSERT_TRUE(memory.HoldsPattern(page)) << "page " << page;
  }
  if ((*loader)->stats().queued == 0) GTEST_SKIP() << "no disk here, or no io_uring";
}

}  // namespace
}  // namespace ramjet
