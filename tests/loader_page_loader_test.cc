// One page's trip, with the events in the test's own hand: no fault thread reads them unless the
// test does.
#include <sys/mman.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>

#include "gtest/gtest.h"
#include "loader/load_progress.h"
#include "loader/page_loader.h"
#include "tests/loader_testing.h"
#include "uffd/event_reader.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr uint64_t kPages = 1024;

class PageLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    uffd_.emplace(*Userfaultfd::Open());
    reader_.emplace(*EventReader::Create(*uffd_));
    // The second huge page has nothing at either end.
    snapshot_ = OneBlockSnapshot(kPages, {{0, 512}, {600, 423}});
    block_.emplace(0, "ram", memory_.addr(), memory_.length(), HostPageBytes(),
                   snapshot_->TakeNonzero(0));
    loader_.emplace(*snapshot_, *uffd_, gate_, stats_, progress_);
    ASSERT_TRUE(uffd_->Register(memory_.addr(), memory_.length()).ok());
  }

  // The state in which the kernel answers EAGAIN to every install: a discard whose event nobody has
  // read.
  std::thread BeginDiscard(uint64_t page) {
    std::thread discarder([this, page] { memory_.MadviseDontNeed(page, 1); });
    // There is something to read once the event is queued.
    reader_->Wait(-1);
    return discarder;
  }
  void ReadEvents() {
    bool more;
    reader_->Read(more);
  }

  GuestMemory memory_{kPages * HostPageBytes(), BlockMemory::kPrivate};
  std::optional<Userfaultfd> uffd_;
  std::optional<EventReader> reader_;
  std::unique_ptr<Snapshot> snapshot_;
  std::optional<RamBlock> block_;
  InstallGate gate_;
  LoadStats stats_;
  LoadProgress progress_;
  std::optional<PageLoader> loader_;
  PageBuffer buffer_ = *PageBuffer::Create(64 * HostPageBytes());
};

TEST_F(PageLoaderTest, APendingPageIsLoadedOnce) {
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kLoaded);
  EXPECT_TRUE(memory_.HoldsPattern(7));
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kReceived);
  EXPECT_TRUE(memory_.HoldsPattern(7));
  EXPECT_EQ(stats_.faulted, 1u);
}

TEST_F(PageLoaderTest, APageWithoutContentIsZero) {
  EXPECT_EQ(loader_->LoadFaulted(*block_, kPages - 1, buffer_), Outcome::kLoaded);
  EXPECT_TRUE(memory_.HoldsZeros(kPages - 1));
  EXPECT_EQ(stats_.zeroed, 1u);
}

TEST_F(PageLoaderTest, FaultOnClaimedPageIsLeftToItsClaimant) {
  ASSERT_EQ(block_->Claim({7, 1}), 1u);
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kInFlight);
}

TEST_F(PageLoaderTest, Invariant5WhileAMappingChangesAFaultIsGivenBackUnclaimed) {
  std::thread discarder = BeginDiscard(500);
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kAgain);
  EXPECT_TRUE(block_->pending(7)) << "who comes again finds it as it was";
  ReadEvents();
  discarder.join();
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kLoaded);
  EXPECT_TRUE(memory_.HoldsPattern(7));
}

TEST_F(PageLoaderTest, WhileAMappingChangesAnEagerRunWaitsAndThenArrives) {
  std::thread discarder = BeginDiscard(500);
  std::atomic<bool> done{false};
  std::thread eager([&] {
    PageBuffer buffer = *PageBuffer::Create(64 * HostPageBytes());
    EXPECT_EQ(loader_->LoadAhead(*block_, {0, 16}, buffer), 16u);
    done = true;
  });
  while (block_->pending(15)) std::this_thread::yield();
  ReadEvents();
  discarder.join();
  eager.join();
  for (uint64_t page = 0; page < 16; ++page) EXPECT_TRUE(memory_.HoldsPattern(page));
}

// Invariant 4: a page that is there although nobody received it is accepted, and its waiter woken,
// not left asleep.
TEST_F(PageLoaderTest, Invariant4APageThatExistsAlreadyIsReceivedAndItsWaiterWoken) {
  std::thread waiter([&] { EXPECT_TRUE(memory_.HoldsPattern(7)); });
  reader_->Wait(-1);
  ReadEvents();  // its fault is ours to answer now
  std::vector<uint8_t> content(HostPageBytes());
  FillPagePattern(7, absl::MakeSpan(content));
  ASSERT_EQ(uffd_->Copy(memory_.addr(7), content.data(), HostPageBytes()).result,
            InstallResult::kDone);
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kLoaded);
  waiter.join();
  EXPECT_EQ(stats_.redundant, 1u);
}

TEST_F(PageLoaderTest, ARunAcrossTwoMappingsArrives) {
  // The kernel copies within one mapping only: its answer to more is that the range is gone.
  ASSERT_EQ(madvise(memory_.data() + 8 * HostPageBytes(), 8 * HostPageBytes(), MADV_DONTFORK), 0);
  EXPECT_EQ(loader_->LoadAhead(*block_, {0, 32}, buffer_), 32u);
  for (uint64_t page = 0; page < 32; ++page) EXPECT_TRUE(memory_.HoldsPattern(page)) << page;
}

TEST_F(PageLoaderTest, PagesThatAreUnmappedAreOwedToNobody) {
  GuestMemory* const memory = &memory_;
  ASSERT_EQ(munmap(memory->data() + 16 * HostPageBytes(), 4 * HostPageBytes()), 0);
  EXPECT_EQ(loader_->LoadAhead(*block_, {0, 32}, buffer_), 32u);
  EXPECT_TRUE(memory->HoldsPattern(15));
  EXPECT_TRUE(memory->HoldsPattern(20));
  EXPECT_EQ(block_->remaining_pages(), block_->nonzero_pages() - 32);
}

TEST_F(PageLoaderTest, AHugePageOfWhichAPageIsClaimedGoesPageByPage) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  ASSERT_EQ(loader_->LoadFaulted(*block_, 100, buffer_), Outcome::kLoaded);
  EXPECT_EQ(loader_->LoadAheadHuge(*block_, {0, 512}, staging), 100u) << "up to the claimed page";
  EXPECT_EQ(loader_->LoadAheadHuge(*block_, {512, 512}, staging), 512u);
  EXPECT_TRUE(memory_.HoldsPattern(0));
  EXPECT_TRUE(memory_.HoldsPattern(99));
  for (uint64_t page = 600; page < 1023; ++page) ASSERT_TRUE(memory_.HoldsPattern(page)) << page;
  for (uint64_t page = 512; page < 600; ++page) {
    ASSERT_TRUE(memory_.HoldsZeros(page)) << page << " has what the staging memory held before";
  }
  EXPECT_TRUE(memory_.HoldsZeros(1023));
  EXPECT_EQ(stats_.moved, 423u);
}

TEST_F(PageLoaderTest, TheLastPageToArriveCompletesTheBlock) {
  const uint64_t before = progress_.moments();
  for (PageRun run = block_->FindPending(0, kPages); run.count > 0;
       run = block_->FindPending(run.first, kPages)) {
    loader_->LoadAhead(*block_, {run.first, std::min<uint64_t>(64, run.count)}, buffer_);
  }
  EXPECT_EQ(block_->remaining_pages(), 0u);
  EXPECT_EQ(progress_.moments(), before + 1);
}

}  // namespace
}  // namespace ramjet
