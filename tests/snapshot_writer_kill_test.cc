// Whatever moment a writer is killed at, what it leaves is refused, or is whole. A child process
// writes; it ends itself in each of its writes in turn, or is killed from outside at any time. What
// it had written by then has no name: it is given one in front of each write, for us to look at.
//
//   bazel run //tests:snapshot_writer_kill_test -- --runs 1000
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/aligned_buffer.h"
#include "mappedram/file.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"
#include "tests/mappedram_testing.h"

namespace ramjet {

int g_runs = 200;  // of buffered writing

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPages = 3072;

// With and without direct writes, several of which are under way at any time.
class SnapshotWriterKill : public testing::TestWithParam<bool> {
 protected:
  SnapshotWriterKill()
      : directory_(testing::TempDir() + "/kill_XXXXXX"),
        memory_(kPages * kPage),
        ram_(memory_.first(kPages * kPage)) {
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
    // Every other page of a few, for many small writes; and stretches of nothing but zeros.
    for (uint64_t page = 0; page < kPages; page += page % 1024 < 80 ? 2 : 1024 - page % 1024) {
      ram_[page * kPage + page % kPage] = 1;
    }
  }
  ~SnapshotWriterKill() override { std::filesystem::remove_all(directory_); }

  std::string PathOf(const char* name) const { return absl::StrCat(directory_, "/", name); }

  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      names.push_back(entry.path().filename());
    }
    return names;
  }

  // Writes "vm.mr", calling `before_write` in front of each write.
  absl::Status Write(unsigned threads, std::function<absl::Status(int fd)> before_write,
                     const RamSource* source = nullptr) {
    const MemorySource memory(ram_);
    SnapshotWriter writer(*EncodeStream({.devices = {{"timer", 0, 1, "tick"},
                                                     {"cpu", 0, 1, std::string(9000, 'c')}}}),
                          {{.idstr = "ram",
                            .used_length = ram_.size(),
                            .page_size = kPage,
                            .source = source != nullptr ? source : &memory}},
                          {.threads = threads,
                           .direct = GetParam(),
                           .checksums_path = PathOf("vm.crc"),
                           .before_write = std::move(before_write)});
    return writer.Write(PathOf("vm.mr"));
  }

  static bool AThreadIsLeft() {
    for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::getline(std::ifstream(thread.path() / "comm"), name);
      if (name.starts_with("ramjet")) return true;
    }
    return false;
  }

  // Runs `body` in a child and returns how that ended.
  template <typename Body>
  pid_t Fork(Body body) {
    // A thread that a writer of this process has left behind may hold a lock of a sanitizer's
    // allocator, which nobody would release in the child: it hung there.
    while (AThreadIsLeft()) std::this_thread::yield();
    const pid_t child = fork();
    if (child == 0) {
      body();
      _exit(0);
    }
    return child;
  }

  // Gives the file that is being written the name "seen".
  void Show(int fd) const {
    const std::string file = absl::StrCat("/proc/self/fd/", fd);
    if (linkat(AT_FDCWD, file.c_str(), AT_FDCWD, PathOf("seen").c_str(), AT_SYMLINK_FOLLOW) != 0) {
      abort();
    }
  }

  // Refused, or all there.
  void ExpectNoLie(const std::string& path, int64_t when) const {
    absl::StatusOr<File> file = File::Open(path);
    if (!file.ok()) return;
    absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
    if (!snapshot.ok()) return;
    std::vector<uint8_t> content(ram_.size());
    ASSERT_TRUE(SnapshotSource(**snapshot, 0).Read(0, absl::MakeSpan(content)).ok());
    ASSERT_TRUE(absl::MakeConstSpan(content) == ram_) << path << " lies, " << when;
    ASSERT_EQ((*snapshot)->description().devices.size(), 2) << when;
    ++whole_;
  }

  std::string directory_;
  AlignedBuffer memory_;
  const absl::Span<uint8_t> ram_;  // all of memory_
  mutable int whole_ = 0;
};

