// One page's trip, with the events in the test's own hand: no fault thread reads them unless the
// test does.
#include <sys/mman.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/eager_queue.h"
#include "loader/load_progress.h"
#include "loader/page_loader.h"
#include "loader/window_loader.h"
#include "loader/window_trip.h"
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
    block_.emplace(0, snapshot_->blocks()[0],
                   RamBlock::Memory{.host = memory_.addr(), .page_size = HostPageBytes()},
                   snapshot_->TakeNonzero(0));
    ASSERT_TRUE(snapshot_->OpenBulk(DirectReads::kAuto));
    vm_stop_ = *VmStop::Create(nullptr, 0);
    loader_.emplace(Parts(*snapshot_, snapshot_->bulk()));
    trip_.emplace(*loader_);
    ASSERT_TRUE(uffd_->Register(memory_.addr(), memory_.length()).ok());
  }

  PageLoader::Parts Parts(const PageSource& demand, const PageSource& bulk) {
    return {.demand = demand,
            .demand_bulk = bulk,
            .bulk = bulk,
            .uffd = *uffd_,
            .gate = gate_,
            .stats = stats_,
            .progress = progress_,
            .vm_stop = *vm_stop_};
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
  std::unique_ptr<VmStop> vm_stop_;
  std::optional<PageLoader> loader_;
  std::optional<WindowTrip> trip_;
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

// Whoever faults on a claimed page is not served, and the claimant wakes him.
TEST_F(PageLoaderTest, Invariant4AFaultOnAClaimedPageIsWokenByItsClaimant) {
  ASSERT_EQ(block_->Claim({7, 1}), 1u);
  std::thread waiter([&] { EXPECT_TRUE(memory_.HoldsPattern(7)); });
  reader_->Wait(-1);
  ReadEvents();
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kInFlight);
  block_->Unclaim({7, 1});  // the claimant's trip, from its claim on
  loader_->LoadAhead(*block_, {0, 16}, buffer_);
  waiter.join();
}

// The same of a run that arrives as one huge page.
TEST_F(PageLoaderTest, Invariant4AFaultInAHugePageIsWokenByItsClaimant) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  ASSERT_EQ(block_->Claim({7, 1}), 1u);
  std::thread waiter([&] { EXPECT_TRUE(memory_.HoldsPattern(7)); });
  reader_->Wait(-1);
  ReadEvents();
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kInFlight);
  block_->Unclaim({7, 1});  // the claimant's trip, from its claim on
  trip_->LoadAhead(*block_, {0, 512}, staging);
  waiter.join();
  EXPECT_EQ(stats_.moved, 512u);
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
    loader_->LoadAhead(*block_, {0, 16}, buffer);
    done = true;
  });
  while (stats_.postponed == 0) std::this_thread::yield();
  EXPECT_TRUE(block_->pending(15)) << "a fault could have it meanwhile";
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

// The kernel had filled pages with zeros (shared memory, before Linux 6.4), and what was to be
// installed there was taken for present.
TEST_F(PageLoaderTest, APageThatHoldsSomethingElseStopsTheVm) {
  std::vector<uint8_t> zeros(HostPageBytes());
  for (const uint64_t page : {7, 40}) {
    ASSERT_EQ(uffd_->Copy(memory_.addr(page), zeros.data(), HostPageBytes()).result,
              InstallResult::kDone);
  }
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kFailed);
  EXPECT_THAT(vm_stop_->why().message(), ::testing::HasSubstr("page 7: something else"));
  loader_->LoadAhead(*block_, {32, 32}, buffer_);
  EXPECT_THAT(stats_.errors(),
              ::testing::Contains(::testing::HasSubstr("page 40: something else")));
  EXPECT_TRUE(block_->received(39));
  for (const uint64_t page : {7, 40}) EXPECT_FALSE(block_->received(page)) << page;
  EXPECT_EQ(stats_.redundant, 0u);
}

