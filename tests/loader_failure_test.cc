// What the disk, the kernel, the VM and we ourselves may do wrong, and what becomes of the guest.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/eager_queue.h"
#include "loader/fault_thread.h"
#include "loader/huge_page_policy.h"
#include "loader/load_progress.h"
#include "loader/page_loader.h"
#include "loader/ram_map.h"
#include "loader/snapshot_loader.h"
#include "loader/vm_stop.h"
#include "loader/window_trip.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

#define SKIP_WITHOUT_POISON() \
  SKIP_WITHOUT_USERFAULTFD(); \
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON"

// --- The disk ---

TEST(Failure, AReadThatFailsForAWhileIsRepeatedForAFaultAndForARun) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(1024, {{0, 1024}}, MemoryKind::kPrivate);
  load.source->Fail(5, absl::UnavailableError("EIO"), 20);
  EXPECT_TRUE(load.memory.HoldsPattern(5));
  EXPECT_EQ(load.loader->stats().read_retries, 20u);
  load.source->Fail(900, absl::UnavailableError("EIO"), 3);
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_TRUE(load.memory.HoldsPattern(900));
  EXPECT_THAT(load.loader->stats().errors(), IsEmpty());
  EXPECT_EQ(load.loader->stats().poisoned, 0u);
}

// While one page cannot be read, faults on others are served.
TEST(Failure, Invariant5AFaultThatWaitsForTheDiskToRecoverHoldsNobodyUp) {
  SKIP_WITHOUT_POISON();
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate);
  load.source->Fail(5, absl::UnavailableError("EIO"), 1 << 30);
  std::thread sufferer([&] { EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes())); });
  while (load.loader->stats().parked == 0) std::this_thread::yield();
  EXPECT_TRUE(load.memory.HoldsPattern(6));
  EXPECT_TRUE(load.memory.HoldsPattern(63));
  sufferer.join();
}

// A disk that was gone for a tenth of a second, and a page that is damaged once after it. All that
// time was held against the page. It was lost at once, and in shared memory the VM with it.
TEST(Failure, Invariant6WhatTheDiskWasGoneForIsNotHeldAgainstADamagedPage) {
  SKIP_WITHOUT_USERFAULTFD();
  for (const MemoryKind kind : {MemoryKind::kPrivate, MemoryKind::kShared}) {
    for (const absl::StatusCode gone :
         {absl::StatusCode::kUnavailable, absl::StatusCode::kResourceExhausted}) {
      for (const bool finish : {false, true}) {
        OneBlockLoad load(64, {{0, 64}}, kind);
        load.source->Fail(5, absl::Status(gone, ""), 1 << 30);
        std::thread waiter([&] {
          if (finish) {
            EXPECT_TRUE(load.loader->Finish().ok());
          }
          EXPECT_TRUE(load.memory.HoldsPattern(5));
        });
        const LoadStats& stats = load.loader->stats();
        while (stats.read_retries + stats.no_memory < 2) std::this_thread::yield();
        absl::SleepFor(absl::Nanoseconds(2 * kMaxDamagedNs));
        load.source->Fail(5, absl::DataLossError("damaged for a moment"), 1);
        waiter.join();
        EXPECT_EQ(stats.poisoned, 0u);
        EXPECT_THAT(stats.errors(), IsEmpty());
      }
    }
  }
}

// 20 ms without the disk destroyed 20 pages that nobody had asked for, one second 1,503.
TEST(Failure, Invariant12AheadOfNeedADiskThatIsGoneDestroysNothing) {
  SKIP_WITHOUT_USERFAULTFD();
  for (const MemoryKind kind : {MemoryKind::kPrivate, MemoryKind::kShared, MemoryKind::kAliased}) {
    OneBlockLoad load(2048, {{0, 2048}}, kind);
    for (uint64_t page = 0; page < 2048; ++page) {
      load.source->Fail(page,
                        page % 2 == 0 ? absl::UnavailableError("EIO") : absl::DataLossError("gone"),
                        1 << 30);
    }
    ASSERT_TRUE(load.loader->StartEager().ok());
    const LoadStats& stats = load.loader->stats();
    while (stats.read_retries < 6144u) std::this_thread::yield();  // in several rounds
    EXPECT_EQ(stats.poisoned, 0u);
    EXPECT_THAT(stats.errors(), IsEmpty());
    EXPECT_THAT(stats.unread().why, ::testing::AnyOf("EIO", "gone"));
    EXPECT_EQ(load.loader->attached_pages().missing, 2048u);
    EXPECT_TRUE(absl::IsDeadlineExceeded(load.loader->Wait(absl::Milliseconds(1))));
    for (uint64_t page = 0; page < 2048; ++page) load.source->Fail(page, absl::OkStatus(), 0);
    ASSERT_TRUE(load.loader->Wait().ok());
    for (uint64_t page = 0; page < 2048; ++page) {
      ASSERT_TRUE(load.memory.HoldsPattern(page)) << page;
    }
    EXPECT_EQ(stats.poisoned, 0u);
    EXPECT_EQ(load.loader->attached_pages().missing, 0u);
  }
}

