// Working sets on a real userfaultfd: recorded in one load, loaded first in another.
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/snapshot_loader.h"
#include "loader/working_set.h"
#include "mappedram/file.h"
#include "mappedram/snapshot_digest.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Two runs of content with zeros around them.
std::vector<PageRun> Content() { return {{1, 1500}, {1600, 2400}}; }
constexpr uint64_t kPages = 4096;

std::string TempPath(const std::string& name) { return ::testing::TempDir() + "/" + name; }

// The working set of OneBlockLoad(kPages, Content(), ...) that has these pages.
std::string WriteSet(const std::string& name, const std::vector<uint64_t>& pages) {
  const std::unique_ptr<Snapshot> snapshot = OneBlockSnapshot(kPages, Content());
  WorkingSet set{.snapshot_digest = *DigestSnapshot(*snapshot),
                 .blocks = {{"ram", HostPageBytes(), kPages}},
                 .runs = {}};
  for (const uint64_t page : pages) set.Append(0, {page, 1});
  std::ofstream(TempPath(name)) << EncodeWorkingSet(set);
  return TempPath(name);
}

std::vector<uint64_t> PagesOf(const WorkingSet& set, size_t block = 0) {
  std::vector<uint64_t> pages;
  for (const WorkingSet::Run& run : set.runs) {
    for (uint64_t i = 0; run.block == block && i < run.pages.count; ++i) {
      pages.push_back(run.pages.first + i);
    }
  }
  return pages;
}

// By asking, for nobody is told; what would never come ends in the test's own timeout.
void AwaitWorkingSet(const SnapshotLoader& loader, uint64_t pages) {
  while (loader.stats().working_set < pages) std::this_thread::yield();
}

void ExpectAllContent(const GuestMemory& memory) {
  for (uint64_t page = 0; page < kPages; ++page) {
    const bool content = (page >= 1 && page < 1501) || (page >= 1600 && page < 4000);
    ASSERT_TRUE(content ? memory.HoldsPattern(page) : memory.HoldsZeros(page)) << "page " << page;
  }
}

class WorkingSetLoad : public ::testing::TestWithParam<MemoryKind> {
 protected:
  void SetUp() override { SKIP_WITHOUT_USERFAULTFD(); }
};

INSTANTIATE_TEST_SUITE_P(Memory, WorkingSetLoad,
                         ::testing::Values(MemoryKind::kPrivate, MemoryKind::kShared,
                                           MemoryKind::kAliased),
                         [](const auto& param) {
                           return param.param == MemoryKind::kPrivate  ? "Private"
                                  : param.param == MemoryKind::kShared ? "Shared"
                                                                       : "Aliased";
                         });

TEST_P(WorkingSetLoad, TheRecordIsWhatTheGuestTouchesInItsOrder) {
  OneBlockLoad load(kPages, Content(), GetParam(), {.record = true});
  std::mt19937 random(3);
  std::vector<uint64_t> touched;
  std::vector<bool> seen(kPages);
  std::thread guest([&] {
    for (int i = 0; i < 1500; ++i) {
      const uint64_t page = random() % 1600;  // zeros between 1501 and 1600, and page 0
      load.memory.data()[page * HostPageBytes()] ^= 1;
      if (!seen[page] && page > 0 && page < 1501) touched.push_back(page);
      seen[page] = true;
    }
  });
  guest.join();
  ASSERT_TRUE(load.loader->SaveWorkingSet(TempPath("order.ws")).ok());
  const absl::StatusOr<WorkingSet> set = ReadWorkingSet(TempPath("order.ws"));
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(PagesOf(*set), touched);
  EXPECT_EQ(set->blocks, (std::vector<WorkingSet::Block>{{"ram", HostPageBytes(), kPages}}));
  EXPECT_EQ(set->snapshot_digest, *DigestSnapshot(load.loader->snapshot()));
}