// A fault that was read before its page was poisoned, and is served after: in shared memory the
// kernel replaces poison by zeros.
TEST_F(PageLoaderTest, Invariant6AStaleFaultDoesNotMakeZerosOfPoison) {
  if (!uffd_->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  GuestMemory shared(kPages * HostPageBytes(), BlockMemory::kShared);
  ASSERT_TRUE(uffd_->Register(shared.addr(), shared.length()).ok());
  FaultySource source(*snapshot_);
  source.Fail(7, absl::DataLossError("gone"), 1);
  PageBitmap nonzero(kPages);
  nonzero.SetRun({0, kPages});
  RamBlock block(0, snapshot_->blocks()[0], {.host = shared.addr(), .page_size = HostPageBytes()},
                 std::move(nonzero));
  PageLoader loader(Parts(source, source));
  FailingSince failing;
  failing.Note(Outcome::kDamaged, MonotonicNs() - kMaxDamagedNs);
  EXPECT_EQ(loader.LoadFaulted(block, 7, buffer_, failing), Outcome::kLost);
  EXPECT_EQ(loader.LoadFaulted(block, 7, buffer_), Outcome::kInFlight);
  EXPECT_EQ(loader.GiveUp(block, 7), Outcome::kFailed);
  EXPECT_EQ(loader.LoadFaulted(block, 7, buffer_), Outcome::kReceived);
  EXPECT_TRUE(IsPoisoned(shared.data() + 7 * HostPageBytes()));
  // Or its unmapping would wait for somebody to read the event.
  ASSERT_TRUE(uffd_->Unregister(shared.addr(), shared.length()).ok());
}

TEST_F(PageLoaderTest, ARunAcrossTwoMappingsArrives) {
  // The kernel copies within one mapping only: its answer to more is that the range is gone.
  ASSERT_EQ(madvise(memory_.data() + 8 * HostPageBytes(), 8 * HostPageBytes(), MADV_DONTFORK), 0);
  loader_->LoadAhead(*block_, {0, 32}, buffer_);
  for (uint64_t page = 0; page < 32; ++page) EXPECT_TRUE(memory_.HoldsPattern(page)) << page;
}

TEST_F(PageLoaderTest, PagesThatAreUnmappedAreOwedToNobody) {
  GuestMemory* const memory = &memory_;
  std::thread unmapper(
      [&] { ASSERT_EQ(munmap(memory->data() + 16 * HostPageBytes(), 4 * HostPageBytes()), 0); });
  reader_->Wait(-1);
  ReadEvents();
  unmapper.join();
  loader_->LoadAhead(*block_, {0, 32}, buffer_);
  EXPECT_TRUE(memory->HoldsPattern(15));
  EXPECT_TRUE(memory->HoldsPattern(20));
  EXPECT_EQ(block_->remaining_pages(), block_->nonzero_pages() - 32);
}

TEST_F(PageLoaderTest, AHugePageOfWhichAPageIsClaimedGoesPageByPage) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  ASSERT_EQ(loader_->LoadFaulted(*block_, 100, buffer_), Outcome::kLoaded);
  trip_->LoadAhead(*block_, {0, 512}, staging);
  trip_->LoadAhead(*block_, {512, 512}, staging);
  EXPECT_TRUE(memory_.HoldsPattern(0));
  EXPECT_TRUE(memory_.HoldsPattern(511));
  for (uint64_t page = 600; page < 1023; ++page) ASSERT_TRUE(memory_.HoldsPattern(page)) << page;
  for (uint64_t page = 512; page < 600; ++page) {
    ASSERT_TRUE(memory_.HoldsZeros(page)) << page << " has what the staging memory held before";
  }
  EXPECT_TRUE(memory_.HoldsZeros(1023));
  EXPECT_EQ(stats_.moved, 423u);
}

TEST_F(PageLoaderTest, AFaultInAnUntouchedWindowThatIsAtHandBringsAllOfIt) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  std::thread waiter([&] { EXPECT_TRUE(memory_.HoldsPattern(7)); });
  reader_->Wait(-1);
  ReadEvents();
  EXPECT_EQ(trip_->LoadFaulted(*block_, {0, 512}, 7, staging), WindowOutcome::kLoaded);
  waiter.join();
  EXPECT_TRUE(memory_.HoldsPattern(511));
  EXPECT_EQ(stats_.faulted, 1u);
  EXPECT_EQ(stats_.eager, 511u);
  // One that begins and ends with zeros, of which one is touched.
  EXPECT_EQ(trip_->LoadFaulted(*block_, {512, 512}, 512, staging), WindowOutcome::kLoaded);
  EXPECT_TRUE(memory_.HoldsZeros(512));
  EXPECT_TRUE(memory_.HoldsPattern(600));
  EXPECT_EQ(stats_.faulted, 1u);
  EXPECT_EQ(block_->remaining_pages(), 0u);
  EXPECT_TRUE(loader_->idle());
}