// A disk that takes 30 ms to say no: the pages that it refuses were tried ahead of need again and
// again, without an end, and never told lost.
TEST(Failure, Invariant6WhoFinishesComesToAnEndWhereEachErrorTakesLong) {
  SKIP_WITHOUT_POISON();
  static constexpr std::array<uint64_t, 3> kBad = {100, 1124, 1624};
  class SlowToFail : public PageSource {
   public:
    explicit SlowToFail(const Snapshot& snapshot) : snapshot_(snapshot) {}
    absl::Status ReadPages(size_t block, uint64_t offset,
                           absl::Span<uint8_t> buffer) const override {
      for (const uint64_t page : kBad) {
        if (page * HostPageBytes() < offset || page * HostPageBytes() >= offset + buffer.size()) {
          continue;
        }
        absl::SleepFor(absl::Milliseconds(30));
        return absl::UnavailableError("bad sector");
      }
      return snapshot_.ReadPages(block, offset, buffer);
    }

   private:
    const Snapshot& snapshot_;
  };
  const std::shared_ptr<Snapshot> snapshot = OneBlockSnapshot(2048, {{0, 2048}});
  const SlowToFail source(*snapshot);
  GuestMemory memory(2048 * HostPageBytes(), MemoryKind::kPrivate);
  const std::unique_ptr<SnapshotLoader> loader =
      *SnapshotLoader::Create(snapshot, SnapshotLoader::Options{}, &source);
  ASSERT_TRUE(loader->Attach(0, memory.mapping()).ok());
  ASSERT_TRUE(loader->Finish().ok());
  EXPECT_EQ(loader->stats().poisoned, kBad.size());
  EXPECT_TRUE(memory.HoldsPattern(101));
}

// Both said OK, and the guest had zeros: nothing seemed to be missing before the block was there.
TEST(Failure, WhoDetachesWhileABlockIsAttachedIsRefused) {
  SKIP_WITHOUT_USERFAULTFD();
  for (uint64_t i = 0; i < 200; ++i) {
    GuestMemory memory(64 * HostPageBytes(), MemoryKind::kPrivate);
    const std::unique_ptr<SnapshotLoader> loader =
        *SnapshotLoader::Create(OneBlockSnapshot(64, {{0, 64}}), SnapshotLoader::Options{});
    std::atomic<uint64_t> begun_ns{0};
    absl::Status attached;
    std::thread attacher([&] {
      begun_ns = MonotonicNs();
      attached = loader->Attach(0, memory.mapping());
    });
    // At every moment of the attaching, which takes some tens of microseconds.
    while (begun_ns == 0 || MonotonicNs() < begun_ns + i * 500) {
    }
    const absl::Status detached = loader->Detach();
    attacher.join();
    ASSERT_FALSE(attached.ok() && detached.ok()) << i;
    if (attached.ok()) {
      ASSERT_TRUE(memory.HoldsPattern(5)) << i;
    }
  }
}

// What must be complete now counts as a guest that waits. Each run that is lost is told once.
TEST(Failure, Invariant6WhoFinishesGivesUpWhatADeadDiskDoesNotGive) {
  SKIP_WITHOUT_POISON();
  OneBlockLoad load(1024, {{0, 1024}}, MemoryKind::kPrivate);
  const auto dead = [](uint64_t page) {
    return (page >= 100 && page < 148 && page != 109) || page == 700;
  };
  for (uint64_t page = 0; page < 1024; ++page) {
    if (dead(page)) load.source->Fail(page, absl::UnavailableError("EIO for ever"), 1 << 30);
  }
  ASSERT_TRUE(load.loader->Finish().ok());
  for (uint64_t page = 0; page < 1024; ++page) {
    const bool poisoned = IsPoisoned(load.memory.data() + page * HostPageBytes());
    ASSERT_EQ(poisoned, dead(page)) << page;
    if (!poisoned) {
      ASSERT_TRUE(load.memory.HoldsPattern(page)) << page;
    }
  }
  EXPECT_EQ(load.loader->stats().poisoned, 48u);
  EXPECT_THAT(
      load.loader->stats().errors(),
      ::testing::UnorderedElementsAre("EIO for ever; pages 100 to 108 alike",
                                      "EIO for ever; pages 110 to 147 alike", "EIO for ever"));
}

