// Where ramjet must stand aside (invariants 8 and 10): files that QEMU itself refuses, and memory
// that cannot be lazy. QEMU then does, says and loads exactly what it would have without us.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/qemu_testing.h"
#include "tools/child_process.h"
#include "tools/fd.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

constexpr uint64_t kMemoryMib = 256;

// What QEMU says, without lines of ours and without what differs from run to run.
std::string Normalised(const std::string& output) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(output, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "ramjet:")) continue;
    lines.push_back(std::regex_replace(std::string{line}, std::regex("0x[0-9a-f]{8,}"), "ADDRESS"));
  }
  return absl::StrJoin(lines, "\n");
}

class QemuFallback : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    guest_.memory_mib = kMemoryMib;
    guest_.fill_mib = 64;
    const absl::StatusOr<std::unique_ptr<SourceGuest>> source =
        SourceGuest::Boot(guest_, scratch_->File("initramfs"));
    ASSERT_TRUE(source.ok()) << source.status();
    const absl::Status filled = (*source)->WaitUntilFilled();
    ASSERT_TRUE(filled.ok()) << filled;
    snapshot_ = scratch_->File("guest.mr");
    const absl::Status saved = SaveMappedRam((*source)->qemu(), "file:" + snapshot_);
    ASSERT_TRUE(saved.ok()) << saved;
    // Another save, so slow that QEMU (killed by its destructor) ends in the middle of it.
    const auto continued = (*source)->qemu().Execute("cont");
    ASSERT_TRUE(continued.ok()) << continued.status();
    ASSERT_TRUE((*source)->qemu().Execute("migrate-set-parameters", {{"max-bandwidth", 1}}).ok());
    const std::string uri = "file:" + scratch_->File("interrupted.mr");
    ASSERT_TRUE((*source)->qemu().Execute("migrate", {{"uri", uri}}).ok());
    std::string status;
    while (status != "active") {
      const auto event = (*source)->qemu().WaitForEvent("MIGRATION", Soon());
      ASSERT_TRUE(event.ok()) << event.status();
      status = event->data.value("status", "");
    }
  }

  static void TearDownTestSuite() { scratch_ = nullptr; }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_FALSE(snapshot_.empty());
  }

  struct Ending {
    std::string outcome;  // exit status and last words, or the state and hash of a loaded guest
    std::string stderr_text;
  };

  // A paused load. `stats_path` empty: QEMU alone.
  static Ending Load(const std::string& file, const std::string& stats_path,
                     const std::vector<std::string>& args = {},
                     const std::vector<std::string>& ramjet_flags = {}) {
    TargetOptions options;
    options.ramjet_flags = ramjet_flags;
    options.guest = guest_;
    options.stats_path = stats_path;
    options.args = args;
    const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
    if (!qemu.ok()) return {std::string{qemu.status().message()}, ""};
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, "file:" + file);
    if (loaded.ok()) {
      const auto hash = HashRam(**qemu, PcRam(kMemoryMib), scratch_->File("ram"));
      return {absl::StrCat("loaded ", hash.value_or(std::string{hash.status().message()})),
              (*qemu)->Stderr()};
    }
    // Either QEMU has ended, or it lives on and its monitor has said why it does not load.
    const absl::StatusOr<int> exit_status =
        (*qemu)->WaitForExit(absl::IsUnavailable(loaded.status()) ? Soon() : absl::InfinitePast());
    const std::string words = (*qemu)->Stderr();
    if (!exit_status.ok()) return {std::string{loaded.status().message()}, words};
    return {absl::StrCat("exit status ", *exit_status, ": ", Normalised(words)), words};
  }

  // Loads `file` with and without us; both must end in the same way. Returns that.
  static std::string ExpectSameEnding(const std::string& file) {
    const Ending alone = Load(file, "");
    const Ending under_us = Load(file, scratch_->File("stats.json"));
    EXPECT_EQ(under_us.outcome, alone.outcome) << under_us.stderr_text;
    return alone.outcome;
  }

  // Loads the good file into memory that cannot be lazy: it is equal all the same, and a line of
  // ours names the block.
  static void ExpectFallsBack(const std::vector<std::string>& args) {
    const std::string stats_path = scratch_->File("stats.json");
    const Ending alone = Load(snapshot_, "", args);
    ASSERT_TRUE(absl::StartsWith(alone.outcome, "loaded ")) << alone.outcome << alone.stderr_text;
    const Ending under_us = Load(snapshot_, stats_path, args);
    EXPECT_EQ(under_us.outcome, alone.outcome) << under_us.stderr_text;
    bool said = false;
    for (const absl::string_view line : absl::StrSplit(under_us.stderr_text, '\n')) {
      said = said || (absl::StartsWith(line, "ramjet:") && absl::StrContains(line, "pc.ram"));
    }
    EXPECT_TRUE(said) << "no line of ours about pc.ram: " << under_us.stderr_text;
  }

  // A copy of the snapshot that may be damaged.
  static std::string Copy(const std::string& name) {
    std::string copy = scratch_->File(name);
    std::error_code error;
    std::filesystem::copy_file(snapshot_, copy, std::filesystem::copy_options::overwrite_existing,
                               error);
    EXPECT_FALSE(error) << error.message();
    return copy;
  }

  // Where the description of the devices begins: JSON, the last thing in the file.
  static uint64_t DeviceDescription(const std::string& path) {
    constexpr uint64_t kTailBytes = 256 << 10;
    const uint64_t tail = std::filesystem::file_size(path) - kTailBytes;
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string bytes(kTailBytes, '\0');
    EXPECT_EQ(pread(file.get(), bytes.data(), kTailBytes, static_cast<off_t>(tail)),
              static_cast<ssize_t>(kTailBytes));
    const size_t begin = bytes.rfind("{\"configuration\"");
    EXPECT_NE(begin, std::string::npos);
    return tail + begin;
  }

  static void FlipBit(const std::string& path, off_t offset) {
    const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    char byte = 0;
    ASSERT_EQ(pread(file.get(), &byte, 1, offset), 1);
    byte = static_cast<char>(byte ^ 1);
    ASSERT_EQ(pwrite(file.get(), &byte, 1, offset), 1);
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static GuestOptions guest_;
  static std::string snapshot_;
};

