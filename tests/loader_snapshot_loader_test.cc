// Whole trips through the C++ face, on a real userfaultfd. Numbers in names are of docs/design.md's
// invariants.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/snapshot_loader.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class SnapshotLoaderTest : public ::testing::TestWithParam<MemoryKind> {
 protected:
  void SetUp() override { SKIP_WITHOUT_USERFAULTFD(); }
};

INSTANTIATE_TEST_SUITE_P(Memory, SnapshotLoaderTest,
                         ::testing::Values(MemoryKind::kPrivate, MemoryKind::kShared,
                                           MemoryKind::kAliased),
                         [](const auto& param) {
                           return param.param == MemoryKind::kPrivate  ? "Private"
                                  : param.param == MemoryKind::kShared ? "Shared"
                                                                       : "Aliased";
                         });

// Runs of every kind: single pages, across words, a whole huge page, the last page.
std::vector<PageRun> MixedRuns() {
  return {{1, 1}, {62, 5}, {200, 100}, {512, 512}, {1100, 700}, {2047, 1}};
}
constexpr uint64_t kMixedPages = 2048;

bool In(const std::vector<PageRun>& runs, uint64_t page) {
  for (const PageRun& run : runs) {
    if (page >= run.first && page < run.end()) return true;
  }
  return false;
}

// Of the mapping that begins at `start`.
uint64_t HugePagesAt(uintptr_t start) {
  std::ifstream smaps("/proc/self/smaps");
  const std::string head = absl::StrCat(absl::Hex(start), "-");
  bool found = false;
  for (std::string line; std::getline(smaps, line);) {
    found = found || absl::StartsWith(line, head);
    unsigned long kib;
    if (found && std::sscanf(line.c_str(), "AnonHugePages: %lu", &kib) == 1) {
      return (kib << 10) / kHugeBytes;
    }
  }
  return 0;
}

void ExpectSnapshotContent(const GuestMemory& memory, const std::vector<PageRun>& nonzero) {
  for (uint64_t page = 0; page < memory.length() / HostPageBytes(); ++page) {
    if (In(nonzero, page)) {
      ASSERT_TRUE(memory.HoldsPattern(page)) << "page " << page;
    } else {
      ASSERT_TRUE(memory.HoldsZeros(page)) << "page " << page;
    }
  }
}

TEST_P(SnapshotLoaderTest, Invariant1OnDemandEveryByteIsTheSnapshots) {
  OneBlockLoad load(kMixedPages, MixedRuns(), GetParam());
  ExpectSnapshotContent(load.memory, MixedRuns());
  EXPECT_TRUE(load.loader->complete());
  EXPECT_EQ(load.loader->stats().faulted, 1319u);
  EXPECT_EQ(load.loader->stats().eager, 0u);
  EXPECT_EQ(load.loader->stats().redundant, 0u);
}

TEST_P(SnapshotLoaderTest, Invariant1LoadedAheadEveryByteIsTheSnapshots) {
  OneBlockLoad load(kMixedPages, MixedRuns(), GetParam());
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  ExpectSnapshotContent(load.memory, MixedRuns());
  EXPECT_EQ(load.loader->stats().eager, 1319u);
}

TEST_P(SnapshotLoaderTest, Invariant1ManyGuestThreadsAndEagerThreadsSeeTheSnapshot) {
  OneBlockLoad load(kMixedPages, MixedRuns(), GetParam(), {.eager_threads = 3});
  ASSERT_TRUE(load.loader->StartEager().ok());
  std::vector<std::thread> guests;
  std::atomic<int> wrong{0};
  for (unsigned guest = 0; guest < 4; ++guest) {
    guests.emplace_back([&, guest] {
      std::mt19937 random(guest);
      for (int i = 0; i < 3000; ++i) {
        const uint64_t page = random() % kMixedPages;
        wrong += !(In(MixedRuns(), page) ? load.memory.HoldsPattern(page)
                                         : load.memory.HoldsZeros(page));
      }
    });
  }
  for (std::thread& guest : guests) guest.join();
  EXPECT_EQ(wrong, 0);
  ASSERT_TRUE(load.loader->Wait().ok());
  ExpectSnapshotContent(load.memory, MixedRuns());
  const LoadStats& stats = load.loader->stats();
  EXPECT_EQ(stats.eager + stats.faulted, 1319u) << "each page is installed once";
  EXPECT_EQ(stats.redundant, 0u);
}