// Under a rate of a megabyte a second a VMM that had to wait for the rest waited for minutes.
TEST(Failure, Invariant15WhoFinishesKnowsNoRate) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(4096, {{0, 4096}}, MemoryKind::kPrivate, {.eager_bytes_per_s = 1});
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Finish().ok());
  EXPECT_EQ(load.loader->attached_pages().missing, 0u);
}

// Where no thread could be had (pids.max) it waited for ever.
TEST(Failure, Invariant15WhoFinishesLoadsByItselfIfNeedBe) {
  SKIP_WITHOUT_USERFAULTFD();
  if (getuid() != 0) GTEST_SKIP() << "only root can become a user without threads, and root again";
  OneBlockLoad load(4096, {{0, 4096}}, MemoryKind::kPrivate);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NPROC, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NPROC, &none), 0);
  ASSERT_EQ(setresuid(65534, 65534, 0), 0);
  const absl::Status started = load.loader->StartEager();
  const absl::Status finished = load.loader->Finish();
  ASSERT_EQ(setresuid(0, 0, 0), 0);
  ASSERT_EQ(setrlimit(RLIMIT_NPROC, &before), 0);
  EXPECT_FALSE(started.ok());
  EXPECT_TRUE(finished.ok()) << finished;
  for (uint64_t page = 0; page < 4096; ++page) ASSERT_TRUE(load.memory.HoldsPattern(page)) << page;
}

// A page that is lost is poisoned when its reason has been told, and not before, nor much later.
TEST(Failure, Invariant6TheReasonIsToldBeforeAnybodyCanDieOfIt) {
  SKIP_WITHOUT_POISON();
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate, {.tell_errors = true});
  load.source->Fail(5, absl::DataLossError("page 5 is gone"), 1 << 30);
  std::atomic<bool> awake{false};
  std::thread guest([&] {
    EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes()));
    awake = true;
  });
  EXPECT_TRUE(absl::IsUnavailable(load.loader->WaitOrError(absl::InfiniteDuration())));
  EXPECT_TRUE(load.memory.HoldsPattern(6)) << "others are served meanwhile";
  const LoadStats::Untold untold = load.loader->TakeUntold();
  EXPECT_THAT(untold.messages, ElementsAre("page 5 is gone"));
  EXPECT_FALSE(awake);
  load.loader->MarkTold(untold);
  guest.join();
  // Nobody tells this one: a second is enough.
  load.source->Fail(7, absl::DataLossError("page 7 is gone"), 1 << 30);
  EXPECT_TRUE(IsPoisoned(load.memory.data() + 7 * HostPageBytes()));
  EXPECT_EQ(load.loader->stats().poisoned, 2u);
}

// Poison lies in one page table: unregistered, huge pages and other mappings made zeros of it.
TEST(Failure, Invariant6AnUnreadablePageOfSharedMemoryStopsTheVm) {
  SKIP_WITHOUT_USERFAULTFD();
  for (const MemoryKind kind : {MemoryKind::kShared, MemoryKind::kAliased}) {
    OneBlockLoad load(64, {{0, 64}}, kind);
    load.source->Fail(5, absl::DataLossError("page 5 is gone"), 1 << 30);
    std::thread vcpu([&] { EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes())); });
    EXPECT_TRUE(absl::IsAborted(load.loader->Wait()));
    EXPECT_THAT(load.loader->stopped_why().message(), HasSubstr("page 5 is gone"));
    EXPECT_TRUE(load.memory.HoldsPattern(6));
    EXPECT_EQ(load.loader->stats().poisoned, 0u);
    load.loader->Abandon();
    vcpu.join();
  }
}

