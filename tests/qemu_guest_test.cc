// What a guest itself sees of a lazy load: it checks its own memory all the time, while pages
// arrive, while it is saved again, and while a balloon or free page reporting takes pages away.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/qemu_testing.h"
#include "tools/fd.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

// Threads of ours in that process; their names begin with "ramjet".
int OurThreads(pid_t pid) {
  int count = 0;
  std::error_code error;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"), error)) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (absl::StartsWith(name, "ramjet")) ++count;
  }
  return count;
}

// Descriptors of that process which refer to `target` (or begin so).
int DescriptorsOf(pid_t pid, const std::string& target) {
  int count = 0;
  std::error_code error;
  for (const auto& fd :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), error)) {
    if (absl::StartsWith(std::filesystem::read_symlink(fd.path(), error).string(), target)) ++count;
  }
  return count;
}

class QemuGuest : public testing::Test {
 protected:
  static void SetUpTestSuite() { BootAndSave(1024, 424); }

  // `pause`: where the guest is saved (GuestOptions::pauses); empty: anywhere after READY.
  static void BootAndSave(uint64_t memory_mib, uint64_t fill_mib, const std::string& pause = "") {
    if (!WhyNoQemu().empty()) return;
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    guest_.memory_mib = memory_mib;
    guest_.fill_mib = fill_mib;
    guest_.churn_mib = 32;
    guest_.pauses = pause;
    const absl::StatusOr<std::vector<std::string>> modules = FindBalloonModules();
    if (modules.ok()) {
      guest_.devices = {"-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on"};
    } else {
      why_no_balloon_ = std::string{modules.status().message()};
    }
    const absl::StatusOr<std::unique_ptr<SourceGuest>> source = SourceGuest::Boot(
        guest_, scratch_->File("initramfs"), modules.value_or(std::vector<std::string>()));
    ASSERT_TRUE(source.ok()) << source.status();
    const absl::Status filled =
        pause.empty() ? (*source)->WaitUntilFilled() : WaitForPause((*source)->qemu());
    ASSERT_TRUE(filled.ok()) << filled;
    snapshot_ = scratch_->File("guest.mr");
    const absl::Status saved = SaveMappedRam((*source)->qemu(), "file:" + snapshot_);
    ASSERT_TRUE(saved.ok()) << saved;
  }

  static void TearDownTestSuite() { scratch_ = nullptr; }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_FALSE(snapshot_.empty());
  }

  // A running guest, loaded lazily from `file`, with its statistics going to stats_path_.
  std::unique_ptr<QemuProcess> Resume(const std::string& file,
                                      const std::vector<std::string>& ramjet_flags = {},
                                      const std::vector<std::string>& args = {}) {
    TargetOptions options;
    options.guest = guest_;
    options.args = args;
    options.paused = false;
    options.stats_path = stats_path_;
    options.ramjet_flags = ramjet_flags;
    absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
    EXPECT_TRUE(qemu.ok()) << qemu.status();
    if (!qemu.ok()) return nullptr;
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, "file:" + file);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (!loaded.ok()) return nullptr;
    // One that had paused itself is paused where it is loaded.
    if (!guest_.pauses.empty()) {
      EXPECT_TRUE((*qemu)->Execute("cont").ok());
    }
    return *std::move(qemu);
  }

  void ExpectCompletes(const QemuProcess& qemu) {
    const absl::StatusOr<nlohmann::json> stats = WaitForCompleteStats(stats_path_, Soon());
    ASSERT_TRUE(stats.ok()) << stats.status() << qemu.Stderr();
    EXPECT_EQ(BlockStats(*stats, "pc.ram").value("lazy", nlohmann::json()), true)
        << stats->dump(2) << qemu.Stderr();
    EXPECT_EQ(NumberAt(*stats, "/pages/poisoned"), 0) << stats->dump(2);
    stats_ = *stats;
  }

  // Asks for a guest of that size, and returns when the balloon has made it so.
  static void Balloon(QemuProcess& qemu, uint64_t memory_mib) {
    const int64_t bytes = static_cast<int64_t>(memory_mib) << 20;
    const auto asked = qemu.Execute("balloon", {{"value", bytes}});
    ASSERT_TRUE(asked.ok()) << asked.status();
    const bool reached = Eventually(qemu, [&] {
      const auto now = qemu.Execute("query-balloon");
      return now.ok() && NumberAt(*now, "/actual") == static_cast<double>(bytes);
    });
    EXPECT_TRUE(reached) << "the guest did not get to " << memory_mib << " MiB";
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static GuestOptions guest_;
  static std::string why_no_balloon_;
  static std::string snapshot_;
  const std::string stats_path_ = scratch_ == nullptr ? "" : scratch_->File("stats.json");
  nlohmann::json stats_;
};