// Before its write number `last`, the file as it is gets the name "seen", and the process ends.
TEST_P(SnapshotWriterKill, EndInAnyWriteLeavesNothingThatLies) {
  int writes = 0;
  ASSERT_TRUE(Write(1, [&](int) { return ++writes, absl::OkStatus(); }).ok());
  ASSERT_GT(writes, 100);
  std::filesystem::remove(PathOf("vm.mr"));
  std::filesystem::remove(PathOf("vm.crc"));
  for (int last = 1; last <= writes; ++last) {
    const pid_t child = Fork([&] {
      int count = 0;
      (void)Write(1, [&](int fd) {
        if (++count < last) return absl::OkStatus();
        Show(fd);
        raise(SIGKILL);
        return absl::OkStatus();
      });
    });
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    ExpectNoLie(PathOf("seen"), last);
    std::filesystem::remove(PathOf("seen"));
    ASSERT_THAT(Files(), testing::IsEmpty()) << last;
  }
  // Once the last byte is written: the sync behind it, and the name.
  EXPECT_EQ(whole_, 2);
}

TEST_P(SnapshotWriterKill, KilledAtAnyTimeByAnotherLeavesNothingThatLies) {
  // Where the child keeps how far it is, so that it is killed while it writes and not before.
  auto* const writes = static_cast<std::atomic<int>*>(
      mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(writes, MAP_FAILED);
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  int killed = 0;
  // Direct writes take their time: each waits for the disk.
  const int runs = GetParam() ? g_runs / 4 : g_runs;
  for (int run = 0; run < runs; ++run) {
    writes->store(0);
    const pid_t child = Fork([&] {
      (void)Write(2, [&](int fd) {
        if (writes->fetch_add(1) == 0) {
          Show(fd);
        }
        return absl::OkStatus();
      });
    });
    ASSERT_GT(child, 0);
    const int until = static_cast<int>(random() % 140);
    const auto spins = static_cast<uint32_t>(random() % 20000);
    siginfo_t ended{};  // and not waited for, so that its number stays its own
    while (writes->load() < until && ended.si_pid == 0) {
      waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT);
      sched_yield();
    }
    for (uint32_t spin = 0; spin < spins; ++spin) writes->load();
    kill(child, SIGKILL);
    int status = 0;
    if (waitpid(child, &status, 0) == child && WIFSIGNALED(status)) ++killed;
    ExpectNoLie(PathOf("seen"), run);
    if (access(PathOf("vm.mr").c_str(), F_OK) == 0) {
      const int whole = whole_;
      ExpectNoLie(PathOf("vm.mr"), run);
      EXPECT_EQ(whole_, whole + 1) << "what has its name is whole";
    }
    for (const std::string& name : Files()) std::filesystem::remove(PathOf(name.c_str()));
  }
  munmap(writes, kPage);
  EXPECT_GT(killed, runs / 4);
}

TEST_P(SnapshotWriterKill, FailingWriteIsOneLineAndLeavesWhatWasThere) {
  std::atomic<int> writes{0};
  ASSERT_TRUE(Write(2, [&](int) { return ++writes, absl::OkStatus(); }).ok());
  const ino_t inode = File::Open(PathOf("vm.mr"))->inode();
  for (int last = 1; last <= writes; last += last < writes - 12 ? 7 : 1) {
    std::atomic<int> count{0};
    const absl::Status failed = Write(2, [&](int) {
      return ++count >= last ? absl::ResourceExhaustedError("no space") : absl::OkStatus();
    });
    EXPECT_EQ(failed, absl::ResourceExhaustedError("no space")) << last;
    EXPECT_EQ(File::Open(PathOf("vm.mr"))->inode(), inode);
    EXPECT_THAT(Files(), testing::UnorderedElementsAre("vm.mr", "vm.crc"));
  }
}