TEST_P(SnapshotLoaderTest, Invariant2WhatTheGuestWritesStays) {
  OneBlockLoad load(1024, {{0, 1024}}, GetParam());
  for (uint64_t page = 0; page < 1024; page += 3) load.memory.data()[page * HostPageBytes()] = 0xee;
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  for (uint64_t page = 0; page < 1024; page += 3) {
    ASSERT_EQ(load.memory.data()[page * HostPageBytes()], 0xee) << "page " << page;
  }
}

// The content of the run is in hand when the guest writes to some of its pages.
TEST_P(SnapshotLoaderTest, Invariant2WrittenWhileItsRunIsReadAPageStaysAsWritten) {
  OneBlockLoad load(256, {{0, 256}}, GetParam());
  load.source->Hold(5);
  ASSERT_TRUE(load.loader->StartEager().ok());
  const PageRun run = load.source->AwaitHeld(5);
  ASSERT_TRUE(run.first <= 5 && run.end() > 9);
  const auto written = [](uint64_t page) { return page == 6 || page == 8 || page == 9; };
  for (uint64_t page = 0; page < 256; ++page) {
    if (written(page)) load.memory.data()[page * HostPageBytes()] = 0xee;
  }
  load.source->Release(5);
  ASSERT_TRUE(load.loader->Wait().ok());
  for (uint64_t page = 0; page < 256; ++page) {
    if (written(page)) {
      EXPECT_EQ(load.memory.data()[page * HostPageBytes()], 0xee) << "page " << page;
    } else {
      ASSERT_TRUE(load.memory.HoldsPattern(page)) << "page " << page;
    }
  }
  EXPECT_EQ(load.loader->stats().redundant, 0u);
}

TEST_P(SnapshotLoaderTest, WhatWasInMemoryBeforeIsGone) {
  GuestMemory memory(64 * HostPageBytes(), GetParam());
  std::fill_n(memory.data(), memory.length(), 0x55);
  auto loader = SnapshotLoader::Create(OneBlockSnapshot(64, {{3, 2}}), {});
  ASSERT_TRUE(loader.ok()) << loader.status();
  ASSERT_TRUE((*loader)->Attach(0, memory.mapping()).ok());
  ExpectSnapshotContent(memory, {{3, 2}});
}

// On demand, in runs, and in a huge page that arrives whole.
TEST_P(SnapshotLoaderTest, Invariant3WhereABitIsClearStaleDataOfTheFileIsNotSeen) {
  const std::vector<PageRun> nonzero = {{1, 1}, {3, 1}, {100, 300}, {512, 200}, {714, 300}};
  OneBlockLoad load(1024, nonzero, GetParam());
  EXPECT_TRUE(load.memory.HoldsZeros(2));
  EXPECT_TRUE(load.memory.HoldsZeros(99));
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  ExpectSnapshotContent(load.memory, nonzero);
}

TEST_P(SnapshotLoaderTest, Invariant3DiscardedBeforeItsLoadAPageIsZeroForEver) {
  OneBlockLoad load(256, {{0, 256}}, GetParam());
  if (IsShared(GetParam())) {
    // The kernel reports no hole in the backing file; the VMM's loader does.
    load.loader->Discard(load.memory.addr(10), load.memory.addr(20));
  } else {
    load.memory.MadviseDontNeed(10, 10);
  }
  EXPECT_TRUE(load.memory.HoldsZeros(10));
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  for (uint64_t page = 0; page < 256; ++page) {
    ASSERT_TRUE(page >= 10 && page < 20 ? load.memory.HoldsZeros(page)
                                        : load.memory.HoldsPattern(page))
        << "page " << page;
  }
  EXPECT_EQ(load.loader->stats().removed, 10u);
}

