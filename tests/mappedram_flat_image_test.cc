// Raw images, written by any number of threads: the same bytes, and holes where there are zeros.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "mappedram/flat_image.h"
#include "mappedram/new_file.h"
#include "mappedram/ram_source.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kWindow = 2 << 20;  // what a thread takes at once
constexpr uint64_t kLengths[] = {3 * kWindow + 7 * kPage, kPage, 5 * kWindow - 512};

// Memory whose pages are zero, a few of one kind behind the other, or random.
std::vector<uint8_t> SomeMemory(uint64_t length, std::mt19937& random) {
  std::vector<uint8_t> memory(length);
  for (uint64_t at = 0; at < length; at += kPage * (1 + random() % 40)) {
    for (uint64_t end = std::min(length, at + kPage * (1 + random() % 40)); at < end; ++at) {
      memory[at] = static_cast<uint8_t>(random());
    }
    at = (at + kPage - 1) / kPage * kPage;
  }
  return memory;
}

// Which fails when it is read at or behind `bad`.
class Source : public MemorySource {
 public:
  Source(const std::vector<uint8_t>& memory, uint64_t bad)
      : MemorySource(absl::MakeSpan(memory)), bad_(bad) {}
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override {
    if (offset + buffer.size() > bad_) return absl::DataLossError("ends early");
    return MemorySource::Read(offset, buffer);
  }

 private:
  const uint64_t bad_;
};

class FlatImageTest : public testing::Test {
 protected:
  FlatImageTest() {
    std::mt19937 random(1);
    for (const uint64_t length : kLengths) {
      memory_.push_back(SomeMemory(length, random));
      all_.append(memory_.back().begin(), memory_.back().end());
    }
  }

  // The blocks, of which the last cannot be read from `bad` on.
  std::vector<FlatImage::Block> Blocks(uint64_t bad = UINT64_MAX) {
    std::vector<FlatImage::Block> blocks;
    for (const std::vector<uint8_t>& memory : memory_) {
      sources_.push_back(std::make_unique<Source>(memory, blocks.size() == 2 ? bad : UINT64_MAX));
      blocks.push_back({.source = sources_.back().get(), .length = memory.size()});
    }
    return blocks;
  }

  // What is allocated of the file that it has just written.
  static uint64_t AllocatedBytes(const NewFile& file) {
    struct stat status = {};
    EXPECT_EQ(fstat(file.fd(), &status), 0);
    return 512 * static_cast<uint64_t>(status.st_blocks);
  }

  const std::string path_ = testing::TempDir() + "/flat";
  std::vector<std::vector<uint8_t>> memory_;
  std::string all_;
  std::vector<std::unique_ptr<Source>> sources_;
};

TEST_F(FlatImageTest, AnyNumberOfThreadsWritesTheSameBytesAndHoles) {
  for (const bool direct : {false, true}) {
    for (const unsigned threads : {1u, 2u, 7u}) {
      SCOPED_TRACE(absl::StrCat(threads, " threads", direct ? ", direct" : ""));
      absl::StatusOr<NewFile> file = NewFile::Create(path_, {.direct = direct});
      ASSERT_TRUE(file.ok()) << file.status();
      FlatImage image(Blocks(), nullptr, {.threads = threads});
      ASSERT_EQ(image.Write(*file), absl::OkStatus());
      EXPECT_EQ(image.done_bytes(), all_.size());
      EXPECT_LT(image.written_bytes(), all_.size() * 2 / 3);
      // File systems may need some for themselves, or allocate more than a page at once.
      EXPECT_LT(AllocatedBytes(*file), image.written_bytes() * 5 / 4);
      ASSERT_EQ(file->Publish(), absl::OkStatus());
      const absl::StatusOr<File> written = File::Open(path_);
      ASSERT_TRUE(written.ok()) << written.status();
      std::vector<uint8_t> bytes(all_.size());
      ASSERT_EQ(written->size(), all_.size());
      ASSERT_EQ(written->ReadAt(0, absl::MakeSpan(bytes)), absl::OkStatus());
      EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), all_.begin(),
                             [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); }));
    }
  }
}

TEST_F(FlatImageTest, DiffByThreadsHasJustWhatDiffers) {
  memory_.resize(1);
  std::vector<uint8_t> base = memory_[0];
  for (const uint64_t page : {0u, 511u, 512u, 513u, 1542u}) base[page * kPage + 9] ^= 1;
  const MemorySource base_source(base);
  absl::StatusOr<NewFile> file = NewFile::Create(path_, {});
  ASSERT_TRUE(file.ok()) << file.status();
  FlatImage image(Blocks(), &base_source, {.threads = 3});
  ASSERT_EQ(image.Write(*file), absl::OkStatus());
  EXPECT_EQ(image.written_bytes(), 5 * kPage);
  std::vector<uint8_t> page(kPage);
  ASSERT_EQ(pread(file->fd(), page.data(), kPage, 513 * kPage), static_cast<ssize_t>(kPage));
  EXPECT_TRUE(std::equal(page.begin(), page.end(), memory_[0].begin() + 513 * kPage));
}

TEST_F(FlatImageTest, ErrorOfOneThreadEndsAll) {
  absl::StatusOr<NewFile> file = NewFile::Create(path_, {});
  ASSERT_TRUE(file.ok()) << file.status();
  FlatImage image(Blocks(1 << 20), nullptr, {.threads = 3});
  EXPECT_THAT(image.Write(*file), StatusIs(absl::StatusCode::kDataLoss, "ends early"));
  EXPECT_LT(image.done_bytes(), all_.size());
}

TEST_F(FlatImageTest, CancelledWritingSaysSo) {
  absl::StatusOr<NewFile> file = NewFile::Create(path_, {});
  ASSERT_TRUE(file.ok()) << file.status();
  FlatImage image(Blocks(), nullptr, {.threads = 2});
  image.Cancel();
  EXPECT_THAT(image.Write(*file),
              StatusIs(absl::StatusCode::kCancelled, "flat: its writing was cancelled"));
  EXPECT_EQ(image.written_bytes(), 0u);
}

}  // namespace
}  // namespace ramjet
