// A snapshot that somebody writes to while it is loaded. The writers are real processes.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/snapshot_lease.h"
#include "loader/snapshot_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kPages = 1024;
constexpr PageRun kContent = {8, 1000};

// So little is loaded ahead that nothing comes by itself before a test has ended.
constexpr uint64_t kHardlyAnything = 1;

// Another process, which does one thing and says when it has done it.
class Writer {
 public:
  explicit Writer(const std::function<bool()>& act) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    child_ = fork();
    if (child_ == 0) {
      const bool done = act();
      (void)!write(ends[1], &done, sizeof(done));
      _exit(0);
    }
    close(ends[1]);
    done_fd_ = ends[0];
  }
  ~Writer() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    close(done_fd_);
  }

  // Waits until it has; whether it could.
  bool Await() const {
    bool done = false;
    return read(done_fd_, &done, sizeof(done)) == sizeof(done) && done;
  }

 private:
  pid_t child_;
  int done_fd_;
};

class SnapshotLeaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    path_ = ::testing::TempDir() + "/lease_XXXXXX";
    close(mkstemp(path_.data()));
    SnapshotContent content;
    content.blocks.push_back({.idstr = "ram",
                              .used_length = kPages * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = {kContent}});
    ASSERT_TRUE(WriteSnapshot(content, path_).ok());
  }
  void TearDown() override { unlink(path_.c_str()); }

  void Load(const SnapshotLoader::Options& options, bool faulty = false) {
    std::shared_ptr<Snapshot> snapshot = *Snapshot::Open(*File::Open(path_));
    if (faulty) source_ = std::make_unique<FaultySource>(*snapshot);
    auto loader = SnapshotLoader::Create(std::move(snapshot), options, source_.get());
    ASSERT_TRUE(loader.ok()) << loader.status();
    loader_ = *std::move(loader);
    const absl::Status attached = loader_->Attach(0, memory_.mapping());
    ASSERT_TRUE(attached.ok()) << attached;
    (void)loader_->Wait(absl::ZeroDuration());  // with the lease, or a reason why there is none
  }

  int fd() const { return loader_->snapshot().file().fd(); }
  void AwaitLease() const {
    for (int i = 0; fcntl(fd(), F_GETLEASE) != F_RDLCK; ++i) {
      ASSERT_LT(i, 10000) << "no lease";
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  bool MayBeWrittenTo() const {
    const int written = open(path_.c_str(), O_WRONLY | O_NONBLOCK);
    if (written >= 0) close(written);
    return written >= 0;
  }
  void ExpectContent() const {
    for (uint64_t page = 0; page < kPages; ++page) {
      const bool has_content = page >= kContent.first && page < kContent.end();
      ASSERT_TRUE(has_content ? memory_.HoldsPattern(page) : memory_.HoldsZeros(page)) << page;
    }
  }

  std::string path_;
  GuestMemory memory_{kPages * HostPageBytes(), MemoryKind::kPrivate};
  std::unique_ptr<FaultySource> source_;
  std::unique_ptr<SnapshotLoader> loader_;
};

// libvirtd opens an image with O_TRUNC before QEMU hears of it: `virsh restore F; virsh save DOM F`
// lost the guest and the image.
TEST_F(SnapshotLeaseTest, WhoeverWritesWaitsUntilEverythingIsLoaded) {
  const std::vector<std::function<bool()>> ways = {
      [this] { return open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600) >= 0; },
      [this] {
        const int opened = open(path_.c_str(), O_RDWR);
        return pwrite(opened, "other", 5, 0) == 5;
      },
      [this] { return truncate(path_.c_str(), 0) == 0; }};
  for (size_t way = 0; way < ways.size(); ++way) {
    for (const bool eager : {false, true}) {
      TearDown();
      SetUp();
      Load({.eager_bytes_per_s = kHardlyAnything});
      ASSERT_TRUE(!eager || loader_->StartEager().ok());
      AwaitLease();
      EXPECT_FALSE(loader_->complete());
      {
        const Writer writer(ways[way]);
        EXPECT_TRUE(writer.Await()) << way;
        EXPECT_TRUE(loader_->complete()) << way;
      }
      ExpectContent();
      EXPECT_THAT(loader_->stats().notes(),
                  ElementsAre(HasSubstr(": somebody wants to write to it, and waits")));
      EXPECT_THAT(loader_->stats().errors(), IsEmpty());
      loader_.reset();
    }
  }
}

std::atomic<int> signals_seen{0};

// The kernel announces a writer by a signal, which is for nobody but us.
TEST_F(SnapshotLeaseTest, VmmSeesNoSignal) {
  struct sigaction counted {};
  counted.sa_handler = [](int) { ++signals_seen; };
  struct sigaction before {};
  ASSERT_EQ(sigaction(SIGIO, &counted, &before), 0);
  Load({.eager_bytes_per_s = kHardlyAnything});
  AwaitLease();
  EXPECT_TRUE(Writer([this] { return truncate(path_.c_str(), 0) == 0; }).Await());
  EXPECT_EQ(signals_seen.load(), 0);
  sigset_t pending;
  ASSERT_EQ(sigpending(&pending), 0);
  EXPECT_FALSE(sigismember(&pending, SIGIO));
  ASSERT_EQ(sigaction(SIGIO, &before, nullptr), 0);
}