// With a signal pending, or several vCPUs on one page, the kernel tells of it more than once.
TEST_P(WorkingSetLoad, APageThatManyTouchAtOnceIsRecordedOnce) {
  OneBlockLoad load(kPages, Content(), GetParam(), {.record = true});
  load.source->Fail(7, absl::UnavailableError("busy"), 3);
  std::vector<std::thread> guests;
  for (int i = 0; i < 4; ++i) {
    guests.emplace_back([&] { EXPECT_TRUE(load.memory.HoldsPattern(7)); });
  }
  for (std::thread& guest : guests) guest.join();
  EXPECT_TRUE(load.memory.HoldsPattern(3));
  ASSERT_TRUE(load.loader->SaveWorkingSet(TempPath("once.ws")).ok());
  EXPECT_THAT(PagesOf(*ReadWorkingSet(TempPath("once.ws"))), ElementsAre(7, 3));
}

TEST_P(WorkingSetLoad, TheRecordEndsWhereLoadingAheadBegins) {
  OneBlockLoad load(kPages, Content(), GetParam(), {.eager_threads = 1, .record = true});
  EXPECT_TRUE(load.memory.HoldsPattern(70));
  load.source->Hold(5);
  ASSERT_TRUE(load.loader->StartEager().ok());
  load.source->AwaitHeld(5);
  EXPECT_TRUE(load.memory.HoldsPattern(3999));
  load.source->Release(5);
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_EQ(load.loader->stats().faulted, 2u);
  ASSERT_TRUE(load.loader->Detach().ok());
  ASSERT_TRUE(load.loader->SaveWorkingSet(TempPath("ended.ws")).ok());
  EXPECT_THAT(PagesOf(*ReadWorkingSet(TempPath("ended.ws"))), ElementsAre(70));
}

TEST_P(WorkingSetLoad, WithoutARecordNothingIsSaved) {
  OneBlockLoad load(kPages, Content(), GetParam());
  const absl::Status saved = load.loader->SaveWorkingSet(TempPath("none.ws"));
  EXPECT_EQ(saved.code(), absl::StatusCode::kFailedPrecondition) << saved;
  EXPECT_NE(access(TempPath("none.ws").c_str(), F_OK), 0);
}

TEST_P(WorkingSetLoad, WhatIsLoadedFirstCostsNoFault) {
  // Far apart, in runs, across the boundary of content, backwards.
  std::vector<uint64_t> pages = {3999, 1500, 1, 2, 3, 700, 690, 680, 1700};
  for (uint64_t page = 2000; page < 2400; ++page) pages.push_back(page);
  OneBlockLoad load(kPages, Content(), GetParam(), {.working_set = WriteSet("first.ws", pages)});
  AwaitWorkingSet(*load.loader, pages.size());
  for (const uint64_t page : pages) EXPECT_TRUE(load.memory.HoldsPattern(page)) << page;
  EXPECT_EQ(load.loader->stats().faults, 0u);
  EXPECT_TRUE(load.memory.HoldsPattern(1000));
  EXPECT_EQ(load.loader->stats().faulted, 1u) << "what is not in it comes on demand";
  EXPECT_EQ(load.loader->stats().working_set, pages.size());
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_EQ(load.loader->stats().eager + load.loader->stats().faulted, 3900u);
  EXPECT_EQ(load.loader->stats().working_set, pages.size());
  ASSERT_TRUE(load.loader->Detach().ok());
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
  EXPECT_THAT(load.loader->stats().errors(), IsEmpty());
  ExpectAllContent(load.memory);
}

TEST_P(WorkingSetLoad, WhatLiesBetweenPagesThatAreCloseComesWithThem) {
  OneBlockLoad load(kPages, Content(), GetParam(),
                    {.working_set = WriteSet("gaps.ws", {10, 13, 100, 200})});
  AwaitWorkingSet(*load.loader, 6);
  EXPECT_TRUE(load.memory.HoldsPattern(11));
  EXPECT_TRUE(load.memory.HoldsPattern(12));
  EXPECT_EQ(load.loader->stats().faults, 0u);
  EXPECT_TRUE(load.memory.HoldsPattern(9));
  EXPECT_TRUE(load.memory.HoldsPattern(14));
  EXPECT_EQ(load.loader->stats().faulted, 2u) << "these do not lie between";
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_EQ(load.loader->stats().working_set, 6u);
}