std::unique_ptr<ScratchDir> QemuGuest::scratch_;
GuestOptions QemuGuest::guest_;
std::string QemuGuest::why_no_balloon_;
std::string QemuGuest::snapshot_;

// Invariants 1 and 7.
TEST_F(QemuGuest, RunsOnByItselfAfterTheLoad) {
  const std::string file = scratch_->File("deleted.mr");
  std::error_code error;
  std::filesystem::copy_file(snapshot_, file, error);
  ASSERT_FALSE(error) << error.message();
  const std::unique_ptr<QemuProcess> qemu = Resume(file);
  ASSERT_NE(qemu, nullptr);
  ASSERT_NO_FATAL_FAILURE(ExpectCompletes(*qemu));
  unlink(file.c_str());

  EXPECT_TRUE(Eventually(*qemu, [&] { return OurThreads(qemu->pid()) == 0; }));
  EXPECT_TRUE(Eventually(
      *qemu, [&] { return DescriptorsOf(qemu->pid(), "anon_inode:[userfaultfd]") == 0; }));
  EXPECT_TRUE(Eventually(*qemu, [&] { return DescriptorsOf(qemu->pid(), file) == 0; }));
  const absl::Status good = ExpectGoodSums(*qemu, 3);
  EXPECT_TRUE(good.ok()) << good;
}

TEST_F(QemuGuest, StopAndContWhileItLoads) {
  const std::unique_ptr<QemuProcess> qemu = Resume(snapshot_, {"--eager=off"});
  ASSERT_NE(qemu, nullptr);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(qemu->Execute("stop").ok());
    ASSERT_TRUE(qemu->Execute("cont").ok());
    const absl::Status good = ExpectGoodSums(*qemu, 1);
    EXPECT_TRUE(good.ok()) << good;
  }
}

// Without eager threads the load is under way until the second save itself has touched every page.
TEST_F(QemuGuest, SavedAgainWhileItLoads) {
  const std::string again = scratch_->File("again.mr");
  {
    const std::unique_ptr<QemuProcess> qemu = Resume(snapshot_, {"--eager=off"});
    ASSERT_NE(qemu, nullptr);
    EXPECT_GT(OurThreads(qemu->pid()), 0);
    const absl::Status saved = SaveMappedRam(*qemu, "file:" + again);
    ASSERT_TRUE(saved.ok()) << saved;
  }
  const std::unique_ptr<QemuProcess> reloaded = Resume(again);
  ASSERT_NE(reloaded, nullptr);
  const absl::Status good = ExpectGoodSums(*reloaded, 2);
  EXPECT_TRUE(good.ok()) << good;
  ExpectCompletes(*reloaded);
}

// Until a process has a lease on the file, for ten seconds at most.
bool AwaitLease(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return false;
  const std::string inode = absl::StrCat(":", info.st_ino, " ");
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  for (; absl::Now() < deadline; absl::SleepFor(absl::Milliseconds(1))) {
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
      if (absl::StrContains(line, " LEASE ") && absl::StrContains(line, inode)) return true;
    }
  }
  return false;
}