// The claimant has read the page's old content when the guest gives the page up: it must not bring
// it back.
TEST_P(SnapshotLoaderTest, Invariant3DiscardedWhileItIsReadAPageIsZeroForEver) {
  OneBlockLoad load(256, {{0, 256}}, GetParam());
  load.source->Hold(5);
  ASSERT_TRUE(load.loader->StartEager().ok());
  const PageRun run = load.source->AwaitHeld(5);
  ASSERT_TRUE(run.first <= 5 && run.end() > 7);
  if (IsShared(GetParam())) {
    load.loader->Discard(load.memory.addr(5), load.memory.addr(7));
  } else {
    load.memory.MadviseDontNeed(5, 2);
  }
  load.source->Release(5);
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_TRUE(load.memory.HoldsZeros(5));
  EXPECT_TRUE(load.memory.HoldsZeros(6));
  EXPECT_TRUE(load.memory.HoldsPattern(4));
  EXPECT_TRUE(load.memory.HoldsPattern(7));
  EXPECT_EQ(load.loader->stats().removed, 2u);
}

TEST(SnapshotLoader, Invariant3DiscardedInsideAHugePageInFlightAPageIsZeroForEver) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(1024, {{0, 1024}}, MemoryKind::kPrivate);
  load.source->Hold(600);
  ASSERT_TRUE(load.loader->StartEager().ok());
  load.source->AwaitHeld(600);
  load.memory.MadviseDontNeed(700, 1);
  load.source->Release(600);
  ASSERT_TRUE(load.loader->Wait().ok());
  for (uint64_t page = 0; page < 1024; ++page) {
    ASSERT_TRUE(page == 700 ? load.memory.HoldsZeros(page) : load.memory.HoldsPattern(page))
        << "page " << page;
  }
}

TEST(SnapshotLoader, Invariant3DiscardedAfterItsLoadAPageIsZero) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate);
  EXPECT_TRUE(load.memory.HoldsPattern(8));
  load.memory.MadviseDontNeed(8, 1);
  EXPECT_TRUE(load.memory.HoldsZeros(8));
  EXPECT_EQ(load.loader->stats().removed, 0u) << "its content had arrived";
}

TEST_P(SnapshotLoaderTest, Invariant4AWaiterOnAPageDiscardedInFlightWakesToZeros) {
  OneBlockLoad load(256, {{0, 256}}, GetParam());
  load.source->Hold(5);
  std::atomic<bool> zeros{false};
  std::thread guest([&] { zeros = load.memory.HoldsZeros(5); });
  load.source->AwaitHeld(5);  // the fault thread has its content in hand
  load.loader->Discard(load.memory.addr(5), load.memory.addr(6));
  load.source->Release(5);
  guest.join();
  EXPECT_TRUE(zeros);
}

// Reading a run does not claim it, so a fault on one of its pages does not wait for all of it.
TEST_P(SnapshotLoaderTest, Invariant5AFaultOnAPageOfARunThatIsBeingReadIsNotItsHostage) {
  OneBlockLoad load(1024, {{0, 1024}}, GetParam());
  load.source->Hold(5);
  ASSERT_TRUE(load.loader->StartEager().ok());
  const PageRun run = load.source->AwaitHeld(5);
  ASSERT_TRUE(run.first <= 5 && run.end() > 6);
  EXPECT_TRUE(load.memory.HoldsPattern(6));
  load.memory.data()[6 * HostPageBytes()] = 0xee;
  load.source->Release(5);
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_EQ(load.memory.data()[6 * HostPageBytes()], 0xee) << "the run came later, without it";
  EXPECT_EQ(load.loader->stats().redundant, 0u);
}

TEST_P(SnapshotLoaderTest, Invariant5AFaultIsServedWhileTheEagerThreadWaitsForTheDisk) {
  OneBlockLoad load(4096, {{0, 4096}}, GetParam(), {.eager_threads = 1});
  load.source->Hold(5);
  ASSERT_TRUE(load.loader->StartEager().ok());
  load.source->AwaitHeld(5);
  EXPECT_TRUE(load.memory.HoldsPattern(4000));
  EXPECT_EQ(load.loader->stats().faulted, 1u);
  load.source->Release(5);
}

