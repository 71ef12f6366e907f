// Loads that compare what they read with the sums of when it was saved.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/ramjet.h"
#include "loader/snapshot_loader.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr uint64_t kPages = 2048;
constexpr uint64_t kDamaged = 700;  // of the run from 688 to 703

class LoaderChecksums : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SnapshotContent content;
    content.blocks = {{.idstr = "ram",
                       .used_length = kPages * HostPageBytes(),
                       .page_size = HostPageBytes(),
                       .nonzero = {{0, 1000}, {1024, 1024}}}};
    ASSERT_TRUE(WriteSnapshot(content, path_).ok());
    const absl::StatusOr<Checksums> sums = ComputeChecksums(*Open());
    ASSERT_TRUE(sums.ok()) << sums.status();
    std::ofstream(sums_path_) << EncodeChecksums(*sums);
  }
  std::shared_ptr<Snapshot> Open() const { return *Snapshot::Open(*File::Open(path_)); }

  // A byte of the page is another than when the sums were made.
  void Damage(uint64_t page) const {
    const off_t at =
        static_cast<off_t>(Open()->blocks()[0].pages_offset + page * HostPageBytes() + 17);
    const int fd = open(path_.c_str(), O_RDWR);
    uint8_t byte = 0;
    ASSERT_EQ(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    ASSERT_EQ(pwrite(fd, &byte, 1, at), 1);
    close(fd);
  }
  void Load() {
    auto loader = SnapshotLoader::Create(Open(), {.checksums = sums_path_});
    ASSERT_TRUE(loader.ok()) << loader.status();
    loader_ = *std::move(loader);
    ASSERT_TRUE(loader_->Attach(0, memory_.mapping()).ok());
  }
  void ExpectAllButTheDamagedRun() const {
    for (uint64_t page = 0; page < kPages; ++page) {
      if (page / 16 == kDamaged / 16) {
        EXPECT_TRUE(IsPoisoned(memory_.data() + page * HostPageBytes())) << "page " << page;
      } else if (page >= 1000 && page < 1024) {
        EXPECT_TRUE(memory_.HoldsZeros(page)) << "page " << page;
      } else {
        EXPECT_TRUE(memory_.HoldsPattern(page)) << "page " << page;
      }
    }
  }

  const std::string path_ = ::testing::TempDir() + "/summed.mr";
  const std::string sums_path_ = path_ + ".crc";
  GuestMemory memory_{kPages * HostPageBytes(), MemoryKind::kPrivate};
  std::unique_ptr<SnapshotLoader> loader_;
};

TEST_F(LoaderChecksums, WhatIsAsItWasSavedIsLoaded) {
  Load();
  EXPECT_TRUE(memory_.HoldsPattern(1999));
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  for (uint64_t page = 0; page < 1000; ++page) ASSERT_TRUE(memory_.HoldsPattern(page));
  EXPECT_EQ(loader_->stats().poisoned, 0u);
}

TEST_F(LoaderChecksums, Invariant6OnDemandAPageOfAnotherSumIsPoisonedAndNoOther) {
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  Damage(kDamaged);
  Load();
  ExpectAllButTheDamagedRun();
  EXPECT_THAT(loader_->stats().errors(), Contains(HasSubstr("is not what was saved")));
}

TEST_F(LoaderChecksums, Invariant6LoadedAheadAPageOfAnotherSumIsPoisonedAndNoOther) {
  if (!Userfaultfd::Open()->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  Damage(kDamaged);
  Load();
  ASSERT_TRUE(loader_->Finish().ok());
  EXPECT_EQ(loader_->stats().poisoned, 16u);
  EXPECT_EQ(loader_->stats().errors().size(), 1u) << "a run is told once";
  ExpectAllButTheDamagedRun();
}

// ramjet_read_block() had read past the checksums, without a word.
TEST_F(LoaderChecksums, Invariant6WhatIsReadAtOnceIsComparedToo) {
  for (const uint32_t flags : {0u, RAMJET_NOT_LAZY}) {
    for (const bool damaged : {false, true}) {
      if (damaged) Damage(kDamaged);
      ramjet_options options = RAMJET_OPTIONS_INIT;
      options.flags = flags;
      options.checksums = sums_path_.c_str();
      ramjet_load* load = nullptr;
      ASSERT_EQ(ramjet_open(path_.c_str(), &options, &load), 0) << ramjet_error();
      const int result = ramjet_read_block(load, "ram", memory_.data(), memory_.length());
      EXPECT_EQ(result, damaged ? -EILSEQ : 0) << ramjet_error();
      ramjet_close(load);
      if (!damaged) continue;
      EXPECT_THAT(ramjet_error(), HasSubstr("is not what was saved"));
      Damage(kDamaged);  // and back
    }
  }
}

TEST_F(LoaderChecksums, SumsThatCannotBeUsedAreRefused) {
  std::ofstream(sums_path_, std::ios::app) << "more";
  EXPECT_TRUE(absl::IsDataLoss(SnapshotLoader::Create(Open(), {.checksums = sums_path_}).status()));
  EXPECT_TRUE(
      absl::IsNotFound(SnapshotLoader::Create(Open(), {.checksums = path_ + ".no"}).status()));
  Checksums foreign = *ComputeChecksums(*Open());
  foreign.snapshot_digest ^= 1;
  std::ofstream(sums_path_, std::ios::trunc) << EncodeChecksums(foreign);
  ramjet_options options = RAMJET_OPTIONS_INIT;
  options.checksums = sums_path_.c_str();
  ramjet_load* load = nullptr;
  for (const uint32_t flags : {0u, RAMJET_NOT_LAZY}) {
    options.flags = flags;
    EXPECT_EQ(ramjet_open(path_.c_str(), &options, &load), -EINVAL) << ramjet_error();
  }
  const absl::Status refused = SnapshotLoader::Create(Open(), {.checksums = sums_path_}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("of another snapshot"));
}

}  // namespace
}  // namespace ramjet