// The VMM's own thread waits for its own lease then.
TEST_F(SnapshotLeaseTest, VmmThatWritesByItselfWaits) {
  Load({.eager_bytes_per_s = kHardlyAnything});
  AwaitLease();
  const int opened = open(path_.c_str(), O_WRONLY | O_TRUNC);
  EXPECT_GE(opened, 0);
  close(opened);
  EXPECT_TRUE(loader_->complete());
  ExpectContent();
}

TEST_F(SnapshotLeaseTest, ReadersWaitForNobody) {
  Load({.eager_bytes_per_s = kHardlyAnything});
  AwaitLease();
  EXPECT_TRUE(File::Open(path_).ok());
  EXPECT_EQ(fcntl(fd(), F_GETLEASE), F_RDLCK);
  EXPECT_FALSE(MayBeWrittenTo());
  EXPECT_TRUE(loader_->Wait().ok());
}

TEST_F(SnapshotLeaseTest, DetachGivesItBackThoughAForkedChildHasTheDescriptor) {
  Load({});
  AwaitLease();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Writer child([&] { return read(ends[0], ends, 1) == 1; });
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  ASSERT_TRUE(loader_->Detach().ok());
  EXPECT_TRUE(MayBeWrittenTo());
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
  f_owner_ex owner{};
  EXPECT_EQ(fcntl(fd(), F_GETOWN_EX, &owner), 0);
  EXPECT_EQ(owner.pid, 0);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(SnapshotLeaseTest, AbandonGivesItBackThoughNotEverythingIsLoaded) {
  Load({.eager_threads = 1}, /*faulty=*/true);
  AwaitLease();
  source_->Hold(kContent.first);
  const Writer writer([this] { return truncate(path_.c_str(), 0) == 0; });
  source_->AwaitHeld(kContent.first);
  std::thread abandons([this] { loader_->Abandon(); });
  EXPECT_TRUE(absl::IsCancelled(loader_->Wait()));
  source_->Release(kContent.first);
  EXPECT_TRUE(writer.Await());
  abandons.join();
  EXPECT_TRUE(MayBeWrittenTo());
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
}

TEST_F(SnapshotLeaseTest, WhereSomebodyHasItOpenForWritingItIsLoadedAtFullSpeed) {
  const int opened = open(path_.c_str(), O_RDWR);
  Load({.eager_bytes_per_s = kHardlyAnything});
  ASSERT_TRUE(loader_->StartEager().ok());
  EXPECT_TRUE(loader_->Wait(absl::Minutes(1)).ok());
  EXPECT_THAT(
      loader_->stats().notes(),
      ElementsAre(HasSubstr(": there is no lease on it (somebody has the file open for writing): "
                            "whoever writes to it before it is loaded ends the VM; so it is loaded "
                            "at full speed, whatever the rate")));
  close(opened);
  ExpectContent();
}

// Threads that begin meanwhile cannot take a lease on the files of others.
void WithoutCapLease(const std::function<void()>& act) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct before[2];
  ASSERT_EQ(syscall(SYS_capget, &header, before), 0);
  __user_cap_data_struct without[2] = {before[0], before[1]};
  without[0].effective &= ~(1u << CAP_LEASE);
  ASSERT_EQ(syscall(SYS_capset, &header, without), 0);
  act();
  ASSERT_EQ(syscall(SYS_capset, &header, before), 0);
}

TEST_F(SnapshotLeaseTest, WhereItIsNotTheOwnersItIsLoadedAtFullSpeed) {
  if (chown(path_.c_str(), 65534, 65534) != 0) GTEST_SKIP() << "only root has files of others";
  WithoutCapLease([this] { Load({.eager_bytes_per_s = kHardlyAnything}); });
  ASSERT_TRUE(loader_->StartEager().ok());
  EXPECT_TRUE(loader_->Wait(absl::Minutes(1)).ok());
  EXPECT_THAT(loader_->stats().notes(),
              ElementsAre(HasSubstr("there is no lease on it (it takes the file's owner or "
                                    "CAP_LEASE): whoever writes to it")));
  ExpectContent();
}

// An open file that the VMM uses, too, where it cannot be opened once more.
TEST_F(SnapshotLeaseTest, OpenFileThatSendsTheVmmSignalsIsLeftAlone) {
  const File file = *File::Open(path_);
  ASSERT_EQ(fcntl(file.fd(), F_SETSIG, SIGRTMIN), 0);
  absl::Mutex mu;
  absl::Status refused;
  {
    auto lease = SnapshotLease::Start(file, {.refused =
                                                 [&](const absl::Status& why) {
                                                   absl::MutexLock lock(&mu);
                                                   refused = why;
                                                 },
                                             .broken = [] {}});
    ASSERT_TRUE(lease.ok()) << lease.status();
    absl::MutexLock lock(&mu);
    mu.Await(absl::Condition(
        +[](absl::Status* status) { return !status->ok(); }, &refused));
  }
  EXPECT_THAT(std::string(refused.message()), HasSubstr("signals"));
  EXPECT_EQ(fcntl(file.fd(), F_GETLEASE), F_UNLCK);
  EXPECT_EQ(fcntl(file.fd(), F_GETSIG), SIGRTMIN);
}

// `touch`, or rsync and tar that round times, made every page that was left unreadable.
TEST_F(SnapshotLeaseTest, TimesThatAreSetWhileItIsLoadedDoNoHarm) {
  Load({});
  EXPECT_TRUE(memory_.HoldsPattern(kContent.first));
  const timespec times[] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  ExpectContent();
  EXPECT_TRUE(loader_->complete());
  EXPECT_EQ(loader_->stats().poisoned, 0u);
}

}  // namespace
}  // namespace ramjet