std::unique_ptr<ScratchDir> QemuFallback::scratch_;
GuestOptions QemuFallback::guest_;
std::string QemuFallback::snapshot_;

TEST_F(QemuFallback, MissingFile) {
  EXPECT_TRUE(absl::StrContains(ExpectSameEnding(scratch_->File("nowhere.mr")), "No such file"));
}

TEST_F(QemuFallback, EmptyFile) {
  const std::string file = scratch_->File("empty.mr");
  std::ofstream(file).flush();
  EXPECT_TRUE(absl::StartsWith(ExpectSameEnding(file), "exit status 1"));
}

TEST_F(QemuFallback, ForeignFile) {
  const std::string file = scratch_->File("foreign.mr");
  std::ofstream(file) << std::string(1 << 20, 'x');
  EXPECT_TRUE(absl::StartsWith(ExpectSameEnding(file), "exit status 1"));
}

TEST_F(QemuFallback, Directory) { ExpectSameEnding(scratch_->path()); }

TEST_F(QemuFallback, TruncatedInThePages) {
  const std::string file = Copy("truncated.mr");
  std::error_code error;
  std::filesystem::resize_file(file, std::filesystem::file_size(file) / 3, error);
  EXPECT_TRUE(absl::StartsWith(ExpectSameEnding(file), "exit status 1"));
}

TEST_F(QemuFallback, TruncatedInTheDevices) {
  const std::string file = Copy("devices.mr");
  std::error_code error;
  std::filesystem::resize_file(file, DeviceDescription(file) - 4096, error);
  EXPECT_TRUE(absl::StartsWith(ExpectSameEnding(file), "exit status 1"));
}

// QEMU reads the description of the devices, at the end, only to throw it away.
TEST_F(QemuFallback, TruncatedInTheDeviceDescription) {
  const std::string file = Copy("description.mr");
  std::error_code error;
  std::filesystem::resize_file(file, DeviceDescription(file) + 4096, error);
  const std::string ending = ExpectSameEnding(file);
  EXPECT_TRUE(absl::StartsWith(ending, "loaded ")) << ending;
}

TEST_F(QemuFallback, BitFlippedInTheHeader) {
  const std::string file = Copy("magic.mr");
  FlipBit(file, 2);
  EXPECT_TRUE(absl::StartsWith(ExpectSameEnding(file), "exit status 1"));
}

TEST_F(QemuFallback, BitFlippedInTheNameOfTheMachine) {
  const std::string file = Copy("machine.mr");
  FlipBit(file, 14);
  EXPECT_TRUE(absl::StartsWith(ExpectSameEnding(file), "exit status 1"));
}