// Recorded by one guest, of use to the next.
TEST_P(WorkingSetLoad, ARecordedGuestFindsItsPagesTheNextTime) {
  const std::string path = TempPath("guest.ws");
  const auto guest = [](const GuestMemory& memory) {
    for (uint64_t i = 0; i < 300; ++i) EXPECT_TRUE(memory.HoldsPattern(1 + i * 709 % 1500));
  };
  {
    OneBlockLoad load(kPages, Content(), GetParam(), {.record = true});
    guest(load.memory);
    EXPECT_EQ(load.loader->stats().faulted, 300u);
    ASSERT_TRUE(load.loader->SaveWorkingSet(path).ok());
  }
  OneBlockLoad load(kPages, Content(), GetParam(), {.working_set = path});
  AwaitWorkingSet(*load.loader, 300);
  guest(load.memory);
  EXPECT_EQ(load.loader->stats().faults, 0u);
}

// Notes the order of reads.
class ListeningSource : public FaultySource {
 public:
  using FaultySource::FaultySource;
  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    {
      absl::MutexLock lock(&mu_);
      reads_.push_back({offset / HostPageBytes(), buffer.size() / HostPageBytes()});
    }
    return FaultySource::ReadPages(block, offset, buffer);
  }
  std::vector<PageRun> reads() const {
    absl::MutexLock lock(&mu_);
    return reads_;
  }

 private:
  mutable absl::Mutex mu_;
  mutable std::vector<PageRun> reads_ ABSL_GUARDED_BY(mu_);
};

// A load with a source that is told what to hold and what to fail before anybody reads.
struct PreparedLoad {
  PreparedLoad(MemoryKind kind, const std::string& working_set,
               const std::function<void(FaultySource&)>& prepare)
      : memory(kPages * HostPageBytes(), kind) {
    std::unique_ptr<Snapshot> snapshot = OneBlockSnapshot(kPages, Content());
    source = std::make_unique<ListeningSource>(*snapshot);
    prepare(*source);
    auto created = SnapshotLoader::Create(
        std::move(snapshot), {.whole_windows = false, .working_set = working_set}, source.get());
    EXPECT_TRUE(created.ok()) << created.status();
    loader = *std::move(created);
    const absl::Status attached = loader->Attach(0, memory.mapping());
    EXPECT_TRUE(attached.ok()) << attached;
  }
  ~PreparedLoad() { EXPECT_EQ(loader->stats().rescued, 0u) << "a fault was forgotten"; }
  GuestMemory memory;
  std::unique_ptr<ListeningSource> source;
  std::unique_ptr<SnapshotLoader> loader;
};

// Everybody keeps out of its way but a guest, which nothing holds up.
TEST_P(WorkingSetLoad, EagerThreadsWaitForItAndFaultsDoNot) {
  const std::string set = WriteSet("gate.ws", {3900, 3600, 3300, 3000, 2700, 2400});
  PreparedLoad load(GetParam(), set, [](FaultySource& source) { source.Hold(3000); });
  ASSERT_TRUE(load.loader->StartEager().ok());
  load.source->AwaitHeld(3000);  // the lowest of the first batch
  for (uint64_t page = 1; page <= 300; ++page) EXPECT_TRUE(load.memory.HoldsPattern(page));
  EXPECT_TRUE(load.memory.HoldsPattern(3900));  // of the set, and not there yet
  EXPECT_THAT(load.source->reads(), Each(Field(&PageRun::count, 1)))
      << "an eager thread reads more at once";
  EXPECT_EQ(load.loader->stats().faulted, 301u);
  EXPECT_EQ(load.loader->stats().eager, 0u);
  load.source->Release(3000);
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  EXPECT_EQ(load.loader->stats().working_set, 5u);
  ExpectAllContent(load.memory);
}