// Of private memory. In shared memory the kernel keeps the poison (Linux 6.18, zap_pte_range()).
TEST(Failure, APoisonedPageThatIsDiscardedIsZero) {
  SKIP_WITHOUT_POISON();
  OneBlockLoad load(16, {{0, 16}}, MemoryKind::kPrivate);
  load.source->Fail(5, absl::DataLossError("gone"), 1 << 30);
  EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes()));
  load.memory.MadviseDontNeed(5, 1);
  EXPECT_TRUE(load.memory.HoldsZeros(5));
}

// A file that changes in any way other than by name.
class ChangedFile : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_POISON();
    SnapshotContent content;
    content.blocks.push_back({.idstr = "ram",
                              .used_length = 64 * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = {{0, 64}}});
    ASSERT_TRUE(WriteSnapshot(content, path_).ok());
    // Its clock ticks every few milliseconds: a change in the same tick would go unnoticed.
    const timespec past[] = {{.tv_sec = 1'000'000, .tv_nsec = 0},
                             {.tv_sec = 1'000'000, .tv_nsec = 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, path_.c_str(), past, 0), 0);
    writer_ = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    loader_ = *SnapshotLoader::Create(*Snapshot::Open(*File::Open(path_)), {});
    ASSERT_TRUE(loader_->Attach(0, memory_.mapping()).ok());
    EXPECT_TRUE(memory_.HoldsPattern(1));
  }
  void TearDown() override { close(writer_); }
  void ExpectTheRestIsPoisoned() {
    EXPECT_TRUE(IsPoisoned(memory_.data() + 2 * HostPageBytes()));
    ASSERT_TRUE(loader_->Finish().ok());
    EXPECT_TRUE(memory_.HoldsPattern(1)) << "what came before the change is right";
    EXPECT_EQ(loader_->stats().poisoned, 63u);
    EXPECT_THAT(loader_->stats().errors(), Contains(HasSubstr("block \"ram\", page 2")));
  }
  const std::string path_ = ::testing::TempDir() + "/changed.mr";
  int writer_ = -1;  // so there is no lease that would make us wait
  GuestMemory memory_{64 * HostPageBytes(), MemoryKind::kPrivate};
  std::unique_ptr<SnapshotLoader> loader_;
};

TEST_F(ChangedFile, Invariant9TruncatedItIsNotBelieved) {
  ASSERT_EQ(truncate(path_.c_str(), 4096), 0);
  ExpectTheRestIsPoisoned();
}

TEST_F(ChangedFile, Invariant9OverwrittenItIsNotBelieved) {
  const int fd = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(pwrite(fd, "x", 1, 1 << 20), 1);
  close(fd);
  ExpectTheRestIsPoisoned();
}

TEST_F(ChangedFile, Invariant9ReplacedByAnotherOfItsNameItIsStillTheOldOne) {
  const std::string other = path_ + ".new";
  FILE* const file = fopen(other.c_str(), "w");
  ASSERT_NE(file, nullptr);
  fputs("something else", file);
  fclose(file);
  ASSERT_EQ(rename(other.c_str(), path_.c_str()), 0);
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  for (uint64_t page = 0; page < 64; ++page) EXPECT_TRUE(memory_.HoldsPattern(page));
}

TEST(Failure, Invariant8AnIncompleteFileIsRefusedBeforeAnythingIsRegistered) {
  SKIP_WITHOUT_USERFAULTFD();
  const std::string path = ::testing::TempDir() + "/interrupted.mr";
  SnapshotContent content;
  content.blocks.push_back({.idstr = "ram",
                            .used_length = 64 * HostPageBytes(),
                            .page_size = HostPageBytes(),
                            .nonzero = {{0, 64}}});
  content.interrupted = true;
  ASSERT_TRUE(WriteSnapshot(content, path).ok());
  const int before = OpenUserfaultfds();
  EXPECT_TRUE(absl::IsDataLoss(Snapshot::Open(*File::Open(path)).status()));
  EXPECT_EQ(OpenUserfaultfds(), before);
}

// --- Stopping the VM ---

