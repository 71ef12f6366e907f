#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/aligned_buffer.h"
#include "mappedram/file.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"
#include "tests/mappedram_testing.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

using absl::StatusCode;
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kPage = 4096;

// A directory of the test's own.
class SnapshotWriterTest : public testing::Test {
 protected:
  SnapshotWriterTest() : directory_(testing::TempDir() + "/writer_XXXXXX") {
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
  }
  ~SnapshotWriterTest() override { std::filesystem::remove_all(directory_); }

  std::string PathOf(const char* name) const { return directory_ + "/" + name; }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      names.push_back(entry.path().filename());
    }
    return names;
  }

  std::string directory_;
};

// Pages of a pattern in runs of all lengths, zeros between them.
Bytes Memory(uint64_t pages, uint32_t seed = 1) {
  Bytes memory(pages * kPage);
  std::mt19937 random(seed);
  for (uint64_t page = 0; page < pages;) {
    page += random() % 20;
    for (uint64_t end = page + random() % 40; page < std::min(end, pages); ++page) {
      // One byte of it would do.
      memory[page * kPage + random() % kPage] = static_cast<uint8_t>(random() % 255 + 1);
    }
  }
  return memory;
}

StreamParts Stream() {
  return *EncodeStream({.machine = "pc", .devices = {{"timer", 0, 2, "tick tock"}}});
}

std::unique_ptr<Snapshot> Open(const std::string& path) {
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*File::Open(path));
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  return snapshot.ok() ? *std::move(snapshot) : nullptr;
}

// Whatever holes, bits and pages make of it.
Bytes Content(const Snapshot& snapshot, size_t block) {
  Bytes content(snapshot.blocks()[block].used_length);
  const absl::Status read = SnapshotSource(snapshot, block).Read(0, absl::MakeSpan(content));
  EXPECT_TRUE(read.ok()) << read;
  return content;
}

NewBlock Block(const char* idstr, const Bytes& memory, const RamSource& source) {
  return {.idstr = idstr, .used_length = memory.size(), .page_size = kPage, .source = &source};
}

TEST_F(SnapshotWriterTest, BlocksOfMemoryComeBackInEveryWayOfWriting) {
  const Bytes ram = Memory(3000);
  const Bytes rom = Memory(77, 2);
  const MemorySource ram_source(ram);
  const MemorySource rom_source(rom);
  for (const unsigned threads : {1u, 2u, 5u}) {
    for (const ZeroDetection detection :
         {ZeroDetection::kNone, ZeroDetection::kOneThread, ZeroDetection::kAllThreads}) {
      for (const bool direct : {false, true}) {
        SnapshotWriter writer(Stream(),
                              {Block("ram", ram, ram_source), Block("rom", rom, rom_source)},
                              {.threads = threads, .zero_detection = detection, .direct = direct});
        const absl::Status written = writer.Write(PathOf("vm.mr"));
        ASSERT_TRUE(written.ok()) << written;
        const std::unique_ptr<Snapshot> snapshot = Open(PathOf("vm.mr"));
        ASSERT_NE(snapshot, nullptr);
        EXPECT_EQ(Content(*snapshot, 0), ram);
        EXPECT_EQ(Content(*snapshot, 1), rom);
        const bool all = detection == ZeroDetection::kNone;
        EXPECT_EQ(snapshot->blocks()[0].nonzero_pages == 3000, all);
        EXPECT_EQ(writer.progress().total, ram.size() + rom.size());
        EXPECT_EQ(writer.progress().done, ram.size() + rom.size());
        EXPECT_EQ(
            writer.progress().written,
            (snapshot->blocks()[0].nonzero_pages + snapshot->blocks()[1].nonzero_pages) * kPage);
        EXPECT_EQ(snapshot->description().devices.size(), 1);
        EXPECT_THAT(Files(), testing::ElementsAre("vm.mr"));
      }
    }
  }
}

