// Working sets of a real QEMU's guest: recorded in one run, of use in the next, and never in the
// way of what the guest finds in its memory.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "tests/qemu_testing.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

class QemuWorkingSet : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    guest_.memory_mib = 512;
    guest_.fill_mib = 128;
    const absl::StatusOr<std::unique_ptr<SourceGuest>> source =
        SourceGuest::Boot(guest_, scratch_->File("initramfs"));
    ASSERT_TRUE(source.ok()) << source.status();
    const absl::Status filled = (*source)->WaitUntilFilled();
    ASSERT_TRUE(filled.ok()) << filled;
    // Twice: the second is another save of the same guest.
    for (const char* const name : {"guest.mr", "other.mr"}) {
      const absl::Status saved = SaveMappedRam((*source)->qemu(), "file:" + scratch_->File(name));
      ASSERT_TRUE(saved.ok()) << saved;
      const auto continued = (*source)->qemu().Execute("cont");
      ASSERT_TRUE(continued.ok()) << continued.status();
    }
    Record();
  }

  static void TearDownTestSuite() { scratch_ = nullptr; }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_EQ(access(Set().c_str(), R_OK), 0) << "nothing was recorded";
  }

  static std::string Set() { return scratch_->File("guest.ws"); }
  static std::string StatsPath() { return scratch_->File("stats.json"); }

  static std::unique_ptr<QemuProcess> Restore(const std::string& file,
                                              const std::vector<std::string>& flags, bool paused) {
    TargetOptions options;
    options.guest = guest_;
    options.paused = paused;
    options.stats_path = StatsPath();
    options.ramjet_flags = flags;
    absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
    EXPECT_TRUE(qemu.ok()) << qemu.status();
    if (!qemu.ok()) return nullptr;
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, "file:" + scratch_->File(file));
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? *std::move(qemu) : nullptr;
  }

  // Runs until the guest has read all that it had filled, and ends there, long before the record is
  // due: a VM that ends takes its record along.
  static void Record() {
    const std::unique_ptr<QemuProcess> qemu =
        Restore("guest.mr", {"--record", Set(), "--record-for", "100000"}, /*paused=*/false);
    ASSERT_NE(qemu, nullptr);
    const absl::Status good = ExpectGoodSums(*qemu, 1);
    EXPECT_TRUE(good.ok()) << good;
    EXPECT_NE(access(Set().c_str(), F_OK), 0) << "it is written at the end";
    ASSERT_TRUE(qemu->Execute("quit").ok());
    ASSERT_TRUE(qemu->WaitForExit(Soon()).ok());
  }

  // What the statistics say once the guest has read everything and QEMU has ended.
  static nlohmann::json StatsOfARun(const std::vector<std::string>& flags) {
    const std::unique_ptr<QemuProcess> qemu = Restore("guest.mr", flags, /*paused=*/false);
    if (qemu == nullptr) return nullptr;
    const absl::Status good = ExpectGoodSums(*qemu, 1);
    EXPECT_TRUE(good.ok()) << good;
    EXPECT_TRUE(qemu->Execute("quit").ok());
    EXPECT_TRUE(qemu->WaitForExit(Soon()).ok());
    std::ifstream file(StatsPath());
    return nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  }

  static std::string Hash(QemuProcess& qemu) {
    const absl::StatusOr<std::string> hash =
        HashRam(qemu, PcRam(guest_.memory_mib), scratch_->File("ram"));
    EXPECT_TRUE(hash.ok()) << hash.status();
    return hash.value_or("");
  }

  static int Show(const std::string& snapshot) {
    return std::system(absl::StrCat(RamjetCommand(), " workingset show ", Set(), " --snapshot ",
                                    scratch_->File(snapshot), " >", scratch_->File("show.txt"))
                           .c_str());
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static GuestOptions guest_;
};

std::unique_ptr<ScratchDir> QemuWorkingSet::scratch_;
GuestOptions QemuWorkingSet::guest_;

TEST_F(QemuWorkingSet, BelongsToItsSnapshotAndNoOther) {
  EXPECT_EQ(Show("guest.mr"), 0);
  EXPECT_NE(Show("other.mr"), 0);
}

