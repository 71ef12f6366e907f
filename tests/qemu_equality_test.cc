// Invariant 1 on a real QEMU: after a lazy load all of a guest's memory equals what QEMU's own load
// of the same file gives, in every way of having memory and of passing the file that we promise.
// The guests have 1 GiB, of which 424 MiB are random bytes.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/qemu_testing.h"
#include "tools/fd.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

enum Machine { kPc, kQ35, kTwoNodes };

// Of what the files are made. Each is saved once.
struct FileOptions {
  Machine machine = kPc;
  MigrationOptions migration = {};
  uint64_t offset = 0;
};

// How the file comes to QEMU.
enum class Passing { kPath, kPathUnlinkedOnceResumed, kFdset, kFdsetOfUnlinkedFile };

struct Case {
  std::string name;
  FileOptions file = {};
  std::vector<std::string> target_args = {};
  Passing passing = Passing::kPath;
  bool daemonize = false;

  friend std::ostream& operator<<(std::ostream& out, const Case& param) {
    return out << param.name;
  }
};

std::vector<std::string> BigBlocks(Machine machine) {
  if (machine == kTwoNodes) return {"near", "far"};
  return {"pc.ram"};
}

GuestOptions OptionsOf(Machine machine) {
  GuestOptions options;
  if (machine == kQ35) options.machine = "q35";
  if (machine == kTwoNodes) {
    options.devices = {"-object", "memory-backend-ram,id=near,size=512M",
                       "-object", "memory-backend-ram,id=far,size=512M",
                       "-smp",    "2",
                       "-numa",   "node,memdev=near,cpus=0",
                       "-numa",   "node,memdev=far,cpus=1"};
  }
  return options;
}

class QemuEquality : public testing::TestWithParam<Case> {
 protected:
  static constexpr int kMachines = 3;

  struct SavedFile {
    std::string path;
    std::string suffix;      // of the URI
    std::string stock_hash;  // sha256 of all guest memory after QEMU's own load
  };

  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    for (int machine = 0; machine < kMachines; ++machine) {
      absl::StatusOr<std::unique_ptr<SourceGuest>> guest =
          SourceGuest::Boot(OptionsOf(static_cast<Machine>(machine)), scratch_->File("initramfs"));
      ASSERT_TRUE(guest.ok()) << guest.status();
      sources_[machine] = *std::move(guest);
    }
    for (const std::unique_ptr<SourceGuest>& source : sources_) {
      const absl::Status filled = source->WaitUntilFilled();
      ASSERT_TRUE(filled.ok()) << filled;
      ASSERT_TRUE(source->qemu().Execute("stop").ok());
    }
    ready_ = true;
  }

  static void TearDownTestSuite() {
    sources_ = {};
    files_.clear();
    scratch_ = nullptr;
  }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_TRUE(ready_);
    ASSERT_NO_FATAL_FAILURE(FindOrSave(GetParam().file));
  }

  // Sets file_.
  void FindOrSave(const FileOptions& options) {
    const std::string path = scratch_->File(absl::StrCat(
        options.machine, "-", options.migration.multifd_channels, "-", options.offset, ".mr"));
    file_ = &files_[path];
    if (!file_->stock_hash.empty()) return;
    file_->path = path;
    file_->suffix = options.offset == 0 ? "" : absl::StrCat(",offset=", options.offset);
    const std::string uri = absl::StrCat("file:", path, file_->suffix);
    SourceGuest& source = *sources_[options.machine];
    // QEMU does not save twice what has not run in between.
    const auto continued = source.qemu().Execute("cont");
    ASSERT_TRUE(continued.ok()) << continued.status();
    const absl::Status saved = SaveMappedRam(source.qemu(), uri, options.migration);
    ASSERT_TRUE(saved.ok()) << saved;
    TargetOptions target;
    target.guest = source.options();
    const absl::StatusOr<std::unique_ptr<QemuProcess>> stock = StartTarget(target);
    ASSERT_TRUE(stock.ok()) << stock.status();
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**stock, uri, options.migration);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    file_->stock_hash = Hash(**stock);
  }

  static std::string Hash(QemuProcess& qemu) {
    const absl::StatusOr<std::string> hash = HashRam(qemu, PcRam(1024), scratch_->File("ram"));
    EXPECT_TRUE(hash.ok()) << hash.status();
    return hash.value_or("");
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static std::array<std::unique_ptr<SourceGuest>, kMachines> sources_;
  static std::map<std::string, SavedFile> files_;
  static bool ready_;
  SavedFile* file_ = nullptr;
};