// What falls back is checked all the same; what cannot be is not loaded.
TEST_F(QemuFallback, WithChecksumsNothingIsLoadedUnchecked) {
  const std::string sums = scratch_->File("guest.crc");
  const auto load = [&](const std::string& file) {
    return Load(file, scratch_->File("stats.json"), {"-overcommit", "mem-lock=on"},
                {"--checksums", sums});
  };
  const absl::StatusOr<CommandResult> made =
      RunCommand({RamjetCommand(), "checksum", snapshot_, sums}, Soon());
  ASSERT_TRUE(made.ok() && made->exit_status == 0) << made.status();
  EXPECT_EQ(load(snapshot_).outcome, Load(snapshot_, "").outcome);

  const std::string copy = Copy("damaged.mr");
  FlipBit(copy, (64 << 20) + 123);
  const Ending damaged = load(copy);
  EXPECT_EQ(damaged.outcome, "exit status 1: ") << damaged.stderr_text;
  EXPECT_TRUE(absl::StrContains(damaged.stderr_text, "is not what was saved"))
      << damaged.stderr_text;
  std::error_code error;
  std::filesystem::resize_file(copy, 20 << 20, error);
  const Ending cut = load(copy);
  EXPECT_EQ(cut.outcome, "exit status 1: ") << cut.stderr_text;
  EXPECT_TRUE(absl::StrContains(cut.stderr_text, "the VM is ended")) << cut.stderr_text;
}

// Not an error for anybody: the file has no checksums. The same wrong bit must come out.
TEST_F(QemuFallback, BitFlippedInAPage) {
  const std::string file = Copy("page.mr");
  const std::string good = Load(snapshot_, "").outcome;
  FlipBit(file, (64 << 20) + 123);  // the kernel and the file system fill the first half
  const std::string ending = ExpectSameEnding(file);
  EXPECT_TRUE(absl::StartsWith(ending, "loaded ")) << ending;
  EXPECT_NE(ending, good) << "the flipped byte belongs to no page; choose another";
}

// QEMU was killed while it saved: a well-formed head with an empty bitmap, and no devices.
TEST_F(QemuFallback, InterruptedSave) {
  EXPECT_TRUE(absl::StartsWith(ExpectSameEnding(scratch_->File("interrupted.mr")), "exit status"));
}

TEST_F(QemuFallback, PreallocatedMemory) {
  ExpectFallsBack({"-object",
                   absl::StrCat("memory-backend-ram,id=pc.ram,prealloc=on,size=", kMemoryMib, "M"),
                   "-machine", "memory-backend=pc.ram"});
}

TEST_F(QemuFallback, LockedMemory) { ExpectFallsBack({"-overcommit", "mem-lock=on"}); }

// They fall back no more: a huge page is what arrives at once.
TEST_F(QemuFallback, HugePagesAreLazy) {
  std::ifstream pool("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  uint64_t free_pages = 0;
  pool >> free_pages;
  if (free_pages < kMemoryMib / 2) {
    GTEST_SKIP() << "needs " << kMemoryMib / 2 << " free huge pages of 2 MiB, there are "
                 << free_pages << ": sysctl vm.nr_hugepages=" << kMemoryMib / 2;
  }
  const std::vector<std::string> args = {
      "-object", absl::StrCat("memory-backend-memfd,id=pc.ram,hugetlb=on,size=", kMemoryMib, "M"),
      "-machine", "memory-backend=pc.ram"};
  const std::string stats_path = scratch_->File("stats.json");
  const Ending alone = Load(snapshot_, "", args);
  ASSERT_TRUE(absl::StartsWith(alone.outcome, "loaded ")) << alone.outcome << alone.stderr_text;
  const Ending under_us = Load(snapshot_, stats_path, args);
  EXPECT_EQ(under_us.outcome, alone.outcome) << under_us.stderr_text;
  EXPECT_FALSE(absl::StrContains(under_us.stderr_text, "pc.ram")) << under_us.stderr_text;
  const auto stats = nlohmann::json::parse(std::ifstream(stats_path), nullptr, false);
  ASSERT_TRUE(stats.is_object());
  EXPECT_EQ(stats["blocks"][0]["lazy"], true) << stats;
  EXPECT_EQ(stats["complete"], true) << stats;
}

}  // namespace
}  // namespace ramjet
