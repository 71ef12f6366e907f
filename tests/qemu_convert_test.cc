// What `ramjet convert` makes of a real QEMU's snapshot, a real QEMU loads: with the memory and the
// devices that it had.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/qemu_testing.h"
#include "tools/child_process.h"

namespace ramjet {
namespace {

using nlohmann::json;

constexpr uint64_t kMemoryMib = 256;

class QemuConvert : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    machine_.memory_mib = kMemoryMib;
    machine_.fill_mib = 64;
    const absl::StatusOr<std::unique_ptr<SourceGuest>> guest =
        SourceGuest::Boot(machine_, scratch_->File("initramfs"));
    ASSERT_TRUE(guest.ok()) << guest.status();
    const absl::Status filled = (*guest)->WaitUntilFilled();
    ASSERT_TRUE(filled.ok()) << filled;
    const absl::Status saved =
        SaveMappedRam((*guest)->qemu(), "file:" + scratch_->File("source.mr"));
    ASSERT_TRUE(saved.ok()) << saved;
    saved_hash_ = Hash((*guest)->qemu());
  }

  static void TearDownTestSuite() { scratch_ = nullptr; }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_FALSE(saved_hash_.empty());
  }

  static std::string Hash(QemuProcess& qemu) {
    const absl::StatusOr<std::string> hash =
        HashRam(qemu, PcRam(kMemoryMib), scratch_->File("ram"));
    EXPECT_TRUE(hash.ok()) << hash.status();
    return hash.value_or("");
  }

  // Returns the report.
  static json Convert(const std::string& in, const std::string& out,
                      const std::vector<std::string>& flags) {
    std::vector<std::string> words = {RamjetCommand(), "convert", "--json", scratch_->File(in),
                                      scratch_->File(out)};
    words.insert(words.end(), flags.begin(), flags.end());
    const absl::StatusOr<CommandResult> result = RunCommand(words, Soon());
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return nullptr;
    EXPECT_EQ(result->exit_status, 0) << result->err;
    return json::parse(result->out, nullptr, /*allow_exceptions=*/false);
  }

  static void ExpectStockLoads(const std::string& name) {
    TargetOptions options;
    options.guest = machine_;
    const absl::StatusOr<std::unique_ptr<QemuProcess>> stock = StartTarget(options);
    ASSERT_TRUE(stock.ok()) << stock.status();
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**stock, "file:" + scratch_->File(name));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(Hash(**stock), saved_hash_);
    ASSERT_TRUE((*stock)->Execute("cont").ok());
    const absl::Status sums = ExpectGoodSums(**stock, 1);
    EXPECT_TRUE(sums.ok()) << sums;
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static GuestOptions machine_;
  static std::string saved_hash_;
};

std::unique_ptr<ScratchDir> QemuConvert::scratch_;
GuestOptions QemuConvert::machine_;
std::string QemuConvert::saved_hash_;

TEST_F(QemuConvert, RewrittenSnapshotLoadsWithItsBlocksInAnotherOrder) {
  const json report = Convert("source.mr", "rewritten.mr", {"--blocks", "pc.rom,pc.bios"});
  EXPECT_EQ(report.value("schema", ""), "ramjet.convert/1") << report;
  EXPECT_EQ(report["blocks"][1].value("idstr", ""), "pc.bios") << report;
  EXPECT_EQ(report.value("left_out", json()), json::array()) << report;
  ExpectStockLoads("rewritten.mr");
}

TEST_F(QemuConvert, MemoryTakenOutAndPutBackLoads) {
  const json report = Convert("source.mr", "ram.raw", {"--to", "raw", "--blocks", "pc.ram"});
  EXPECT_EQ(report["ram"].value("total_bytes", 0), kMemoryMib << 20) << report;
  Convert("ram.raw", "again.mr",
          {"--from", "raw", "--blocks", "pc.ram", "--like", scratch_->File("source.mr")});
  ExpectStockLoads("again.mr");
}

}  // namespace
}  // namespace ramjet