TEST_F(PageLoaderTest, AWindowOfWhichAPageWasTouchedComesByItsPages) {
  HugeStaging staging = *HugeStaging::Create();
  ASSERT_EQ(loader_->LoadFaulted(*block_, 100, buffer_), Outcome::kLoaded);
  EXPECT_EQ(trip_->LoadFaulted(*block_, {0, 512}, 7, staging), WindowOutcome::kNotCached);
  EXPECT_TRUE(block_->pending(7));
}

// The page cache holds one page of it.
class PrefetchedPage : public PageSource {
 public:
  PrefetchedPage(const PageSource& source, uint64_t page) : source_(source), page_(page) {}
  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    return source_.ReadPages(block, offset, buffer);
  }
  uint64_t CachedBytes(size_t, uint64_t offset, uint64_t length) const override {
    const uint64_t at = page_ * HostPageBytes();
    return at >= offset && at < offset + length ? HostPageBytes() : 0;
  }

 private:
  const PageSource& source_;
  const uint64_t page_;
};

// Who has asked for a page of a working set would wait for a whole window otherwise.
TEST_F(PageLoaderTest, APageThatIsAtHandComesAloneEvenWhereWindowsComeFromADisk) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  const PrefetchedPage source(*snapshot_, 7);
  PageLoader loader(Parts(source, source));
  EXPECT_EQ(WindowTrip(loader).LoadFaulted(*block_, {0, 512}, 7, staging, /*even_from_disk=*/true),
            WindowOutcome::kNotCached);
  EXPECT_TRUE(block_->pending(7));
  EXPECT_EQ(WindowTrip(loader).LoadFaulted(*block_, {0, 512}, 8, staging, /*even_from_disk=*/true),
            WindowOutcome::kLoaded);
}

// Whoever serves faults is the one whose reading ends the change: to wait for it would be for ever.
TEST_F(PageLoaderTest, WhileAMappingChangesAFaultedWindowIsGivenBackAtOnce) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  std::thread discarder = BeginDiscard(1000);
  EXPECT_EQ(trip_->LoadFaulted(*block_, {0, 512}, 7, staging), WindowOutcome::kReleased);
  EXPECT_FALSE(block_->AnyClaimed({0, 512}));
  EXPECT_TRUE(loader_->idle());
  ReadEvents();
  discarder.join();
  EXPECT_EQ(trip_->LoadFaulted(*block_, {0, 512}, 7, staging), WindowOutcome::kLoaded);
  for (uint64_t page = 0; page < 512; ++page) ASSERT_TRUE(memory_.HoldsPattern(page)) << page;
}

TEST_F(PageLoaderTest, Invariant4WhoWaitsForAClaimedWindowIsWokenWhenItIsGivenBack) {
  std::optional<ClaimedWindow> window = trip_->Claim(*block_, {0, 512});
  ASSERT_TRUE(window);
  EXPECT_FALSE(loader_->idle());
  std::thread waiter([&] { EXPECT_TRUE(memory_.HoldsPattern(7)); });
  reader_->Wait(-1);
  ReadEvents();
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kInFlight);
  window.reset();
  EXPECT_TRUE(loader_->idle());
  EXPECT_FALSE(block_->AnyClaimed({0, 512}));
  reader_->Wait(-1);  // it faults again
  ReadEvents();
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kLoaded);
  waiter.join();
}

TEST_F(PageLoaderTest, AClaimedWindowArrivesWholeAndWakesWhoWaits) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  std::optional<ClaimedWindow> window = trip_->Claim(*block_, {0, 512});
  ASSERT_TRUE(window);
  std::thread waiter([&] { EXPECT_TRUE(memory_.HoldsPattern(7)); });
  reader_->Wait(-1);
  ReadEvents();
  EXPECT_EQ(loader_->LoadFaulted(*block_, 7, buffer_), Outcome::kInFlight);
  trip_->LoadAhead(*std::move(window), staging);
  waiter.join();
  EXPECT_EQ(stats_.moved, 512u);
  EXPECT_TRUE(block_->AnyReceived({511, 1}));
  EXPECT_TRUE(loader_->idle());
}