// `virsh restore F; virsh save DOM F`: libvirtd opens the image with O_TRUNC before QEMU hears of
// it, and the guest and its image were lost.
TEST_F(QemuGuest, SavedAgainToTheImageThatItIsLoadedFromAsLibvirtDoes) {
  const std::string file = scratch_->File("image.mr");
  std::error_code error;
  std::filesystem::copy_file(snapshot_, file, error);
  ASSERT_FALSE(error) << error.message();
  {
    const std::unique_ptr<QemuProcess> qemu = Resume(file, {"--eager-rate=1"});
    ASSERT_NE(qemu, nullptr);
    ASSERT_TRUE(AwaitLease(file)) << qemu->Stderr();
    const UniqueFd image(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_GE(image.get(), 0);
    ASSERT_NO_FATAL_FAILURE(ExpectCompletes(*qemu));
    const absl::Status good = ExpectGoodSums(*qemu, 1);
    EXPECT_TRUE(good.ok()) << good;
    EXPECT_TRUE(absl::StrContains(qemu->Stderr(), "somebody wants to write to it"))
        << qemu->Stderr();
    const absl::Status saved = SaveMappedRam(*qemu, "file:" + file);
    ASSERT_TRUE(saved.ok()) << saved;
  }
  const std::unique_ptr<QemuProcess> reloaded = Resume(file);
  ASSERT_NE(reloaded, nullptr);
  const absl::Status good = ExpectGoodSums(*reloaded, 2);
  EXPECT_TRUE(good.ok()) << good;
  ExpectCompletes(*reloaded);
}

TEST_F(QemuGuest, SavedAgainAfterTheLoad) {
  const std::string again = scratch_->File("again.mr");
  {
    const std::unique_ptr<QemuProcess> qemu = Resume(snapshot_);
    ASSERT_NE(qemu, nullptr);
    ASSERT_NO_FATAL_FAILURE(ExpectCompletes(*qemu));
    const absl::Status saved = SaveMappedRam(*qemu, "file:" + again);
    ASSERT_TRUE(saved.ok()) << saved;
  }
  const std::unique_ptr<QemuProcess> reloaded = Resume(again);
  ASSERT_NE(reloaded, nullptr);
  const absl::Status good = ExpectGoodSums(*reloaded, 2);
  EXPECT_TRUE(good.ok()) << good;
  ExpectCompletes(*reloaded);
}

// A guest with little to spare, so that what it gives away has content that is still in the file.
// It is saved when it has just freed 32 MiB, and not yet reported that they are free.
class QemuBalloon : public QemuGuest {
 protected:
  static void SetUpTestSuite() { BootAndSave(512, 128, "freed1"); }
};

// Invariant 3: pages that the guest gives away before they were loaded, and takes back later.
TEST_F(QemuBalloon, InflatedWhileItLoads) {
  if (!why_no_balloon_.empty()) GTEST_SKIP() << why_no_balloon_;
  const std::unique_ptr<QemuProcess> qemu = Resume(snapshot_, {"--eager=off"});
  ASSERT_NE(qemu, nullptr);
  Balloon(*qemu, 320);
  Balloon(*qemu, 512);
  const absl::Status good = ExpectGoodSums(*qemu, 2);
  EXPECT_TRUE(good.ok()) << good;
}

TEST_F(QemuBalloon, InflatedAfterTheLoad) {
  if (!why_no_balloon_.empty()) GTEST_SKIP() << why_no_balloon_;
  const std::unique_ptr<QemuProcess> qemu = Resume(snapshot_);
  ASSERT_NE(qemu, nullptr);
  ASSERT_NO_FATAL_FAILURE(ExpectCompletes(*qemu));
  Balloon(*qemu, 320);
  Balloon(*qemu, 512);
  const absl::Status good = ExpectGoodSums(*qemu, 2);
  EXPECT_TRUE(good.ok()) << good;
}

// It once failed on a busy machine: it waited for the guest's checksums, and hoped that there was
// something to report meanwhile.
TEST_F(QemuBalloon, FreePagesReportedWhileItLoads) {
  if (!why_no_balloon_.empty()) GTEST_SKIP() << why_no_balloon_;
  const std::unique_ptr<QemuProcess> qemu =
      Resume(snapshot_, {"--eager=off"}, {"-trace", "ram_block_discard_range"});
  ASSERT_NE(qemu, nullptr);
  EXPECT_TRUE(Eventually(*qemu, [&] {
    return absl::StrContains(qemu->Stderr(), "ram_block_discard_range");
  })) << "nothing was reported";
  const absl::Status good = ExpectGoodSums(*qemu, 2);
  EXPECT_TRUE(good.ok()) << good;
  // The statistics are written at exit, too: how much was given away meanwhile?
  ASSERT_TRUE(qemu->Execute("quit").ok());
  ASSERT_TRUE(qemu->WaitForExit(Soon()).ok());
  std::ifstream file(stats_path_);
  const nlohmann::json stats = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  EXPECT_GT(NumberAt(stats, "/pages/removed"), 0) << stats.dump(2);
}

}  // namespace
}  // namespace ramjet