// More windows than are ever under way, from memory that the disk can read itself and from a file,
// whose buffers are used again and again.
TEST_F(SnapshotWriterTest, DirectWritesUnderWayComeBackFromMemoryAndFiles) {
  const Bytes image = Memory(10000);
  AlignedBuffer memory(image.size());
  std::copy(image.begin(), image.end(), memory.first(image.size()).begin());
  const MemorySource from_memory(memory.first(image.size()));
  const TempFile raw(std::string(image.begin(), image.end()));
  const File file = raw.Open();
  const FileSource from_file(file, 0);
  for (const unsigned threads : {1u, 2u}) {
    SnapshotWriter writer(Stream(),
                          {Block("memory", image, from_memory), Block("file", image, from_file)},
                          {.threads = threads, .direct = true});
    const absl::Status written = writer.Write(PathOf("f"));
    ASSERT_TRUE(written.ok()) << written;
    const std::unique_ptr<Snapshot> snapshot = Open(PathOf("f"));
    ASSERT_NE(snapshot, nullptr);
    EXPECT_EQ(Content(*snapshot, 0), image);
    EXPECT_EQ(Content(*snapshot, 1), image);
  }
}

TEST_F(SnapshotWriterTest, PagesOfZerosAreHoles) {
  Bytes ram(64 << 20);
  ram[10 << 20] = 1;
  const MemorySource source(ram);
  ASSERT_TRUE(SnapshotWriter(Stream(), {Block("ram", ram, source)}, {}).Write(PathOf("f")).ok());
  struct stat info;
  ASSERT_EQ(stat(PathOf("f").c_str(), &info), 0);
  EXPECT_LT(info.st_blocks * 512, 1 << 20);
  EXPECT_EQ(Open(PathOf("f"))->blocks()[0].nonzero_pages, 1);
}

TEST_F(SnapshotWriterTest, FileWithHolesAndAnEndTooSoonIsReadAsItsBytesAre) {
  Bytes image = Memory(500);
  const TempFile raw(std::string(100, 'x') + std::string(image.begin(), image.end()));
  ASSERT_EQ(truncate(raw.path().c_str(), 100 + 300 * kPage + 7), 0);
  std::fill(image.begin() + 300 * kPage + 7, image.end(), 0);
  const File file = raw.Open();
  const FileSource source(file, 100);
  ASSERT_TRUE(SnapshotWriter(Stream(), {Block("ram", image, source)}, {}).Write(PathOf("f")).ok());
  EXPECT_EQ(Content(*Open(PathOf("f")), 0), image);
}

