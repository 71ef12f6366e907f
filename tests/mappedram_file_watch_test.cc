#include <fcntl.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using absl::StatusCode;

constexpr char kWrittenTo[] = ": changed since it was opened: it was written to";

struct stat StatOf(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
  return info;
}

void SetTimes(const std::string& path, timespec modified) {
  const timespec times[] = {modified, modified};
  EXPECT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0) << path;
}

// As `touch -d @SECONDS`, and as rsync does.
void SetTimes(const std::string& path, time_t seconds) {
  SetTimes(path, {.tv_sec = seconds, .tv_nsec = 0});
}

void WriteInPlace(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY);
  EXPECT_EQ(pwrite(fd, "j", 1, 0), 1) << path;
  close(fd);
}

// Until the kernel stamps files with another time than that of the last change.
void AwaitClockTick() {
  timespec first, now;
  clock_gettime(CLOCK_REALTIME_COARSE, &first);
  do {
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
  } while (now.tv_nsec == first.tv_nsec);
}

// What `act` does in a process with a user namespace of its own; skips where there are none.
void InUserNamespace(const std::function<void()>& act) {
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWUSER) != 0) _exit(77);
    act();
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no user namespaces here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// `touch` on a snapshot in the middle of its load made every page that was left unreadable.
TEST(FileWatch, TimesThatAreSetAreNoWrite) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  for (int i = 0; i < 3; ++i) {
    SetTimes(temp.path(), 1000 + i);
    EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
    EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
  }
  ASSERT_EQ(std::system(("touch " + temp.path()).c_str()), 0);
  EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
}

// The kernel reports it as it reports a write. Tools that copy times set both.
TEST(FileWatch, ModificationTimeThatIsSetAloneIsAWrite) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  const timespec times[] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = 1, .tv_nsec = 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, temp.path().c_str(), times, 0), 0);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

TEST(FileWatch, WithoutWatchingTimesThatAreSetAreAWrite) {
  const TempFile temp("hello");
  const File file = temp.Open();
  SetTimes(temp.path(), 1000);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

TEST(FileWatch, TimesThatWereSetBeforeWatchingAreAWrite) {
  const TempFile temp("hello");
  const File file = temp.Open();
  SetTimes(temp.path(), 1000);
  file.WatchForWrites();
  SetTimes(temp.path(), 2000);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

TEST(FileWatch, OtherAttributesLinksAndNamesAreNoWrite) {
  for (const bool watching : {false, true}) {
    const TempFile temp("hello");
    const File file = temp.Open();
    if (watching) file.WatchForWrites();
    AwaitClockTick();
    ASSERT_EQ(chmod(temp.path().c_str(), 0640), 0);
    EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
    ASSERT_EQ(link(temp.path().c_str(), (temp.path() + "2").c_str()), 0);
    EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
    ASSERT_EQ(rename((temp.path() + "2").c_str(), (temp.path() + "3").c_str()), 0);
    EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
    ASSERT_EQ(unlink((temp.path() + "3").c_str()), 0);
    ASSERT_EQ(unlink(temp.path().c_str()), 0);
    EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
  }
}

TEST(FileWatch, FileWithoutANameIsWatched) {
  const TempFile temp("hello");
  const File file = temp.Open();
  ASSERT_EQ(unlink(temp.path().c_str()), 0);
  file.WatchForWrites();
  const timespec times[] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1, .tv_nsec = 0}};
  ASSERT_EQ(futimens(file.fd(), times), 0);
  EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
}

TEST(FileWatch, WriteInPlaceIsAWriteForEverAfter) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  AwaitClockTick();
  WriteInPlace(temp.path());
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
  SetTimes(temp.path(), 1000);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

TEST(FileWatch, WriteBeforeOrAfterTimesAreSetIsAWrite) {
  for (const bool write_first : {false, true}) {
    const TempFile temp("hello");
    const File file = temp.Open();
    file.WatchForWrites();
    if (write_first) WriteInPlace(temp.path());
    SetTimes(temp.path(), 1000);
    if (!write_first) WriteInPlace(temp.path());
    EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
  }
}

// rsync --inplace --times, and cp --preserve, leave the times that they found at the source.
TEST(FileWatch, WriterThatPutsTheTimesBackIsSeen) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  AwaitClockTick();
  const struct stat before = StatOf(temp.path());
  WriteInPlace(temp.path());
  SetTimes(temp.path(), before.st_mtim);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