TEST(Failure, Invariant6WhereAPageMustNotBePoisonedTheVmIsStoppedOnceAndTheWaiterSleepsOn) {
  SKIP_WITHOUT_USERFAULTFD();
  std::atomic<int> stops{0};
  std::string why;
  absl::Notification stopped;
  auto load = std::make_unique<OneBlockLoad>(
      1024, std::vector<PageRun>{{0, 1024}}, MemoryKind::kPrivate,
      SnapshotLoader::Options{.on_unreadable = OnUnreadable::kStopVm,
                              .stop_vm = [&](const absl::Status& status) {
                                why = status.ToString();
                                if (++stops == 1) stopped.Notify();
                              }});
  load->source->Fail(5, absl::DataLossError("page 5 is gone"), 1 << 30);
  load->source->Fail(6, absl::DataLossError("page 6 is gone"), 1 << 30);
  std::atomic<bool> awake{false};
  std::thread vcpu([&] {
    // By the kernel, which answers with an error once the memory is abandoned.
    EXPECT_TRUE(IsPoisoned(load->memory.data() + 5 * HostPageBytes()));
    awake = true;
  });
  stopped.WaitForNotification();
  EXPECT_THAT(why, HasSubstr("page 5 is gone"));
  EXPECT_TRUE(absl::IsAborted(load->loader->Wait()));
  EXPECT_TRUE(load->memory.HoldsPattern(7)) << "other pages keep coming";
  ASSERT_TRUE(load->loader->StartEager().ok());
  while (load->loader->stats().eager < 1021) std::this_thread::yield();
  EXPECT_FALSE(awake);
  load->loader->Abandon();
  vcpu.join();
  EXPECT_EQ(stops, 1);
  EXPECT_EQ(load->loader->stats().rescued, 0u);
  EXPECT_TRUE(absl::IsCancelled(load->loader->Wait()));
}

// Whoever frees the loader of a stopped VM without more ado must not hand it zeros.
TEST(Failure, Invariant7AStoppedVmIsAbandonedWithItsLoader) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate,
                    SnapshotLoader::Options{.on_unreadable = OnUnreadable::kStopVm});
  load.source->Fail(5, absl::DataLossError("gone"), 1 << 30);
  std::thread vcpu([&] { EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes())); });
  EXPECT_TRUE(absl::IsAborted(load.loader->Wait()));
  load.loader.reset();
  vcpu.join();
  EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes()));
}

TEST(Failure, TheProcessThatIsToBeKilledIsKilled) {
  SKIP_WITHOUT_USERFAULTFD();
  const pid_t vm = fork();
  if (vm == 0) {
    for (;;) pause();
  }
  OneBlockLoad load(
      16, {{0, 16}}, MemoryKind::kPrivate,
      SnapshotLoader::Options{.on_unreadable = OnUnreadable::kStopVm, .kill_pid = vm});
  load.source->Fail(5, absl::DataLossError("gone"), 1 << 30);
  EXPECT_TRUE(absl::IsAborted(load.loader->Finish()));
  int status = 0;
  ASSERT_EQ(waitpid(vm, &status, 0), vm);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_TRUE(absl::IsAborted(load.loader->Wait()));
  load.loader->Abandon();
}

TEST(Failure, AProcessThatIsNotThereCannotBeToldToEnd) {
  const pid_t gone = fork();
  if (gone == 0) _exit(0);
  ASSERT_EQ(waitpid(gone, nullptr, 0), gone);
  const auto loader = SnapshotLoader::Create(OneBlockSnapshot(4, {}), {.kill_pid = gone});
  EXPECT_TRUE(absl::IsInvalidArgument(loader.status())) << loader.status();
}

// --- The VM goes away ---

TEST(Failure, Invariant7AbandonedMemoryIsInaccessibleAndNeverZero) {
  SKIP_WITHOUT_USERFAULTFD();
  for (const MemoryKind kind : {MemoryKind::kPrivate, MemoryKind::kShared, MemoryKind::kAliased}) {
    OneBlockLoad load(256, {{0, 256}}, kind);
    load.source->Hold(5);
    std::thread vcpu([&] { EXPECT_TRUE(IsPoisoned(load.memory.data() + 5 * HostPageBytes())); });
    load.source->AwaitHeld(5);
    std::thread other([&] { EXPECT_TRUE(IsPoisoned(load.memory.data() + 9 * HostPageBytes())); });
    std::thread ender([&] { load.loader->Abandon(); });
    // Answered once the memory is inaccessible, and not before: its fault is not even read.
    EXPECT_TRUE(IsPoisoned(load.memory.data() + 100 * HostPageBytes()));
    load.source->Release(5);
    ender.join();
    vcpu.join();
    other.join();
    EXPECT_TRUE(absl::IsCancelled(load.loader->Wait()));
    EXPECT_TRUE(IsPoisoned(load.memory.data() + 200 * HostPageBytes()));
    EXPECT_THAT(ThreadsLeft(), IsEmpty());
    EXPECT_EQ(OpenUserfaultfds(), 0);
  }
}

