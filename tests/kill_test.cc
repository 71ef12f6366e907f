// Loads that end in the middle, at any moment: their process is killed, or they are abandoned.
//
//   bazel run //tests:kill_test -- --runs 1000
//
// Every run ends after a random part of the time that a load takes: the delay is the subject here,
// not a means of synchronisation. Whatever the moment, nothing may be left, and nobody may hang.
#include <fcntl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iostream>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/snapshot_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/kill_testing.h"
#include "tests/loader_testing.h"
#include "tests/slow_source.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr uint64_t kPages = KillTest::kPages;

bool HasContent(uint64_t page) {
  static const std::vector<PageRun> content = KillTest::Content();
  return std::any_of(content.begin(), content.end(),
                     [&](const PageRun& run) { return page >= run.first && page < run.end(); });
}

struct Variant {
  BlockMemory memory;
  int read_delay_us;
};

std::ostream& operator<<(std::ostream& out, const Variant& variant) {
  return out << (variant.memory == BlockMemory::kShared ? "shared" : "private") << " memory, reads "
             << variant.read_delay_us << " us longer";
}

constexpr Variant kVariants[] = {{BlockMemory::kPrivate, 0},
                                 {BlockMemory::kShared, 0},
                                 {BlockMemory::kPrivate, 500},
                                 {BlockMemory::kShared, 500}};

// --- killed ---

std::vector<std::string> ClientCommand(const std::string& snapshot, const Variant& variant) {
  return {"tests/kill_client", snapshot,
          variant.memory == BlockMemory::kShared ? "shared" : "private",
          std::to_string(variant.read_delay_us)};
}

TEST_F(KillTest, AProcessKilledInALoadLeavesNothing) {
  std::mt19937_64 random(std::random_device{}());
  absl::Duration longest;
  int in_the_middle = 0;
  for (const Variant& variant : kVariants) {
    const std::vector<std::string> command = ClientCommand(snapshot_, variant);
    absl::Duration load;
    for (int run = -1; run < RunsInAll() / static_cast<int>(std::size(kVariants)); ++run) {
      const Child child = Start(command, directory_);
      ASSERT_EQ(child.Hear(kPatience), 'r') << variant;
      const absl::Time began = absl::Now();
      bool complete = false;
      if (run < 0) {
        // The first is not disturbed: it says how long a load takes.
        ASSERT_EQ(child.Hear(kPatience), 'd') << variant;
        load = absl::Now() - began;
        complete = true;
      } else {
        absl::SleepFor(Part(random, load));
      }
      int status = 0;
      const absl::Duration took = Kill(child, status);
      EXPECT_TRUE(WIFSIGNALED(status)) << "ended by itself, status " << status << ", " << variant;
      EXPECT_LT(took, kHang) << variant;
      longest = std::max(longest, took);
      if (!complete) complete = child.Hear(absl::ZeroDuration()) == 'd';
      in_the_middle += !complete;
      close(child.out);
      // Its threads and descriptors went with it, memory that it shared with nobody too.
      ASSERT_FALSE(std::filesystem::exists("/proc/" + std::to_string(child.pid) + "/task"))
          << variant;
      ASSERT_THAT(Files(), ElementsAre("vm.mr")) << variant;
    }
  }
  std::cout << in_the_middle << " of " << RunsInAll()
            << " killed in the middle of a load; longest from kill to reaped: " << longest << "\n";
  EXPECT_GT(in_the_middle, RunsInAll() / 4);
}

// --- abandoned ---

// Reads pages by system calls, which are refused where a guest would be ended by a signal.
class Reader {
 public:
  Reader(const GuestMemory& memory, uint64_t seed)
      : memory_(memory), random_(seed), page_(HostPageBytes()), expected_(HostPageBytes()) {
    EXPECT_EQ(pipe2(pipe_, O_CLOEXEC), 0);
  }
  ~Reader() {
    close(pipe_[0]);
    close(pipe_[1]);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // False if the kernel refuses; a page that it gives is the snapshot's.
  bool ReadRandomPage() { return ReadPage(random_() % kPages); }
  bool ReadPage(uint64_t page) {
    const auto bytes = static_cast<ssize_t>(HostPageBytes());
    void* const from = memory_.data() + page * HostPageBytes();
    if (random_() % 2 == 0) {
      const iovec local{.iov_base = page_.data(), .iov_len = page_.size()};
      const iovec remote{.iov_base = from, .iov_len = page_.size()};
      if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != bytes) return false;
    } else {
      if (write(pipe_[1], from, page_.size()) != bytes) return false;
      EXPECT_EQ(read(pipe_[0], page_.data(), page_.size()), bytes);
    }
    if (HasContent(page)) {
      FillPagePattern(page, absl::MakeSpan(expected_));
    } else {
      std::fill(expected_.begin(), expected_.end(), uint8_t{0});
    }
    EXPECT_TRUE(page_ == expected_) << "page " << page;
    return true;
  }