TEST_P(SnapshotWriterKill, LimitOnTheSizeOfFilesIsNoSignal) {
  const pid_t child = Fork([&] {
    const rlimit limit{.rlim_cur = 6 << 20, .rlim_max = 6 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status failed = Write(2, nullptr);
    const bool good =
        failed.message() == absl::StrCat(PathOf("vm.mr"), ": cannot be written: File too large");
    _exit(good && Files().empty() ? 0 : 1);
  });
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Where the checksums are to be is a directory by the time that they are named, the last of all.
TEST_P(SnapshotWriterKill, FileWhoseChecksumsCannotBeNamedHasNoNameEither) {
  int writes = 0;
  ASSERT_TRUE(Write(1, [&](int) { return ++writes, absl::OkStatus(); }).ok());
  for (const std::string& name : Files()) std::filesystem::remove(PathOf(name.c_str()));
  int count = 0;
  const absl::Status failed = Write(1, [&](int) {
    if (++count == writes) std::filesystem::create_directory(PathOf("vm.crc"));
    return absl::OkStatus();
  });
  EXPECT_EQ(failed.message(),
            absl::StrCat(PathOf("vm.crc"), ": cannot be given its name: Is a directory"));
  EXPECT_THAT(Files(), testing::ElementsAre("vm.crc"));
}

// The old snapshot had its checksums beside it, and was as good as ever.
TEST_P(SnapshotWriterKill, FileWhoseChecksumsCannotBeNamedReplacesNothing) {
  int writes = 0;
  ASSERT_TRUE(Write(1, [&](int) { return ++writes, absl::OkStatus(); }).ok());
  const ino_t inode = File::Open(PathOf("vm.mr"))->inode();
  std::filesystem::remove(PathOf("vm.crc"));
  int count = 0;
  ASSERT_FALSE(Write(1, [&](int) {
                 if (++count == writes) std::filesystem::create_directory(PathOf("vm.crc"));
                 return absl::OkStatus();
               }).ok());
  EXPECT_EQ(File::Open(PathOf("vm.mr"))->inode(), inode);
  EXPECT_THAT(Files(), testing::UnorderedElementsAre("vm.mr", "vm.crc"));
}

// As of a disk that goes, or a file that is cut off.
class FailingSource : public RamSource {
 public:
  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override {
    return Extent{offset, limit - offset};
  }
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override {
    if (offset >= 4 << 20) return absl::DataLossError("raw.img: ends early");
    std::fill(buffer.begin(), buffer.end(), uint8_t{1});
    return absl::OkStatus();
  }
};

TEST_P(SnapshotWriterKill, SourceThatFailsEndsTheWriting) {
  const FailingSource source;
  EXPECT_THAT(Write(3, nullptr, &source), StatusIs(absl::StatusCode::kDataLoss, "raw.img: ends"));
  EXPECT_THAT(Files(), testing::IsEmpty());
}

TEST_P(SnapshotWriterKill, CancelledWritingLeavesNothing) {
  const MemorySource memory(ram_);
  std::unique_ptr<SnapshotWriter> writer;
  std::atomic<int> writes{0};
  writer = std::make_unique<SnapshotWriter>(
      *EncodeStream({}),
      std::vector<NewBlock>{
          {.idstr = "ram", .used_length = ram_.size(), .page_size = kPage, .source = &memory}},
      SnapshotWriter::Options{.threads = 1, .direct = GetParam(), .before_write = [&](int) {
                                if (++writes == 5) writer->Cancel();
                                return absl::OkStatus();
                              }});
  EXPECT_THAT(writer->Write(PathOf("vm.mr")),
              StatusIs(absl::StatusCode::kCancelled, "vm.mr: its writing was cancelled"));
  EXPECT_LT(writer->progress().done, writer->progress().total);
  EXPECT_LT(writes.load(), 60);  // what is begun is ended, and no more is
  EXPECT_THAT(Files(), testing::IsEmpty());
}

TEST_P(SnapshotWriterKill, WhatIsNoRegularFileIsNotReplaced) {
  ASSERT_EQ(symlink("nowhere", PathOf("vm.mr").c_str()), 0);
  EXPECT_THAT(Write(1, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, "vm.mr: is there, and no regular file"));
}

INSTANTIATE_TEST_SUITE_P(All, SnapshotWriterKill, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& test) {
                           return test.param ? "Direct" : "Buffered";
                         });

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc == 3 && std::string(argv[1]) == "--runs") ramjet::g_runs = std::atoi(argv[2]);
  return RUN_ALL_TESTS();
}