TEST_P(SnapshotLoaderTest, Invariant6AnUnreadablePageIsLostAndTheOthersArrive) {
  OneBlockLoad load(1024, {{0, 1024}}, GetParam());
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  load.source->Fail(5, absl::DataLossError("page 5 is gone"), 1 << 30);
  ASSERT_TRUE(load.loader->StartEager().ok());
  while (load.loader->attached_pages().missing > 1) std::this_thread::yield();
  EXPECT_THAT(load.loader->stats().errors(), IsEmpty()) << "nobody waits for it";
  if (IsShared(GetParam())) {
    EXPECT_TRUE(absl::IsAborted(load.loader->Finish()));
  } else {
    EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes()));
    EXPECT_TRUE(load.loader->Wait().ok());
    EXPECT_EQ(load.loader->stats().poisoned, 1u);
  }
  EXPECT_THAT(load.loader->stats().errors(), ElementsAre("page 5 is gone"));
  for (uint64_t page = 0; page < 1024; ++page) {
    if (page != 5) {
      ASSERT_TRUE(load.memory.HoldsPattern(page)) << "page " << page;
    }
  }
}

TEST_P(SnapshotLoaderTest, AReadThatFailsOnceIsRepeated) {
  OneBlockLoad load(64, {{0, 64}}, GetParam());
  load.source->Fail(5, absl::UnavailableError("EIO"), 2);
  EXPECT_TRUE(load.memory.HoldsPattern(5));
  EXPECT_THAT(load.loader->stats().errors(), IsEmpty());
}

TEST_P(SnapshotLoaderTest, Invariant7DetachingIsRefusedWhilePagesAreOwed) {
  OneBlockLoad load(64, {{0, 64}}, GetParam());
  EXPECT_EQ(load.loader->Detach().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::IsDeadlineExceeded(load.loader->Wait(absl::Milliseconds(1))));
  EXPECT_TRUE(load.memory.HoldsPattern(63));
}

TEST_P(SnapshotLoaderTest, Invariant7ADestroyedLoaderLeavesNothingOwed) {
  OneBlockLoad load(kMixedPages, MixedRuns(), GetParam());
  load.loader.reset();
  ExpectSnapshotContent(load.memory, MixedRuns());
}

TEST_P(SnapshotLoaderTest, DetachedNoThreadAndNoDescriptorIsLeft) {
  const int before = OpenUserfaultfds();
  OneBlockLoad load(kMixedPages, MixedRuns(), GetParam());
  EXPECT_EQ(OpenUserfaultfds(), before + 1);
  EXPECT_TRUE(load.memory.HoldsPattern(MixedRuns().front().first));  // so it has begun to run
  EXPECT_THAT(OurThreads(), Contains("ramjet-fault"));
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
  EXPECT_EQ(OpenUserfaultfds(), before);
  EXPECT_TRUE(load.memory.HoldsZeros(0)) << "an untouched page without content is the kernel's";
}

TEST_P(SnapshotLoaderTest, Invariant9AFileThatIsCutShortIsNoticed) {
  const std::string path = ::testing::TempDir() + "/cut.mr";
  SnapshotContent content;
  content.blocks.push_back({.idstr = "ram",
                            .used_length = 64 * HostPageBytes(),
                            .page_size = HostPageBytes(),
                            .nonzero = {{0, 64}}});
  ASSERT_TRUE(WriteSnapshot(content, path).ok());
  const int fd = open(path.c_str(), O_WRONLY);  // so there is no lease that would make us wait
  GuestMemory memory(64 * HostPageBytes(), GetParam());
  auto loader = SnapshotLoader::Create(*Snapshot::Open(*File::Open(path)), {});
  ASSERT_TRUE(loader.ok()) << loader.status();
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  ASSERT_TRUE((*loader)->Attach(0, memory.mapping()).ok());
  EXPECT_TRUE(memory.HoldsPattern(1));
  ASSERT_EQ(ftruncate(fd, 4096), 0);
  close(fd);
  const absl::Status finished = (*loader)->Finish();
  EXPECT_EQ(finished.code(),
            IsShared(GetParam()) ? absl::StatusCode::kAborted : absl::StatusCode::kOk);
  EXPECT_TRUE(memory.HoldsPattern(1));
  ASSERT_FALSE((*loader)->stats().errors().empty());
  EXPECT_THAT((*loader)->stats().errors()[0], HasSubstr("cut.mr"));
}