TEST(Failure, AbandoningLeavesAloneWhatWasUnmappedAndBelongsToOthersNow) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(256, {{0, 256}}, MemoryKind::kPrivate);
  uint8_t* const hole = load.memory.data() + 64 * HostPageBytes();
  ASSERT_EQ(mmap(hole, 8 * HostPageBytes(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            hole);
  *hole = 7;
  load.loader->Abandon();
  EXPECT_EQ(*hole, 7);
  EXPECT_TRUE(IsPoisoned(load.memory.data() + 63 * HostPageBytes()));
  EXPECT_TRUE(IsPoisoned(load.memory.data() + 72 * HostPageBytes())) << "behind the hole, too";
}

TEST(Failure, WhatIsUnmappedIsOwedToNobody) {
  SKIP_WITHOUT_USERFAULTFD();
  OneBlockLoad load(256, {{0, 256}}, MemoryKind::kPrivate);
  ASSERT_EQ(munmap(load.memory.data() + 128 * HostPageBytes(), 128 * HostPageBytes()), 0);
  // munmap() returns when its event has been read, which is a moment before it is acted upon.
  while (load.loader->stats().removed < 128) std::this_thread::yield();
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  EXPECT_TRUE(load.memory.HoldsPattern(127));
  EXPECT_EQ(load.loader->stats().eager, 128u);
  ASSERT_TRUE(load.loader->Detach().ok());
}

// --- Signals ---

void OnSignal(int) {}

// A thread with a signal pending faults on its page again and again. While a mapping was changing,
// each time took a place among the parked faults, until no event was read any more: not even the
// one that would have let the mapping settle.
TEST(Failure, Invariant5SignalsWhileMappingsChangeHangNobody) {
  SKIP_WITHOUT_USERFAULTFD();
  struct sigaction action = {};
  action.sa_handler = OnSignal;  // and not SA_RESTART
  ASSERT_EQ(sigaction(SIGUSR1, &action, nullptr), 0);
  constexpr uint64_t kPages = 4096;
  constexpr uint64_t kGuests = 12;
  OneBlockLoad load(kPages, {{0, 64}}, MemoryKind::kPrivate);
  std::atomic<uint64_t> at_work{kGuests};
  std::vector<std::thread> guests;
  for (uint64_t guest = 0; guest < kGuests; ++guest) {
    guests.emplace_back([&, guest] {
      for (uint64_t i = 0; i < 150; ++i) {
        const uint64_t page = (guest * 150 + i) * 2;
        (void)*static_cast<volatile uint8_t*>(load.memory.data() + page * HostPageBytes());
        if (i % 10 == 0) load.memory.MadviseDontNeed(page + 1, 1);
      }
      --at_work;
    });
  }
  // A thread that has ended and is not joined can be sent signals, and takes none.
  while (at_work > 0) {
    for (std::thread& guest : guests) {
      pthread_kill(guest.native_handle(), SIGUSR1);
      std::this_thread::yield();
    }
  }
  for (std::thread& guest : guests) guest.join();
  EXPECT_EQ(load.loader->stats().rescued, 0u);
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
}

// However often its thread faults on it, a page is parked once.
TEST(Failure, Invariant5AFaultThatComesAgainAndAgainIsParkedOnce) {
  SKIP_WITHOUT_USERFAULTFD();
  struct sigaction action = {};
  action.sa_handler = OnSignal;  // and not SA_RESTART
  ASSERT_EQ(sigaction(SIGUSR1, &action, nullptr), 0);
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate);
  load.source->Fail(5, absl::UnavailableError("EIO"), 1 << 30);
  std::atomic<bool> at_work{true};
  std::thread guest([&] {
    // By the kernel, should the page be poisoned before it is read often enough.
    (void)IsPoisoned(load.memory.data() + 5 * HostPageBytes());
    at_work = false;
  });
  while (at_work && load.loader->stats().faults < 10) {
    pthread_kill(guest.native_handle(), SIGUSR1);
    std::this_thread::yield();
  }
  EXPECT_GE(load.loader->stats().faults, 10u);
  EXPECT_EQ(load.loader->stats().parked, 1u);
  load.source->Fail(5, absl::OkStatus(), 0);
  guest.join();
}