TEST_P(WorkingSetLoad, WhatIsNoneOfOursIsIgnoredAndSaysWhy) {
  const std::string good = WriteSet("good.ws", {5, 50});
  std::ifstream file(good);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  bytes.back() ^= 1;
  std::ofstream(TempPath("damaged.ws")) << bytes;
  absl::StatusOr<WorkingSet> set = ReadWorkingSet(good);
  set->snapshot_digest ^= 1;
  std::ofstream(TempPath("foreign.ws")) << EncodeWorkingSet(*set);
  set->snapshot_digest ^= 1;
  set->blocks[0].pages *= 2;
  std::ofstream(TempPath("forged.ws")) << EncodeWorkingSet(*set);

  const std::pair<std::string, const char*> cases[] = {
      {"damaged.ws", "checksum"},
      {"foreign.ws", "of another snapshot"},
      {"forged.ws", "no such block \"ram\""},
      {"absent.ws", "No such file"},
  };
  for (const auto& [name, reason] : cases) {
    OneBlockLoad load(kPages, Content(), GetParam(), {.working_set = TempPath(name)});
    EXPECT_TRUE(load.memory.HoldsPattern(5));
    ASSERT_TRUE(load.loader->StartEager().ok());
    ASSERT_TRUE(load.loader->Wait().ok());
    EXPECT_EQ(load.loader->stats().working_set, 0u);
    EXPECT_THAT(load.loader->stats().errors(),
                ElementsAre(AllOf(HasSubstr("the working set is ignored"), HasSubstr(name),
                                  HasSubstr(reason))));
    ExpectAllContent(load.memory);
  }
}

// The thread has read the pages' old content when the guest gives them up.
TEST_P(WorkingSetLoad, Invariant3DiscardedWhileItIsReadAPageIsZeroForEver) {
  const std::string set = WriteSet("discard.ws", {4, 5, 6, 7, 900});
  PreparedLoad load(GetParam(), set, [](FaultySource& source) { source.Hold(5); });
  ASSERT_EQ(load.source->AwaitHeld(5), (PageRun{4, 4}));
  if (IsShared(GetParam())) {
    load.loader->Discard(load.memory.addr(5), load.memory.addr(7));
  } else {
    load.memory.MadviseDontNeed(5, 2);
  }
  load.source->Release(5);
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_TRUE(load.memory.HoldsPattern(4));
  EXPECT_TRUE(load.memory.HoldsZeros(5));
  EXPECT_TRUE(load.memory.HoldsZeros(6));
  EXPECT_TRUE(load.memory.HoldsPattern(7));
  EXPECT_EQ(load.loader->stats().removed, 2u);
  EXPECT_EQ(load.loader->stats().working_set, 3u);
}

TEST_P(WorkingSetLoad, UnreadablePagesOfItArePoisonedAndTheOthersArrive) {
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  const std::string set = WriteSet("unreadable.ws", {1649, 1650, 1651, 1800});
  PreparedLoad load(GetParam(), set, [](FaultySource& source) {
    source.Fail(1650, absl::DataLossError("page 1650 is gone"), 1 << 30);
  });
  AwaitWorkingSet(*load.loader, 3);
  EXPECT_TRUE(load.memory.HoldsPattern(1651));
  EXPECT_EQ(load.loader->stats().faulted, 0u);
  EXPECT_THAT(load.loader->stats().errors(), IsEmpty()) << "nobody has touched it";
  if (IsShared(GetParam())) {
    EXPECT_TRUE(absl::IsAborted(load.loader->Finish()));
    load.loader->Abandon();
    return;
  }
  EXPECT_TRUE(IsPoisoned(load.memory.data() + 1650 * HostPageBytes()));
  EXPECT_THAT(load.loader->stats().errors(), ElementsAre("page 1650 is gone"));
  ASSERT_TRUE(load.loader->Finish().ok());
  EXPECT_EQ(load.loader->stats().poisoned, 1u);
}

// Ended in the middle of a read, which is its own affair.
TEST_P(WorkingSetLoad, AbandonedWhileItReadsNothingIsLeftOfIt) {
  const std::string set = WriteSet("abandoned.ws", {4, 400, 900});
  PreparedLoad load(GetParam(), set, [](FaultySource& source) { source.Hold(4); });
  load.source->AwaitHeld(4);
  std::thread vmm([&] { load.loader->Abandon(); });
  EXPECT_TRUE(absl::IsCancelled(load.loader->Wait()));
  load.source->Release(4);
  vmm.join();
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
}