TEST(SnapshotLoader, Invariant10LockedMemoryIsRefusedAndUsableAsBefore) {
  SKIP_WITHOUT_USERFAULTFD();
  GuestMemory memory(64 * HostPageBytes(), BlockMemory::kPrivate);
  // Not mlock(), which sanitizers turn into nothing.
  ASSERT_EQ(syscall(SYS_mlock, memory.data(), memory.length()), 0);
  auto loader = SnapshotLoader::Create(OneBlockSnapshot(64, {{0, 64}}), {});
  const absl::Status attached = (*loader)->Attach(0, memory.mapping());
  EXPECT_EQ(attached.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(attached.message()), HasSubstr("locked"));
  ASSERT_EQ(syscall(SYS_munlock, memory.data(), memory.length()), 0);
  memory.MadviseDontNeed(0, 64);
  memory.data()[0] = 1;  // or this would wait for a fault that nobody serves
  ASSERT_TRUE((*loader)->Attach(0, memory.mapping()).ok()) << "a refusal spoils nothing";
  ExpectSnapshotContent(memory, {{0, 64}});
}

TEST(SnapshotLoader, Invariant10MemoryThatIsToBeLockedWhenTouchedIsRefused) {
  SKIP_WITHOUT_USERFAULTFD();
  GuestMemory memory(64 * HostPageBytes(), BlockMemory::kPrivate);
  ASSERT_EQ(syscall(SYS_mlock2, memory.data(), memory.length(), MLOCK_ONFAULT), 0);
  auto loader = SnapshotLoader::Create(OneBlockSnapshot(64, {{0, 64}}), {});
  EXPECT_THAT((*loader)->Attach(0, memory.mapping()).ToString(), HasSubstr("locked"));
}

TEST(SnapshotLoader, MemoryIsEmptiedHoweverLittleItHolds) {
  SKIP_WITHOUT_USERFAULTFD();
  for (const uint64_t page : {0, 31, 63}) {
    for (const bool written : {false, true}) {
      GuestMemory memory(64 * HostPageBytes(), BlockMemory::kPrivate);
      volatile uint8_t* const byte = memory.data() + page * HostPageBytes();
      if (written) *byte = 0xee;
      EXPECT_EQ(*byte, written ? 0xee : 0);
      auto loader = SnapshotLoader::Create(OneBlockSnapshot(64, {{20, 44}}), {});
      ASSERT_TRUE((*loader)->Attach(0, memory.mapping()).ok());
      ExpectSnapshotContent(memory, {{20, 44}});
    }
  }
}

