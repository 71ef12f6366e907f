// What SnapshotWriter makes of QEMU's own file loads in a stock QEMU, to the same memory, and the
// guest runs on; and the commands that prove a file whole say so of both.
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"
#include "tests/qemu_testing.h"
#include "tools/qemu_process.h"

namespace ramjet {
namespace {

constexpr uint64_t kMemoryMib = 192;

absl::Status Rewrite(const std::string& from_path, const std::string& to_path,
                     const SnapshotWriter::Options& options) {
  absl::StatusOr<File> file = File::Open(from_path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Snapshot>> opened = Snapshot::Open(*std::move(file));
  if (!opened.ok()) return opened.status();
  const std::shared_ptr<const Snapshot> from = *std::move(opened);
  absl::StatusOr<StreamParts> stream = CarryStream(from);
  if (!stream.ok()) return stream.status();
  std::vector<std::unique_ptr<RamSource>> sources;
  std::vector<NewBlock> blocks;
  for (size_t i = 0; i < from->blocks().size(); ++i) {
    const SnapshotBlock& block = from->blocks()[i];
    sources.push_back(std::make_unique<SnapshotSource>(*from, i));
    blocks.insert(blocks.begin(), {.idstr = block.idstr,
                                   .used_length = block.used_length,
                                   .page_size = block.page_size,
                                   .source = sources.back().get()});
  }
  SnapshotWriter writer(*std::move(stream), std::move(blocks), options);
  return writer.Write(to_path);
}

class QemuWriter : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
  }

  // The hash of all memory after QEMU's own load of `path`; then the guest finds its sums right.
  std::string LoadAndHash(const GuestOptions& guest, const std::string& path) {
    TargetOptions options;
    options.guest = guest;
    const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
    EXPECT_TRUE(qemu.ok()) << qemu.status();
    if (!qemu.ok()) return "";
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, "file:" + path);
    EXPECT_TRUE(loaded.ok()) << path << ": " << loaded.status() << (*qemu)->Stderr();
    if (!loaded.ok()) return "";
    const absl::StatusOr<std::string> hash =
        HashRam(**qemu, PcRam(kMemoryMib), scratch_->File("ram"));
    EXPECT_TRUE(hash.ok()) << hash.status();
    EXPECT_TRUE((*qemu)->Execute("cont").ok());
    EXPECT_EQ(ExpectGoodSums(**qemu, 1), absl::OkStatus());
    return hash.value_or("");
  }

  std::unique_ptr<ScratchDir> scratch_;
};

TEST_F(QemuWriter, FileMadeOfQemusOwnLoadsInQemu) {
  GuestOptions guest;
  guest.memory_mib = kMemoryMib;
  guest.fill_mib = 48;
  const absl::StatusOr<std::unique_ptr<SourceGuest>> source =
      SourceGuest::Boot(guest, scratch_->File("initramfs"));
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_EQ((*source)->WaitUntilFilled(), absl::OkStatus());
  const std::string own = scratch_->File("own.mr");
  ASSERT_EQ(SaveMappedRam((*source)->qemu(), "file:" + own), absl::OkStatus());
  const std::string stock = LoadAndHash(guest, own);
  ASSERT_NE(stock, "");

  const std::string made = scratch_->File("made.mr");
  const std::string sums = scratch_->File("made.crc");
  for (const bool direct : {false, true}) {
    ASSERT_EQ(Rewrite(own, made, {.direct = direct, .checksums_path = sums}), absl::OkStatus());
    EXPECT_EQ(LoadAndHash(guest, made), stock);
  }
  for (const std::string& args :
       {"verify " + own, absl::StrCat("verify ", made, " --checksums ", sums),
        absl::StrCat("diff ", own, " ", made)}) {
    EXPECT_EQ(std::system(absl::StrCat(RamjetCommand(), " ", args).c_str()), 0) << args;
  }
}

}  // namespace
}  // namespace ramjet