TEST_F(PageLoaderTest, Invariant3AClaimedWindowBringsNothingThatWasDiscardedSince) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  std::optional<ClaimedWindow> window = trip_->Claim(*block_, {0, 512});
  ASSERT_TRUE(window);
  loader_->Discard(*block_, memory_.addr(100), memory_.addr(102));
  trip_->LoadAhead(*std::move(window), staging);
  EXPECT_EQ(loader_->LoadFaulted(*block_, 100, buffer_), Outcome::kReceived);
  EXPECT_TRUE(memory_.HoldsZeros(100));
  EXPECT_TRUE(memory_.HoldsPattern(99));
  EXPECT_TRUE(memory_.HoldsPattern(102));
  EXPECT_EQ(stats_.moved, 0u) << "a huge page would have covered it";
  EXPECT_EQ(stats_.removed, 2u);
}

TEST_F(PageLoaderTest, WhoWaitsForAClaimedWindowThatNobodyHasBegunBringsIt) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  HugeStaging staging = *HugeStaging::Create();
  EagerQueue queue(1);
  queue.priority().Put(
      {.block = &*block_, .run = {0, 512}, .claim = trip_->Claim(*block_, {0, 512})});
  EXPECT_FALSE(queue.priority().TryTakeClaim(*block_, {512, 512})) << "nobody has put that there";
  std::optional<ClaimedWindow> claim = queue.priority().TryTakeClaim(*block_, {0, 512});
  ASSERT_TRUE(claim);
  EXPECT_FALSE(queue.priority().TryTakeClaim(*block_, {0, 512}));
  EXPECT_FALSE(queue.priority().Take()) << "it would be loaded twice";

  std::thread waiter([&] { EXPECT_TRUE(memory_.HoldsPattern(7)); });
  reader_->Wait(-1);
  ReadEvents();
  std::atomic<uint64_t> extra = 0;
  EXPECT_EQ(trip_->LoadFaulted(*std::move(claim), staging, {.extra_counter = &extra}),
            WindowOutcome::kLoaded);
  waiter.join();
  EXPECT_EQ(extra, 512u);
  EXPECT_EQ(stats_.faulted, 0u);
  EXPECT_EQ(stats_.moved, 512u);
  EXPECT_TRUE(loader_->idle());
}

TEST_F(PageLoaderTest, WhatIsPutFirstAnewAfterItsClaimWasTakenIsHandedOut) {
  EagerQueue queue(1);
  queue.priority().Put(
      {.block = &*block_, .run = {0, 512}, .claim = trip_->Claim(*block_, {0, 512})});
  ASSERT_TRUE(queue.priority().TryTakeClaim(*block_, {0, 512}));  // and given back at once
  queue.priority().Put(
      {.block = &*block_, .run = {0, 512}, .claim = trip_->Claim(*block_, {0, 512})});
  std::optional<EagerQueue::Window> window = queue.priority().Take();
  ASSERT_TRUE(window);
  EXPECT_TRUE(window->claim);
  EXPECT_FALSE(queue.priority().Take());
}

// While a mapping changes no claim is held: a discard of one of its pages waits for nobody.
TEST_F(PageLoaderTest, WhileAMappingChangesAClaimedWindowIsGivenBackAndComesByItsPages) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  std::optional<ClaimedWindow> window = trip_->Claim(*block_, {0, 512});
  ASSERT_TRUE(window);
  std::thread discarder = BeginDiscard(1000);
  std::thread eager([&] {
    HugeStaging staging = *HugeStaging::Create();
    trip_->LoadAhead(*std::move(window), staging);
  });
  while (stats_.postponed == 0) std::this_thread::yield();
  EXPECT_TRUE(block_->pending(511)) << "a fault could have it meanwhile";
  ReadEvents();
  discarder.join();
  eager.join();
  for (uint64_t page = 0; page < 512; ++page) ASSERT_TRUE(memory_.HoldsPattern(page)) << page;
  EXPECT_EQ(stats_.moved, 0u);
}

TEST_F(PageLoaderTest, AWindowIsClaimedWholeOrNotAtAll) {
  ASSERT_EQ(block_->Claim({100, 1}), 1u);
  EXPECT_FALSE(trip_->Claim(*block_, {0, 512}));
  EXPECT_TRUE(block_->pending(99));
  EXPECT_TRUE(loader_->idle());
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
