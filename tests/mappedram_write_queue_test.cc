#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/aligned_buffer.h"
#include "mappedram/new_file.h"
#include "mappedram/write_queue.h"

namespace ramjet {
namespace {

constexpr uint64_t kPage = 4096;

// A file that gets no name, in a directory that file systems with O_DIRECT have.
NewFile NewDirectFile() {
  absl::StatusOr<NewFile> file =
      NewFile::Create(testing::TempDir() + "/write_queue", {.direct = true});
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

std::vector<uint8_t> Read(const NewFile& file, uint64_t offset, uint64_t length) {
  std::vector<uint8_t> bytes(length);
  EXPECT_EQ(pread(file.fd(), bytes.data(), length, static_cast<off_t>(offset)),
            static_cast<ssize_t>(length));
  return bytes;
}

std::vector<uint8_t> Pages(uint8_t content, uint64_t pages) {
  return std::vector<uint8_t>(pages * kPage, content);
}

TEST(WriteQueue, MemoryIsFreeForTheNextOnceItsWriteWasWaitedFor) {
  constexpr uint64_t kWrites = 500;  // more than are ever under way
  constexpr uint64_t kPagesEach = 3;
  const NewFile file = NewDirectFile();
  ASSERT_EQ(file.SetLength(2 * kWrites * kPagesEach * kPage), absl::OkStatus());
  AlignedBuffer memory(7 * kPagesEach * kPage);
  std::array<uint64_t, 7> put = {};
  WriteQueue queue(file);
  for (uint64_t i = 0; i < kWrites; ++i) {
    ASSERT_EQ(queue.WaitFor(put[i % 7]), absl::OkStatus());
    const auto bytes = memory.first(7 * kPagesEach * kPage)
                           .subspan(i % 7 * kPagesEach * kPage, kPagesEach * kPage);
    std::fill(bytes.begin(), bytes.end(), static_cast<uint8_t>(i));
    // Backwards, with holes between them.
    ASSERT_EQ(queue.Put((kWrites - i) * 2 * kPagesEach * kPage - bytes.size(), bytes),
              absl::OkStatus());
    put[i % 7] = queue.put();
  }
  ASSERT_EQ(queue.WaitFor(queue.put()), absl::OkStatus());
  for (uint64_t i = 0; i < kWrites; ++i) {
    const uint64_t end = (kWrites - i) * 2 * kPagesEach * kPage;
    EXPECT_EQ(Read(file, end - kPagesEach * kPage, kPagesEach * kPage),
              Pages(static_cast<uint8_t>(i), kPagesEach));
    EXPECT_EQ(Read(file, end - 2 * kPagesEach * kPage, kPagesEach * kPage), Pages(0, kPagesEach));
  }
}

TEST(WriteQueue, WhatIsNotAlignedIsWrittenInItsOwnWay) {
  const NewFile file = NewDirectFile();
  AlignedBuffer memory(2 * kPage);
  const absl::Span<uint8_t> bytes = memory.first(2 * kPage);
  std::fill(bytes.begin(), bytes.end(), uint8_t{7});
  WriteQueue queue(file);
  ASSERT_EQ(queue.Put(kPage, bytes), absl::OkStatus());
  ASSERT_EQ(queue.Put(5, bytes.first(100)), absl::OkStatus());
  ASSERT_EQ(queue.Put(4 * kPage, bytes.subspan(1, kPage)), absl::OkStatus());
  EXPECT_EQ(queue.put(), 3);
  ASSERT_EQ(queue.WaitFor(3), absl::OkStatus());
  EXPECT_EQ(Read(file, kPage, 2 * kPage), Pages(7, 2));
  EXPECT_EQ(Read(file, 5, 100), std::vector<uint8_t>(100, 7));
  EXPECT_EQ(Read(file, 4 * kPage, kPage), Pages(7, 1));
}

TEST(WriteQueue, WriteThatFailsIsToldInWords) {
  const NewFile file = NewDirectFile();
  // Not unmapped, as it once was: a thread that ends the queue of a test before may map its own
  // memory there.
  void* const closed = mmap(nullptr, 4 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(closed, MAP_FAILED);
  WriteQueue queue(file);
  absl::Status status = queue.Put(0, {static_cast<const uint8_t*>(closed), 4 * kPage});
  status.Update(queue.WaitFor(queue.put()));
  munmap(closed, 4 * kPage);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("write_queue: cannot be written"));
}

TEST(WriteQueue, WritesUnderWayAreWaitedForByItsEnd) {
  const NewFile file = NewDirectFile();
  AlignedBuffer memory(256 * kPage);
  const absl::Span<uint8_t> bytes = memory.first(256 * kPage);
  std::fill(bytes.begin(), bytes.end(), uint8_t{9});
  ASSERT_EQ(file.SetLength(bytes.size()), absl::OkStatus());
  {
    WriteQueue queue(file);
    for (uint64_t page = 0; page < 256; page += 8) {
      ASSERT_EQ(queue.Put(page * kPage, bytes.subspan(page * kPage, 8 * kPage)), absl::OkStatus());
    }
  }
  EXPECT_EQ(Read(file, 0, bytes.size()), Pages(9, 256));
}

}  // namespace
}  // namespace ramjet