std::unique_ptr<ScratchDir> QemuEquality::scratch_;
std::array<std::unique_ptr<SourceGuest>, QemuEquality::kMachines> QemuEquality::sources_;
std::map<std::string, QemuEquality::SavedFile> QemuEquality::files_;
bool QemuEquality::ready_ = false;

TEST_P(QemuEquality, LazyLoadEqualsStockLoad) {
  const Case& param = GetParam();
  std::string path = file_->path;
  if (param.passing == Passing::kPathUnlinkedOnceResumed ||
      param.passing == Passing::kFdsetOfUnlinkedFile) {
    path = scratch_->File("unlinked.mr");
    std::error_code error;
    std::filesystem::copy_file(file_->path, path, error);
    ASSERT_FALSE(error) << error.message();
  }
  TargetOptions options;
  options.guest = sources_[param.file.machine]->options();
  options.stats_path = scratch_->File(param.name + ".json");
  options.args = param.target_args;
  std::string uri = absl::StrCat("file:", path, file_->suffix);
  UniqueFd passed;
  if (param.passing == Passing::kFdset || param.passing == Passing::kFdsetOfUnlinkedFile) {
    // QEMU takes only a descriptor of the access mode that it would have opened the file with.
    passed = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(passed.valid());
    options.inherited_fds = {passed.get()};
    options.args.insert(options.args.end(),
                        {"-add-fd", absl::StrCat("fd=", passed.get(), ",set=7")});
    uri = "file:/dev/fdset/7";
  }
  if (param.passing == Passing::kFdsetOfUnlinkedFile) unlink(path.c_str());
  if (param.daemonize) options.daemon_pidfile = scratch_->File("daemon.pid");

  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
  ASSERT_TRUE(qemu.ok()) << qemu.status();
  passed = UniqueFd();
  const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, uri, param.file.migration);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  if (param.passing == Passing::kPathUnlinkedOnceResumed) unlink(path.c_str());

  // Hashed while it still loads: most pages come by faults of QEMU's own.
  EXPECT_EQ(Hash(**qemu), file_->stock_hash);
  const absl::StatusOr<nlohmann::json> stats = WaitForCompleteStats(options.stats_path, Soon());
  ASSERT_TRUE(stats.ok()) << stats.status() << (*qemu)->Stderr();
  for (const std::string& block : BigBlocks(param.file.machine)) {
    EXPECT_EQ(BlockStats(*stats, block).value("lazy", nlohmann::json()), true)
        << stats->dump(2) << (*qemu)->Stderr();
  }
  EXPECT_EQ(NumberAt(*stats, "/pages/poisoned"), 0) << stats->dump(2);
}

INSTANTIATE_TEST_SUITE_P(
    All, QemuEquality,
    testing::Values(
        Case{.name = "DefaultRam"},
        Case{.name = "SharedMemfd",
             .target_args = {"-object", "memory-backend-memfd,id=pc.ram,size=1G,share=on",
                             "-machine", "memory-backend=pc.ram"}},
        Case{.name = "Multifd", .file = {.migration = {.multifd_channels = 2}}},
        Case{.name = "StrictSandbox",
             .target_args = {"-sandbox",
                             "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                             "resourcecontrol=deny"}},
        Case{.name = "StreamAtOffset", .file = {.offset = 0x5000}},
        Case{.name = "Fdset", .passing = Passing::kFdset},
        Case{.name = "FdsetOfUnlinkedFile", .passing = Passing::kFdsetOfUnlinkedFile},
        Case{.name = "UnlinkedOnceResumed", .passing = Passing::kPathUnlinkedOnceResumed},
        Case{.name = "Daemonize", .daemonize = true},
        Case{.name = "Q35", .file = {.machine = kQ35}},
        Case{.name = "TwoNumaNodes", .file = {.machine = kTwoNodes}}),
    [](const testing::TestParamInfo<Case>& test) { return test.param.name; });

}  // namespace
}  // namespace ramjet