 private:
  const GuestMemory& memory_;
  std::mt19937_64 random_;
  std::vector<uint8_t> page_;
  std::vector<uint8_t> expected_;
  int pipe_[2];
};

struct AbandonedLoad {
  absl::Duration whole;  // how long it took if it came to its end
  absl::Duration ending;
  bool complete;
};

// A load with three guests that is abandoned after `delay`, or waited for.
AbandonedLoad RunAndAbandon(const std::string& path, const Variant& variant, absl::Duration delay) {
  AbandonedLoad result{};
  const std::shared_ptr<Snapshot> snapshot = *Snapshot::Open(*File::Open(path));
  const SlowSource source(*snapshot, absl::Microseconds(variant.read_delay_us));
  const GuestMemory memory(kPages * HostPageBytes(), variant.memory);
  const absl::Time began = absl::Now();
  auto loader = *SnapshotLoader::Create(snapshot, {}, &source);
  const absl::Status attached =
      loader->Attach(0, {.host = memory.data(), .memory = variant.memory});
  EXPECT_TRUE(attached.ok()) << attached;
  std::atomic<bool> stop{false};
  std::vector<std::thread> guests;
  for (uint64_t guest = 0; guest < 3; ++guest) {
    guests.emplace_back([&, guest] {
      Reader reader(memory, guest);
      while (!stop && reader.ReadRandomPage()) {
      }
    });
  }
  std::thread waiter([&] {
    // Whoever waits learns of the end.
    const absl::Status waited = loader->Wait();
    EXPECT_TRUE(waited.ok() || absl::IsCancelled(waited)) << waited;
  });
  EXPECT_TRUE(loader->StartEager().ok());
  if (delay == absl::InfiniteDuration()) {
    EXPECT_TRUE(loader->Wait().ok());
  } else {
    absl::SleepFor(delay);
  }
  const absl::Time ending = absl::Now();
  result.whole = ending - began;
  loader->Abandon();
  // Guests that slept on a page have to come back by themselves; whether it was complete is known
  // only now.
  result.complete = loader->complete();
  stop = true;
  for (std::thread& guest : guests) guest.join();
  waiter.join();
  result.ending = absl::Now() - ending;
  Reader reader(memory, 0);
  int readable = 0;
  for (uint64_t page = 0; page < kPages; ++page) readable += reader.ReadPage(page);
  // Complete and yet inaccessible: the last page came after Abandon() had decided.
  if (readable != 0) {
    EXPECT_TRUE(result.complete && readable == static_cast<int>(kPages))
        << readable << " pages of a load that is not complete can be read";
  }
  // A thread that was joined is in /proc for a moment more.
  for (const absl::Time joined = absl::Now();
       !OurThreads().empty() && absl::Now() - joined < kHang;) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
  EXPECT_EQ(OpenUserfaultfds(), 0);
  return result;
}

TEST_F(KillTest, ALoadAbandonedInTheMiddleLeavesNothing) {
  std::mt19937_64 random(std::random_device{}());
  absl::Duration longest;
  int in_the_middle = 0;
  for (const Variant& variant : kVariants) {
    SCOPED_TRACE(variant);
    const absl::Duration load = RunAndAbandon(snapshot_, variant, absl::InfiniteDuration()).whole;
    for (int run = 0; run < RunsInAll() / static_cast<int>(std::size(kVariants)); ++run) {
      alarm(60);  // a hang ends the test
      const AbandonedLoad result = RunAndAbandon(snapshot_, variant, Part(random, load));
      alarm(0);
      EXPECT_LT(result.ending, kHang);
      longest = std::max(longest, result.ending);
      in_the_middle += !result.complete;
      ASSERT_THAT(Files(), ElementsAre("vm.mr"));
      if (HasFailure()) return;
    }
  }
  std::cout << in_the_middle << " of " << RunsInAll()
            << " abandoned in the middle of a load; longest until all had come back: " << longest
            << "\n";
  EXPECT_GT(in_the_middle, RunsInAll() / 4);
}

}  // namespace
}  // namespace ramjet