TEST_F(SnapshotWriterTest, HolesOfASparseFileAreNotReadAtAll) {
  const TempFile raw;
  constexpr uint64_t kLength = uint64_t{1} << 40;
  ASSERT_EQ(truncate(raw.path().c_str(), kLength), 0);
  const int fd = open(raw.path().c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(pwrite(fd, "x", 1, (uint64_t{1} << 39) + 5), 1);
  close(fd);
  const File file = raw.Open();
  const FileSource source(file, 0);
  SnapshotWriter writer(
      Stream(), {{.idstr = "ram", .used_length = kLength, .page_size = kPage, .source = &source}},
      {});
  const absl::Status written = writer.Write(PathOf("f"));
  ASSERT_TRUE(written.ok()) << written;
  const std::unique_ptr<Snapshot> snapshot = Open(PathOf("f"));
  EXPECT_EQ(snapshot->blocks()[0].nonzero_pages, 1);
  EXPECT_TRUE(snapshot->nonzero(0).Test((uint64_t{1} << 39) / kPage));
}

TEST_F(SnapshotWriterTest, SnapshotMadeOfAnotherCarriesEverythingAlong) {
  SnapshotContent content = SmallContent();
  content.early_devices = {{"early", 0, 1, "bird"}};
  content.live = {{"dirty-bitmap", 0, 1, "live"}};
  content.capabilities.push_back("x-ignore-shared");
  content.blocks.push_back(
      {.idstr = "shared", .used_length = 4096, .page_size = 1024, .ignored = true});
  content.stream_offset = 12345;
  const TempFile old(BytesOf(content));
  absl::StatusOr<std::unique_ptr<Snapshot>> opened = Snapshot::Open(old.Open(), 12345);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const std::shared_ptr<const Snapshot> from = *std::move(opened);
  const absl::StatusOr<StreamParts> stream = CarryStream(from);
  ASSERT_TRUE(stream.ok()) << stream.status();
  const SnapshotSource ram(*from, 0);
  const SnapshotSource rom(*from, 1);
  const auto block = [&](size_t index, const RamSource* source) {
    const SnapshotBlock& old_block = from->blocks()[index];
    return NewBlock{.idstr = old_block.idstr,
                    .used_length = old_block.used_length,
                    .page_size = old_block.page_size,
                    .source = source,
                    .address = old_block.address};
  };
  // In another order.
  SnapshotWriter writer(*stream, {block(1, &rom), block(2, nullptr), block(0, &ram)},
                        {.pages_alignment = 1024});
  const absl::Status written = writer.Write(PathOf("f"));
  ASSERT_TRUE(written.ok()) << written;
  const std::unique_ptr<Snapshot> made = Open(PathOf("f"));
  EXPECT_EQ(Content(*made, 2), Content(*from, 0));
  EXPECT_EQ(Content(*made, 0), Content(*from, 1));
  EXPECT_FALSE(made->blocks()[1].in_file());
  EXPECT_EQ(made->blocks()[2].nonzero_pages, from->blocks()[0].nonzero_pages);
  EXPECT_EQ(made->description().machine, from->description().machine);
  ASSERT_EQ(made->description().devices.size(), 3);
  for (size_t i = 0; i < 3; ++i) {
    const DeviceSection& a = from->description().devices[i];
    const DeviceSection& b = made->description().devices[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.size, b.size);
  }
}

TEST_F(SnapshotWriterTest, WhatCouldNotBeReadAgainIsRefused) {
  const Bytes ram(2 * kPage, 1);
  const MemorySource source(ram);
  const NewBlock good = Block("ram", ram, source);
  const auto refusal = [&](std::vector<NewBlock> blocks) {
    SnapshotWriter writer(Stream(), std::move(blocks), {});
    return writer.Write(PathOf("f"));
  };
  const std::pair<std::function<void(NewBlock&)>, const char*> cases[] = {
      {[](NewBlock& b) { b.idstr = ""; }, "name is not"},
      {[](NewBlock& b) { b.idstr = "a\nb"; }, "name is not"},
      {[](NewBlock& b) { b.idstr = std::string(256, 'x'); }, "name is not"},
      {[](NewBlock& b) { b.page_size = 3000; }, "page size of 3000"},
      {[](NewBlock& b) { b.page_size = 512; }, "page size of 512"},
      {[](NewBlock& b) { b.used_length = 0; }, "length of 0"},
      {[](NewBlock& b) { b.used_length = 4097; }, "length of 4097"},
      {[](NewBlock& b) { b.used_length = uint64_t{1} << 47; }, "too large"},
      {[](NewBlock& b) { b.source = nullptr; }, "x-ignore-shared"},
  };
  for (const auto& [change, message] : cases) {
    NewBlock block = good;
    change(block);
    EXPECT_THAT(refusal({block}), StatusIs(StatusCode::kInvalidArgument, message));
  }
  EXPECT_THAT(refusal({good, good}), StatusIs(StatusCode::kInvalidArgument, "two of that name"));
  EXPECT_THAT(refusal({}), StatusIs(StatusCode::kInvalidArgument, "0 blocks"));
  EXPECT_EQ(EncodeStream({.uuid = "short"}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodeStream({.devices = {{"\n"}}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(Files(), testing::IsEmpty());
}

}  // namespace
}  // namespace ramjet