// What is in the page cache and may be huge comes by the window, once all is to be loaded. The
// first batch of pages is under way by then, and holds page 5.
class WorkingSetWindows : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SKIP_WITHOUT_HUGE_WINDOWS();
    set_ = WriteSet("windows.ws", {4, 5, 6, 7, 600, 2100});
  }

  // Two threads load, the set's and the eager one; reads of `held` wait. Of one page only, for
  // while one thread waits the other may have to wait for its turn.
  void Start(bool cached, uint64_t held) {
    snapshot_ = OneBlockSnapshot(kPages, Content());
    source_ = std::make_unique<FaultySource>(*snapshot_);
    source_->SetCached(cached);
    source_->Hold(5);
    source_->Hold(held);
    auto created =
        SnapshotLoader::Create(snapshot_, {.eager_threads = 1, .working_set = set_}, source_.get());
    ASSERT_TRUE(created.ok()) << created.status();
    loader_ = *std::move(created);
    ASSERT_TRUE(loader_->Attach(0, memory_.mapping()).ok());
    source_->AwaitHeld(5);
    ASSERT_TRUE(loader_->StartEager().ok());
    source_->Release(5);
  }
  void ExpectCompletion() {
    ASSERT_TRUE(loader_->Wait().ok());
    ASSERT_TRUE(loader_->Detach().ok());
    EXPECT_EQ(loader_->stats().rescued, 0u) << "a fault was forgotten";
  }

  std::string set_;
  GuestMemory memory_{kPages * HostPageBytes(), MemoryKind::kPrivate};
  std::shared_ptr<Snapshot> snapshot_;
  std::unique_ptr<FaultySource> source_;
  std::unique_ptr<SnapshotLoader> loader_;
};

TEST_F(WorkingSetWindows, AGuestWaitsForThemWithoutSpoilingThem) {
  Start(/*cached=*/true, 2100);
  source_->AwaitHeld(2100);
  std::thread guest([&] { EXPECT_TRUE(memory_.HoldsPattern(2200)); });  // of the same window
  while (loader_->stats().in_flight == 0) std::this_thread::yield();
  source_->Release(2100);
  guest.join();
  EXPECT_GE(loader_->stats().moved, 512u);
  EXPECT_GE(loader_->stats().working_set, 512u + 4u);
  ExpectCompletion();
  ExpectAllContent(memory_);
  EXPECT_EQ(loader_->stats().faulted, 0u);
}

TEST_F(WorkingSetWindows, Invariant3DiscardedWhileItIsClaimedAPageIsZeroForEver) {
  Start(/*cached=*/true, 600);
  source_->AwaitHeld(600);
  memory_.MadviseDontNeed(700, 2);
  source_->Release(600);
  ExpectCompletion();
  for (uint64_t page = 512; page < 1024; ++page) {
    ASSERT_TRUE(page == 700 || page == 701 ? memory_.HoldsZeros(page) : memory_.HoldsPattern(page))
        << "page " << page;
  }
  EXPECT_EQ(loader_->stats().removed, 2u);
}

TEST_F(WorkingSetWindows, WhatIsNotInThePageCacheComesByItsPages) {
  Start(/*cached=*/false, 600);
  EXPECT_EQ(source_->AwaitHeld(600), (PageRun{600, 1}));
  EXPECT_TRUE(memory_.HoldsPattern(601)) << "nobody waits for more than his page";
  source_->Release(600);
  ExpectCompletion();
  ExpectAllContent(memory_);
  EXPECT_EQ(loader_->stats().working_set, 6u);
}

TEST_F(WorkingSetWindows, WhatTheGuestWillTouchAllOverComesWholeFromADiskToo) {
  std::vector<uint64_t> pages = {4, 5, 6, 7};
  for (uint64_t page = 512; page < 1024; page += 8) pages.push_back(page);
  set_ = WriteSet("dense.ws", pages);
  Start(/*cached=*/false, 600);
  EXPECT_GE(source_->AwaitHeld(600).count, 64u) << "its pages come by themselves";
  std::thread guest([&] { EXPECT_TRUE(memory_.HoldsPattern(1023)); });  // the last
  while (loader_->stats().in_flight == 0) std::this_thread::yield();
  source_->Release(600);
  guest.join();
  EXPECT_GE(loader_->stats().moved, 512u);
  EXPECT_EQ(loader_->stats().faulted, 0u);
  ExpectCompletion();
  ExpectAllContent(memory_);
}