// Invariant 1.
TEST_F(QemuWorkingSet, LeavesMemoryAsQemusOwnLoadDoes) {
  TargetOptions plain;
  plain.guest = guest_;
  const absl::StatusOr<std::unique_ptr<QemuProcess>> stock = StartTarget(plain);
  ASSERT_TRUE(stock.ok()) << stock.status();
  ASSERT_TRUE(LoadMappedRam(**stock, "file:" + scratch_->File("guest.mr")).ok());
  const std::unique_ptr<QemuProcess> qemu =
      Restore("guest.mr", {"--working-set", Set()}, /*paused=*/true);
  ASSERT_NE(qemu, nullptr);
  const absl::StatusOr<nlohmann::json> stats = WaitForCompleteStats(StatsPath(), Soon());
  ASSERT_TRUE(stats.ok()) << stats.status() << qemu->Stderr();
  EXPECT_GT(NumberAt(*stats, "/pages/working_set"), 64 << 20 >> 12) << stats->dump(2);
  EXPECT_EQ(Hash(*qemu), Hash(**stock));
}

TEST_F(QemuWorkingSet, TheGuestFindsWhatItWouldHaveFaultedFor) {
  const nlohmann::json without = StatsOfARun({"--eager", "off"});
  const nlohmann::json with = StatsOfARun({"--eager", "off", "--working-set", Set()});
  EXPECT_LT(NumberAt(with, "/pages/faulted"), NumberAt(without, "/pages/faulted"))
      << without.dump(2) << with.dump(2);
  EXPECT_GT(NumberAt(with, "/pages/working_set"), 0) << with.dump(2);
  EXPECT_EQ(NumberAt(without, "/pages/working_set"), 0) << without.dump(2);
}

// Not of working sets, but the same guest shows it: it reads all of its memory at once.
TEST_F(QemuWorkingSet, WhatTheGuestTouchesComesByWholeWindowsUnlessThatIsNotWanted) {
  SKIP_WITHOUT_HUGE_WINDOWS();
  const nlohmann::json whole = StatsOfARun({});
  EXPECT_GT(NumberAt(whole, "/window_us/count"), 0) << whole.dump(2);
  const nlohmann::json single = StatsOfARun({"--whole-windows", "off"});
  EXPECT_EQ(NumberAt(single, "/window_us/count"), 0) << single.dump(2);
  EXPECT_GT(NumberAt(single, "/pages/faulted"), 0) << single.dump(2);
}

TEST_F(QemuWorkingSet, OfAnotherSaveIsIgnoredWithAWarning) {
  const std::unique_ptr<QemuProcess> qemu =
      Restore("other.mr", {"--working-set", Set()}, /*paused=*/false);
  ASSERT_NE(qemu, nullptr);
  const absl::StatusOr<nlohmann::json> stats = WaitForCompleteStats(StatsPath(), Soon());
  ASSERT_TRUE(stats.ok()) << stats.status() << qemu->Stderr();
  EXPECT_EQ(NumberAt(*stats, "/pages/working_set"), 0) << stats->dump(2);
  const std::string warning = absl::StrCat("ramjet: the working set is ignored: ", Set());
  const size_t at = qemu->Stderr().find(warning);
  ASSERT_NE(at, std::string::npos) << qemu->Stderr();
  EXPECT_EQ(qemu->Stderr().find("ramjet: ", at + 1), std::string::npos) << qemu->Stderr();
  const absl::Status good = ExpectGoodSums(*qemu, 1);
  EXPECT_TRUE(good.ok()) << good;
}

// The record ends, is written, and the rest is loaded ahead.
TEST_F(QemuWorkingSet, IsRecordedForSoLongAndThenEverythingIsLoaded) {
  const std::string set = scratch_->File("short.ws");
  const std::unique_ptr<QemuProcess> qemu =
      Restore("guest.mr", {"--record", set, "--record-for", "0.1"}, /*paused=*/false);
  ASSERT_NE(qemu, nullptr);
  const absl::StatusOr<nlohmann::json> stats = WaitForCompleteStats(StatsPath(), Soon());
  ASSERT_TRUE(stats.ok()) << stats.status() << qemu->Stderr();
  EXPECT_EQ(access(set.c_str(), R_OK), 0);
  EXPECT_GT(NumberAt(*stats, "/pages/eager"), 0) << stats->dump(2);
  EXPECT_GT(NumberAt(*stats, "/pages/faulted"), 0) << stats->dump(2);
}

}  // namespace
}  // namespace ramjet