// --- We ourselves ---

// A fault that is read and forgotten: a claim that is given back without a wake, as no code does.
TEST(Failure, Invariant4AFaultThatIsLostIsFoundByTheWatchdogAndCounted) {
  SKIP_WITHOUT_USERFAULTFD();
  const std::unique_ptr<Snapshot> snapshot = OneBlockSnapshot(64, {{0, 64}});
  GuestMemory memory(64 * HostPageBytes(), MemoryKind::kPrivate);
  const absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open();
  ASSERT_TRUE(uffd->Register(memory.addr(), memory.length()).ok());
  RamBlock block(0, snapshot->blocks()[0], {.host = memory.addr(), .page_size = HostPageBytes()},
                 snapshot->TakeNonzero(0));
  InstallGate gate;
  LoadStats stats;
  LoadProgress progress;
  RamMap map(1);
  map.Insert(block);
  const std::unique_ptr<VmStop> vm_stop = *VmStop::Create(nullptr, 0);
  PageLoader loader(PageLoader::Parts{.demand = *snapshot,
                                      .demand_bulk = *snapshot,
                                      .bulk = *snapshot,
                                      .uffd = *uffd,
                                      .gate = gate,
                                      .stats = stats,
                                      .progress = progress,
                                      .vm_stop = *vm_stop});
  WindowTrip window_trip(loader);
  EagerQueue eager_queue(1);
  HugePagePolicy huge_pages(1);
  WindowOffers offers;
  const auto fault_thread = FaultThread::Start({.uffd = *uffd,
                                                .map = map,
                                                .loader = loader,
                                                .window_trip = window_trip,
                                                .eager_queue = eager_queue,
                                                .huge_pages = huge_pages,
                                                .offers = offers,
                                                .gate = gate,
                                                .stats = stats,
                                                .vm_stop = *vm_stop});
  ASSERT_TRUE(fault_thread.ok());
  ASSERT_EQ(block.Claim({7, 1}), 1u);
  std::thread guest([&] { EXPECT_TRUE(memory.HoldsPattern(7)); });
  while (stats.in_flight == 0) std::this_thread::yield();
  block.Unclaim({7, 1});  // and here a wake is missing
  guest.join();
  EXPECT_EQ(stats.rescued, 1u);
  ASSERT_TRUE(uffd->Unregister(memory.addr(), memory.length()).ok());
}

// The calling thread, on the first processor that it may use; false: that is its only one.
bool StayOnOneProcessor() {
  cpu_set_t usable;
  sched_getaffinity(0, sizeof usable, &usable);
  if (CPU_COUNT(&usable) < 2) return false;
  size_t first = 0;
  while (!CPU_ISSET(first, &usable)) ++first;
  CPU_ZERO(&usable);
  CPU_SET(first, &usable);
  return sched_setaffinity(0, sizeof usable, &usable) == 0;
}

// Woken by a signal, and by us only then, a thread stays in the kernel's queue until it has a
// processor. On a busy machine that took so long that it was counted as a fault that is lost.
TEST(Failure, Invariant4WhoWaitsForAProcessorIsNotTakenForLost) {
  SKIP_WITHOUT_USERFAULTFD();
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  ASSERT_EQ(sigaction(SIGUSR1, &action, nullptr), 0);
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate);
  load.source->Hold(5);
  std::atomic<bool> there_are_more{true};
  std::thread guest([&] {
    const sched_param none{};
    sched_setscheduler(0, SCHED_IDLE, &none);
    there_are_more = StayOnOneProcessor();
    EXPECT_TRUE(load.memory.HoldsPattern(5));
  });
  load.source->AwaitHeld(5);
  const absl::Time end = absl::Now() + absl::Milliseconds(1600);  // until after all of its looks
  std::vector<std::thread> others;
  for (int i = 0; i < 3; ++i) {
    others.emplace_back([end] {
      StayOnOneProcessor();
      while (absl::Now() < end) continue;
    });
  }
  pthread_kill(guest.native_handle(), SIGUSR1);
  load.source->Release(5);
  for (std::thread& other : others) other.join();
  guest.join();
  if (!there_are_more) GTEST_SKIP() << "there is one processor, which the loader needs, too";
  EXPECT_EQ(load.loader->stats().rescued, 0u);
}

}  // namespace
}  // namespace ramjet