// On demand means that nobody else's pages come.
TEST_F(WorkingSetWindows, OnDemandOnlyThePagesOfTheSetCome) {
  snapshot_ = OneBlockSnapshot(kPages, Content());
  source_ = std::make_unique<FaultySource>(*snapshot_);
  source_->SetCached(true);
  loader_ = *SnapshotLoader::Create(snapshot_, {.working_set = set_}, source_.get());
  ASSERT_TRUE(loader_->Attach(0, memory_.mapping()).ok());
  AwaitWorkingSet(*loader_, 6);
  while (::testing::Value(OurThreads(), Contains("ramjet-ws"))) std::this_thread::yield();
  EXPECT_EQ(loader_->stats().eager, 6u);
  EXPECT_EQ(loader_->stats().working_set, 6u);
  ASSERT_TRUE(loader_->StartEager().ok());
  ExpectCompletion();
}

// They wait for their windows, but not for ever: a guest may never be said to run.
TEST_F(WorkingSetWindows, OnDemandMorePagesComeThanThoseOfTheHeadStart) {
  std::vector<uint64_t> pages;  // four in a batch, for they lie apart
  for (uint64_t i = 0; i < 200; ++i) pages.push_back(1 + i * 617 % 1500);
  set_ = WriteSet("many.ws", pages);
  snapshot_ = OneBlockSnapshot(kPages, Content());
  source_ = std::make_unique<FaultySource>(*snapshot_);
  source_->SetCached(true);
  loader_ = *SnapshotLoader::Create(snapshot_, {.working_set = set_}, source_.get());
  ASSERT_TRUE(loader_->Attach(0, memory_.mapping()).ok());
  AwaitWorkingSet(*loader_, pages.size());
  ASSERT_TRUE(loader_->StartEager().ok());
  ExpectCompletion();
  ExpectAllContent(memory_);
}

TEST_F(WorkingSetWindows, AnUnreadablePageSpoilsOnlyItself) {
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  Start(/*cached=*/true, 600);
  source_->Fail(650, absl::DataLossError("page 650 is gone"), 1 << 30);
  source_->Release(600);
  ASSERT_TRUE(loader_->Finish().ok());
  EXPECT_TRUE(IsPoisoned(memory_.data() + 650 * HostPageBytes()));
  EXPECT_TRUE(memory_.HoldsPattern(649));
  EXPECT_TRUE(memory_.HoldsPattern(651));
  EXPECT_EQ(loader_->stats().poisoned, 1u);
}

TEST_F(WorkingSetWindows, AbandonedWhileTheyAreClaimedNothingIsLeftOfThem) {
  Start(/*cached=*/true, 600);
  source_->AwaitHeld(600);
  std::thread vmm([&] { loader_->Abandon(); });
  EXPECT_TRUE(absl::IsCancelled(loader_->Wait()));
  source_->Release(600);
  vmm.join();
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
}

// A file of two blocks.
class TwoBlocks : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlockPages = 1024;

  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SnapshotContent content;
    content.blocks = {Block("low"), Block("high")};
    ASSERT_TRUE(WriteSnapshot(content, path_).ok());
    WorkingSet set{
        .snapshot_digest = *DigestSnapshot(*Open()),
        .blocks = {{"high", HostPageBytes(), kBlockPages}, {"low", HostPageBytes(), kBlockPages}},
        .runs = {}};
    for (uint64_t page = 0; page < kBlockPages; page += 16) {
      set.Append(0, {page, 1});
      set.Append(1, {page, 1});
    }
    std::ofstream(set_path_) << EncodeWorkingSet(set);
    auto loader = SnapshotLoader::Create(Open(), {.working_set = set_path_});
    ASSERT_TRUE(loader.ok()) << loader.status();
    loader_ = *std::move(loader);
  }

  static BlockContent Block(const std::string& idstr) {
    return {.idstr = idstr,
            .used_length = kBlockPages * HostPageBytes(),
            .page_size = HostPageBytes(),
            .nonzero = {{0, kBlockPages}}};
  }
  std::shared_ptr<Snapshot> Open() const { return *Snapshot::Open(*File::Open(path_)); }

  static constexpr uint64_t kSetPages = kBlockPages / 16;  // of each block
  const std::string path_ = TempPath("two.mr");
  const std::string set_path_ = TempPath("two.ws");
  // Shared, for private memory would come by the window.
  GuestMemory low_{kBlockPages * HostPageBytes(), MemoryKind::kShared};
  GuestMemory high_{kBlockPages * HostPageBytes(), MemoryKind::kShared};
  std::unique_ptr<SnapshotLoader> loader_;
};