// The event of a write() comes after its data, and nothing changes the times any more by then.
TEST(FileWatch, WriteIsSeenThoughTheTimesThatItLeavesWereAccepted) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  SetTimes(temp.path(), 1000);
  ASSERT_EQ(file.CheckUnchanged(), absl::OkStatus());
  const int fd = open(temp.path().c_str(), O_WRONLY);
  AwaitClockTick();
  ASSERT_EQ(pwrite(fd, "j", 1, 0), 1);
  const timespec times[] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
  ASSERT_EQ(futimens(fd, times), 0);
  close(fd);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

TEST(FileWatch, ChangeOfSizeIsAWriteWhateverTheTimesSay) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  const struct stat before = StatOf(temp.path());
  ASSERT_EQ(truncate(temp.path().c_str(), 3), 0);
  SetTimes(temp.path(), before.st_mtim);
  EXPECT_THAT(file.CheckUnchanged(),
              StatusIs(StatusCode::kDataLoss, "its size was 5 bytes and now is 3"));
}

// No event tells of it. The times do, and nothing explains them.
TEST(FileWatch, WriteThroughAMappingIsAWriteAfterAWhile) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  AwaitClockTick();
  const int fd = open(temp.path().c_str(), O_RDWR);
  void* const bytes = mmap(nullptr, 5, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  ASSERT_NE(bytes, MAP_FAILED);
  std::memcpy(bytes, "j", 1);
  ASSERT_EQ(msync(bytes, 5, MS_SYNC), 0);
  munmap(bytes, 5);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kUnavailable, "it is not known yet"));
  absl::Status status;
  do {
    status = file.CheckUnchanged();
  } while (absl::IsUnavailable(status));
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

// Somebody sets the times all the while: each check comes at another step of it.
TEST(FileWatch, TimesThatAreSetWhileTheyAreLookedAtAreNoWrite) {
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();
  std::atomic<bool> stop{false};
  std::thread toucher([&] {
    for (time_t seconds = 1; !stop.load(); ++seconds) SetTimes(temp.path(), seconds);
  });
  std::vector<std::thread> checkers;
  std::atomic<int> settled{0};
  for (int i = 0; i < 2; ++i) {
    checkers.emplace_back([&] {
      for (int check = 0; check < 20000; ++check) {
        const absl::Status status = file.CheckUnchanged();
        // The one who sets them may have lost the processor in between.
        settled += status.ok() ? 1 : 0;
        ASSERT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
      }
    });
  }
  for (std::thread& checker : checkers) checker.join();
  stop.store(true);
  toucher.join();
  EXPECT_GT(settled.load(), 0);
  EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
}

TEST(FileWatch, WhereTheUserMayNotWatchTimesThatAreSetAreAWrite) {
  for (const char* const limit : {"max_inotify_instances", "max_inotify_watches"}) {
    InUserNamespace([&] {
      std::ofstream setting(std::string("/proc/sys/user/") + limit);
      if (!(setting << 0).flush()) _exit(77);
      const TempFile temp("hello");
      const File file = temp.Open();
      file.WatchForWrites();
      EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
      SetTimes(temp.path(), 1000);
      EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo)) << limit;
    });
  }
}

// A queue with room for one event: what follows is lost, and may have been a write.
TEST(FileWatch, AfterLostEventsTimesThatAreSetAreAWrite) {
  const std::string setting = "/proc/sys/fs/inotify/max_queued_events";
  std::string before;
  std::ifstream(setting) >> before;
  if (!(std::ofstream(setting) << 1).flush()) GTEST_SKIP() << setting << " cannot be written to";
  const TempFile temp("hello");
  const File file = temp.Open();
  file.WatchForWrites();  // the limit is that of this moment
  ASSERT_TRUE((std::ofstream(setting) << before).flush());
  ASSERT_EQ(chmod(temp.path().c_str(), 0640), 0);
  WriteInPlace(temp.path());
  SetTimes(temp.path(), 1000);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, kWrittenTo));
}

// One failed fstat() marked the snapshot as changed for ever.
TEST(FileWatch, WhatCannotBeExaminedForAMomentIsReadAgainLater) {
  const TempFile temp(BytesOf(SmallContent()));
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(temp.Open());
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  const int fd = (*snapshot)->file().fd();
  std::vector<uint8_t> page(1024);
  const int saved = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  close(fd);
  EXPECT_THAT((*snapshot)->ReadPages(0, 1024, absl::MakeSpan(page)),
              StatusIs(StatusCode::kUnavailable, ": cannot be examined: Bad file descriptor"));
  ASSERT_EQ(dup2(saved, fd), fd);
  close(saved);
  EXPECT_EQ((*snapshot)->ReadPages(0, 1024, absl::MakeSpan(page)), absl::OkStatus());
}

}  // namespace
}  // namespace ramjet