TEST(SnapshotLoader, Invariant10MemoryOfAFileOnDiskIsRefused) {
  SKIP_WITHOUT_USERFAULTFD();
  FILE* const file = tmpfile();
  ASSERT_EQ(ftruncate(fileno(file), static_cast<off_t>(64 * HostPageBytes())), 0);
  void* const memory =
      mmap(nullptr, 64 * HostPageBytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
  auto loader = SnapshotLoader::Create(OneBlockSnapshot(64, {{0, 64}}), {});
  const absl::Status attached =
      (*loader)->Attach(0, {.host = memory, .memory = BlockMemory::kShared});
  EXPECT_EQ(attached.code(), absl::StatusCode::kFailedPrecondition) << attached;
  munmap(memory, 64 * HostPageBytes());
  fclose(file);
}

// The state of a thread of this process by /proc: 'S' while it sleeps; 0 once it has ended.
char StateOf(pid_t thread) {
  std::ifstream stat(absl::StrCat("/proc/self/task/", thread, "/stat"));
  std::string word;
  return stat >> word >> word >> word ? word[0] : 0;
}

TEST(SnapshotLoader, ASnapshotIsOneLoadersAlone) {
  SKIP_WITHOUT_USERFAULTFD();
  const std::shared_ptr<Snapshot> snapshot = OneBlockSnapshot(64, {{0, 64}});
  auto loader = SnapshotLoader::Create(snapshot, {});
  GuestMemory memory(64 * HostPageBytes(), BlockMemory::kPrivate);
  ASSERT_TRUE((*loader)->Attach(0, memory.mapping()).ok());
  const absl::Status second = SnapshotLoader::Create(snapshot, {}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
  EXPECT_THAT(std::string(second.message()), HasSubstr("open the file anew"));
  ExpectSnapshotContent(memory, {{0, 64}});
}

TEST(SnapshotLoader, ABlockThatIsBeingReadIsAttachedAfterwards) {
  SKIP_WITHOUT_USERFAULTFD();
  const std::vector<PageRun> content = {{0, 8}, {20, 44}};
  const std::shared_ptr<Snapshot> snapshot = OneBlockSnapshot(64, content);
  FaultySource source(*snapshot);
  auto loader = SnapshotLoader::Create(snapshot, {}, &source);
  GuestMemory plain(64 * HostPageBytes(), BlockMemory::kPrivate);
  GuestMemory lazy(64 * HostPageBytes(), BlockMemory::kPrivate);
  source.Hold(0);
  std::thread reader([&] {
    EXPECT_TRUE((*loader)->ReadUnattached(0, absl::MakeSpan(plain.data(), plain.length())).ok());
  });
  source.AwaitHeld(0);
  std::atomic<pid_t> attacher_id{0};
  std::thread attacher([&] {
    attacher_id.store(gettid());
    EXPECT_TRUE((*loader)->Attach(0, lazy.mapping()).ok());
  });
  while (attacher_id.load() == 0) std::this_thread::yield();
  for (char state = 'R'; state != 'S' && state != 0; state = StateOf(attacher_id.load())) {
    std::this_thread::yield();
  }
  source.Release(0);
  reader.join();
  attacher.join();
  ExpectSnapshotContent(plain, content);
  ExpectSnapshotContent(lazy, content);
  EXPECT_TRUE(absl::IsAlreadyExists(
      (*loader)->ReadUnattached(0, absl::MakeSpan(plain.data(), plain.length()))));
  loader->reset();  // before the source
}

// While one waits for the disk, more come; they are to wait for one turn of it, and not for three.
TEST(SnapshotLoader, FaultsThatComeTogetherAreReadTogether) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(64, {{0, 40}}, MemoryKind::kPrivate);
  load.source->Hold(1);
  std::vector<std::thread> guests;
  guests.emplace_back([&] { EXPECT_TRUE(load.memory.HoldsPattern(1)); });
  load.source->AwaitHeld(1);
  for (const uint64_t page : {30, 10, 20}) {
    guests.emplace_back([&, page] { EXPECT_TRUE(load.memory.HoldsPattern(page)); });
  }
  guests.emplace_back([&] { EXPECT_TRUE(load.memory.HoldsZeros(50)); });
  while (UnreadFaults() < 4) std::this_thread::yield();
  load.source->Release(1);
  for (std::thread& guest : guests) guest.join();
  EXPECT_THAT(load.source->prefetched(),
              UnorderedElementsAre(PageRun{10, 1}, PageRun{20, 1}, PageRun{30, 1}));
}

TEST(SnapshotLoader, HugePagesOfPrivateMemoryArriveWhole) {
  SKIP_WITHOUT_USERFAULTFD();
  if (!Userfaultfd::Open()->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  const std::vector<PageRun> content = {{0, 512}, {512, 512}, {1030, 7}, {1536, 300}};
  struct Case {
    int advice;
    uint64_t moved;
    uint64_t huge_pages;
  };
  // A page of the first range is touched before: that range goes page by page, and is a huge page
  // only afterwards. With its few pages the third is one only where a plain read would make it one.
  for (const Case& wanted : {Case{MADV_HUGEPAGE, 512 + 7 + 300, 4}, Case{MADV_NOHUGEPAGE, 0, 0}}) {
    OneBlockLoad load(2048, content, MemoryKind::kPrivate);
    ASSERT_EQ(madvise(load.memory.data(), load.memory.length(), wanted.advice), 0);
    EXPECT_TRUE(load.memory.HoldsPattern(9));
    ASSERT_TRUE(load.loader->StartEager().ok());
    ASSERT_TRUE(load.loader->Wait().ok());
    EXPECT_EQ(load.loader->stats().moved, wanted.moved);
    ASSERT_TRUE(load.loader->Detach().ok());
    load.loader->Collapse();
    ExpectSnapshotContent(load.memory, content);
    EXPECT_EQ(HugePagesAt(load.memory.addr()), wanted.huge_pages);
  }
}

// A balloon that got its memory back would have been inflated for nothing.
TEST(SnapshotLoader, WhatTheGuestHasGivenUpIsNoPartOfAHugePage) {
  SKIP_WITHOUT_USERFAULTFD();
  if (!Userfaultfd::Open()->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  OneBlockLoad load(2048, {{0, 1024}, {1024, 300}, {1536, 300}}, MemoryKind::kPrivate);
  for (const uint64_t touched : {9, 521, 1033, 1545}) {
    EXPECT_TRUE(load.memory.HoldsPattern(touched));
  }
  load.memory.MadviseDontNeed(20, 1);  // before it has come
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  load.memory.MadviseDontNeed(532, 1);
  EXPECT_EQ(HugePagesAt(load.memory.addr()), 0u);
  load.loader->Collapse();
  EXPECT_EQ(HugePagesAt(load.memory.addr()), 2u);  // the last two, also where they had no content
  EXPECT_TRUE(load.memory.HoldsZeros(20));
  EXPECT_TRUE(load.memory.HoldsZeros(532));
  EXPECT_TRUE(load.memory.HoldsPattern(1033));
}

// Bytes of zeros and what an earlier save has left behind lie between the pages that count.
TEST(SnapshotLoader, WhatIsReadAlongBetweenTwoRunsIsZero) {
  SKIP_WITHOUT_USERFAULTFD();
  const std::vector<PageRun> content = {{0, 3}, {4, 1}, {9, 200}, {212, 1}, {600, 8}, {609, 7}};
  OneBlockLoad load(1024, content, MemoryKind::kPrivate);
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  ExpectSnapshotContent(load.memory, content);
}

// Guests write and discard while everything is loaded; a model says what each page may hold.
TEST_P(SnapshotLoaderTest, Invariant3GuestsThatWriteAndDiscardSeeNoOldContent) {
  constexpr uint64_t kPages = 8192;
  constexpr unsigned kGuests = 3;
  OneBlockLoad load(kPages, {{0, kPages}}, GetParam(), {.eager_threads = 2});
  ASSERT_TRUE(load.loader->StartEager().ok());
  std::atomic<int> wrong{0};
  std::vector<std::thread> guests;
  for (unsigned guest = 0; guest < kGuests; ++guest) {
    guests.emplace_back([&, guest] {
      std::mt19937 random(guest);
      std::vector<bool> discarded(kPages);
      std::vector<bool> written(kPages);
      for (int i = 0; i < 4000; ++i) {
        const uint64_t page = random() % (kPages / kGuests) * kGuests + guest;  // its own pages
        uint8_t* const byte = load.memory.data() + page * HostPageBytes();
        switch (random() % 3) {
          case 0:
            if (IsShared(GetParam())) {
              load.loader->Discard(load.memory.addr(page), load.memory.addr(page + 1));
              EXPECT_EQ(madvise(byte, HostPageBytes(), MADV_REMOVE), 0);
            } else {
              load.memory.MadviseDontNeed(page, 1);
            }
            discarded[page] = true;
            written[page] = false;
            break;
          case 1:
            *byte = 0xa5;
            written[page] = true;
            break;
          case 2:
            if (written[page]) {
              wrong += *byte != 0xa5;
            } else {
              wrong += !(discarded[page] ? load.memory.HoldsZeros(page)
                                         : load.memory.HoldsPattern(page));
            }
        }
      }
    });
  }
  for (std::thread& guest : guests) guest.join();
  EXPECT_EQ(wrong, 0);
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
}

}  // namespace
}  // namespace ramjet