TEST_F(TwoBlocks, ThatIsAttachedLaterHasItsPagesLoadedThen) {
  ASSERT_TRUE(loader_->Attach(1, high_.mapping()).ok());
  AwaitWorkingSet(*loader_, kSetPages);
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  EXPECT_EQ(loader_->stats().eager, kBlockPages);
  ASSERT_TRUE(loader_->Attach(0, low_.mapping()).ok());
  ASSERT_TRUE(loader_->Wait().ok());
  EXPECT_EQ(loader_->stats().working_set, 2 * kSetPages);
  EXPECT_EQ(loader_->stats().eager, 2 * kBlockPages);
  ASSERT_TRUE(loader_->Detach().ok());
  for (uint64_t page = 0; page < kBlockPages; ++page) {
    ASSERT_TRUE(low_.HoldsPattern(page) && high_.HoldsPattern(page)) << "page " << page;
  }
}

TEST_F(TwoBlocks, ThatIsNeverAttachedHoldsNobodyUp) {
  ASSERT_TRUE(loader_->Attach(0, low_.mapping()).ok());
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  EXPECT_EQ(loader_->stats().working_set, kSetPages);
  ASSERT_TRUE(loader_->Detach().ok());
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
}

TEST_F(TwoBlocks, WhatIsLoadedEndsTheThread) {
  ASSERT_TRUE(loader_->Attach(0, low_.mapping()).ok());
  ASSERT_TRUE(loader_->Attach(1, high_.mapping()).ok());
  AwaitWorkingSet(*loader_, 2 * kSetPages);
  while (::testing::Value(OurThreads(), Contains("ramjet-ws"))) std::this_thread::yield();
  // The other goes on, or begins just now.
  while (!::testing::Value(OurThreads(), Contains("ramjet-fault"))) std::this_thread::yield();
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
}

// Guests touch, write and discard while the set, and then all else, is loaded; attached as they go.
TEST_P(WorkingSetLoad, GuestsMayDoAsTheyLikeMeanwhile) {
  std::vector<uint64_t> pages;
  for (uint64_t i = 0; i < 2400; ++i) pages.push_back(1600 + i * 7 % 2400);
  OneBlockLoad load(kPages, Content(), GetParam(), {.working_set = WriteSet("race.ws", pages)});
  std::atomic<int> wrong{0};
  std::vector<std::thread> guests;
  for (unsigned guest = 0; guest < 3; ++guest) {
    guests.emplace_back([&, guest] {
      for (uint64_t page = 1600 + guest; page < 4000; page += 3) {
        uint8_t* const byte = load.memory.data() + page * HostPageBytes();
        switch (page / 3 % 3) {
          case 0:
            wrong += !load.memory.HoldsPattern(page);
            break;
          case 1:
            *byte = 0xa5;
            wrong += *byte != 0xa5;
            break;
          default:
            if (IsShared(GetParam())) {
              load.loader->Discard(load.memory.addr(page), load.memory.addr(page + 1));
            } else {
              load.memory.MadviseDontNeed(page, 1);
              wrong += !load.memory.HoldsZeros(page);
            }
        }
      }
    });
  }
  ASSERT_TRUE(load.loader->StartEager().ok());
  for (std::thread& guest : guests) guest.join();
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  EXPECT_EQ(wrong, 0);
  for (uint64_t page = 1600; page < 4000; ++page) {
    const uint8_t byte = load.memory.data()[page * HostPageBytes()];
    if (page / 3 % 3 == 1) {
      EXPECT_EQ(byte, 0xa5);
    }
    if (page / 3 % 3 == 0) {
      EXPECT_TRUE(load.memory.HoldsPattern(page));
    }
  }
}

}  // namespace
}  // namespace ramjet
