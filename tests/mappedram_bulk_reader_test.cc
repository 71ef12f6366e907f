#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mappedram/bulk_reader.h"
#include "mappedram/read_queue.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

constexpr uint64_t kFileBytes = (1 << 20) + 1234;

// Pages of the file that the page cache has.
uint64_t CachedPages(const File& file) {
  void* const mapped = mmap(nullptr, kFileBytes, PROT_READ, MAP_SHARED, file.fd(), 0);
  std::vector<unsigned char> pages(kFileBytes / 4096 + 1);
  EXPECT_EQ(mincore(mapped, kFileBytes, pages.data()), 0);
  munmap(mapped, kFileBytes);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; });
}

class BulkReaderTest : public testing::TestWithParam<DirectReads> {
 protected:
  BulkReaderTest() : content_(Noise(kFileBytes)), saved_(content_), file_(saved_.Open()) {
    file_.AdviseRandom();
    void* const memory =
        mmap(nullptr, 2 * kFileBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory_ = static_cast<uint8_t*>(memory);
  }
  ~BulkReaderTest() override { munmap(memory_, 2 * kFileBytes); }

  // False where the file system keeps the file in memory alone.
  bool MakeCold() {
    EXPECT_EQ(fsync(file_.fd()), 0);
    EXPECT_EQ(posix_fadvise(file_.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
    return CachedPages(file_) == 0;
  }

  // Reads [offset, offset + length) to `memory_` + `into`, and compares.
  void ExpectContent(const BulkReader& reader, uint64_t offset, uint64_t length,
                     uint64_t into = 0) {
    const absl::Span<uint8_t> buffer(memory_ + into, length);
    std::fill(buffer.begin(), buffer.end(), uint8_t{0xee});
    const absl::Status read = reader.ReadAt(offset, buffer);
    ASSERT_TRUE(read.ok()) << read;
    EXPECT_TRUE(std::equal(buffer.begin(), buffer.end(),
                           reinterpret_cast<const uint8_t*>(content_.data()) + offset))
        << offset << " " << length << " " << into;
  }

  // The same by Begin() and End(). Whether it has begun.
  bool ExpectQueuedContent(const BulkReader& reader, uint64_t offset, uint64_t length,
                           uint64_t into = 0) {
    const absl::Span<uint8_t> buffer(memory_ + into, length);
    std::fill(buffer.begin(), buffer.end(), uint8_t{0xee});
    if (!reader.Begin(queue_, 1, offset, buffer)) return false;
    const absl::Status read = reader.End(queue_, 1, offset, buffer);
    EXPECT_TRUE(read.ok()) << read;
    EXPECT_TRUE(std::equal(buffer.begin(), buffer.end(),
                           reinterpret_cast<const uint8_t*>(content_.data()) + offset))
        << offset << " " << length << " " << into;
    return true;
  }

  const std::string content_;
  const TempFile saved_;
  const File file_;
  uint8_t* memory_;
  ReadQueue queue_;
};

TEST_P(BulkReaderTest, GivesTheFileWhateverTheAlignmentAndTheCache) {
  const BulkReader reader(file_, GetParam());
  for (const bool cold : {true, false}) {
    if (cold) MakeCold();
    ExpectContent(reader, 0, kFileBytes);
    ExpectContent(reader, 0, 512 << 10);
    ExpectContent(reader, 4096, (512 << 10) + 4096);
    ExpectContent(reader, 4096, 4096);
    ExpectContent(reader, 17, 300'000);
    ExpectContent(reader, 8192, 256 << 10, 5);
    ExpectContent(reader, 512 << 10, kFileBytes - (512 << 10));
    ExpectContent(reader, kFileBytes - 1, 1);
  }
}

TEST_P(BulkReaderTest, SaysWhenTheFileEndsEarly) {
  const BulkReader reader(file_, GetParam());
  MakeCold();
  const absl::Status read = reader.ReadAt(4096, absl::MakeSpan(memory_, kFileBytes));
  EXPECT_EQ(read.code(), absl::StatusCode::kDataLoss) << read;
}

TEST_F(BulkReaderTest, OnlyWhatComesStraightFromTheDiskBegins) {
  const BulkReader reader(file_, DirectReads::kAuto);
  if (!MakeCold()) GTEST_SKIP() << "the file system of " << saved_.path() << " has no disk";
  if (!ExpectQueuedContent(reader, 4096, 512 << 10)) {
    GTEST_SKIP() << "the file system knows no O_DIRECT, or the system has no io_uring";
  }
  EXPECT_TRUE(ExpectQueuedContent(reader, 0, kFileBytes));  // of which the end is no whole block
  EXPECT_FALSE(ExpectQueuedContent(reader, 17, 512 << 10));
  EXPECT_FALSE(ExpectQueuedContent(reader, 0, 512 << 10, 5));
  EXPECT_FALSE(ExpectQueuedContent(reader, 0, 4096));
  EXPECT_FALSE(ExpectQueuedContent(BulkReader(file_, DirectReads::kNever), 0, 512 << 10));
  ExpectContent(BulkReader(file_, DirectReads::kNever), 0, kFileBytes);  // and into the cache
  EXPECT_FALSE(ExpectQueuedContent(reader, 4096, 512 << 10));
  EXPECT_TRUE(ExpectQueuedContent(BulkReader(file_, DirectReads::kAlways), 4096, 512 << 10));
}

TEST_F(BulkReaderTest, WhatHasBegunSaysWhenTheFileEndsEarly) {
  const BulkReader reader(file_, DirectReads::kAlways);
  const absl::Span<uint8_t> buffer(memory_, 2 << 20);
  if (!reader.Begin(queue_, 0, 4096, buffer)) {
    GTEST_SKIP() << "the file system knows no O_DIRECT, or the system has no io_uring";
  }
  EXPECT_EQ(reader.End(queue_, 0, 4096, buffer).code(), absl::StatusCode::kDataLoss);
}

INSTANTIATE_TEST_SUITE_P(All, BulkReaderTest,
                         testing::Values(DirectReads::kAuto, DirectReads::kAlways,
                                         DirectReads::kNever));

TEST_F(BulkReaderTest, LeavesThePageCacheAloneUnlessAskedTo) {
  if (!MakeCold()) GTEST_SKIP() << "the file system of " << saved_.path() << " has no disk";
  ExpectContent(BulkReader(file_, DirectReads::kAuto), 0, 1 << 20);
  EXPECT_EQ(CachedPages(file_), 0u);
  ExpectContent(BulkReader(file_, DirectReads::kNever), 0, 1 << 20);
  EXPECT_GE(CachedPages(file_), (1u << 20) / 4096);
}

}  // namespace
}  // namespace ramjet
