#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/ram_source.h"
#include "mappedram/read_queue.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"
#include "tests/mappedram_testing.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

using absl::StatusCode;

constexpr uint64_t kPage = 1024;

Checksums Example() {
  return {.snapshot_digest = 0x1122334455667788,
          .pages_per_run = 16,
          .blocks = {{"ram", 4096, 100, {{1, {0xdeadbeef, 0x01020304}}, {6, {7}}}},
                     {"empty", 4096, 3, {}}}};
}

// Pages 1 and 2, 63 and 64, 99 of "ram", 0 to 2 of "rom": runs 0, 3, 4, 6 and 0.
std::unique_ptr<Snapshot> Open(const TempFile& file) {
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(file.Open());
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  return *std::move(snapshot);
}

BoundChecksums Bound(const Snapshot& snapshot) {
  absl::StatusOr<Checksums> checksums = ComputeChecksums(snapshot);
  EXPECT_TRUE(checksums.ok()) << checksums.status();
  absl::StatusOr<BoundChecksums> bound = BoundChecksums::Bind(*std::move(checksums), snapshot);
  EXPECT_TRUE(bound.ok()) << bound.status();
  return *std::move(bound);
}

TEST(Checksums, ComeBackFromTheirFile) {
  const absl::StatusOr<Checksums> back = DecodeChecksums(EncodeChecksums(Example()));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, Example());
  EXPECT_EQ(back->runs(), 3u);
  EXPECT_EQ(back->blocks[0].Find(0), std::nullopt);
  EXPECT_EQ(back->blocks[0].Find(1), 0xdeadbeef);
  EXPECT_EQ(back->blocks[0].Find(2), 0x01020304);
  EXPECT_EQ(back->blocks[0].Find(3), std::nullopt);
  EXPECT_EQ(back->blocks[0].Find(6), 7);
  EXPECT_EQ(back->blocks[0].Find(7), std::nullopt);
  EXPECT_EQ(back->blocks[1].Find(0), std::nullopt);
}

TEST(Checksums, ExampleOfTheGrammarIsAsItStandsThere) {
  const Checksums example = {.snapshot_digest = 0x1122334455667788,
                             .blocks = {{"ram", 4096, 100, {{1, {0xa1a2a3a4, 0xb1b2b3b4}}}}}};
  const std::string bytes = EncodeChecksums(example);
  const std::string head(
      "ramjetCS\1\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\x10\x01\x03ram\x80\x20\x64"
      "\x01\x01\x02\xa4\xa3\xa2\xa1\xb4\xb3\xb2\xb1",
      40);
  EXPECT_EQ(bytes.substr(0, bytes.size() - 4), head);
}

TEST(Checksums, AnyFlippedBitAndAnyTruncationIsNoticed) {
  const std::string bytes = EncodeChecksums(Example());
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[i] = static_cast<char>(flipped[i] ^ 1 << bit);
      ASSERT_FALSE(DecodeChecksums(flipped).ok()) << i;
    }
    ASSERT_FALSE(DecodeChecksums(bytes.substr(0, i)).ok()) << i;
  }
  EXPECT_THAT(DecodeChecksums("what").status(),
              StatusIs(StatusCode::kInvalidArgument, "it is not"));
}

TEST(Checksums, NumbersThatMakeNoSenseAreRefused) {
  const std::pair<Checksums, const char*> cases[] = {
      {{.pages_per_run = 0}, "0 pages a run"},
      {{.pages_per_run = 513}, "513 pages a run"},
      {{.blocks = {{"ram", 4095, 1, {}}}}, "1 pages of 4095 bytes"},
      {{.blocks = {{"ram", 1 << 17, 1, {}}}}, "1 pages of 131072 bytes"},
      {{.blocks = {{"ram", 4096, uint64_t{1} << 40, {}}}}, "1099511627776 pages of 4096"},
      {{.blocks = {{"ram", 4096, 16, {{1, {1}}}}}}, "stretch 0 of 1 runs behind 1"},
      {{.blocks = {{"ram", 4096, 16, {{0, {1, 2}}}}}}, "stretch 0 of 2 runs behind 0"},
      {{.blocks = {{"ram", 4096, 64, {{0, {1}}, {1, {2}}}}}}, "stretch 1 of 1 runs behind 0"},
      {{.blocks = {{"ram", 4096, 64, {{0, {}}}}}}, "stretch 0 of 0 runs"},
  };
  for (const auto& [checksums, message] : cases) {
    EXPECT_THAT(DecodeChecksums(EncodeChecksums(checksums)).status(),
                StatusIs(StatusCode::kDataLoss, message));
  }
}

TEST(Checksums, ThoseOfTheWriterAreThoseOfTheFile) {
  std::vector<uint8_t> ram(3000 * kPage);
  for (size_t page = 0; page < 3000; page += page % 7 + 1) ram[page * kPage + page % kPage] = 1;
  const MemorySource source(ram);
  const TempFile file;
  const TempFile sums;
  SnapshotWriter writer(
      *EncodeStream({}),
      {{.idstr = "ram", .used_length = ram.size(), .page_size = kPage, .source = &source}},
      {.threads = 3, .checksums_path = sums.path()});
  const absl::Status written = writer.Write(file.path());
  ASSERT_TRUE(written.ok()) << written;
  const absl::StatusOr<Checksums> computed = ComputeChecksums(*Open(file), 2);
  ASSERT_TRUE(computed.ok()) << computed.status();
  const absl::StatusOr<Checksums> read = ReadChecksums(sums.path());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, *computed);
  EXPECT_GT(read->runs(), 100u);
  EXPECT_THAT(ComputeChecksums(*Open(file), 2, [] { return true; }).status(),
              StatusIs(StatusCode::kCancelled, ""));
}

TEST(Checksums, ThoseOfAnotherSnapshotAreNotTakenForThisOnes) {
  const TempFile file(BytesOf(SmallContent()));
  SnapshotContent other = SmallContent();
  other.devices[0].payload = "tock tick";
  const TempFile other_file(BytesOf(other));
  const absl::StatusOr<BoundChecksums> bound =
      BoundChecksums::Bind(*ComputeChecksums(*Open(other_file)), *Open(file));
  EXPECT_THAT(bound.status(), StatusIs(StatusCode::kFailedPrecondition,
                                       absl::StrCat("another snapshot than ", file.path())));
}

// Counts what it is asked for.
class CountingSource : public PageSource {
 public:
  explicit CountingSource(const Snapshot& snapshot) : snapshot_(snapshot) {}
  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    bytes += buffer.size();
    return snapshot_.ReadPages(block, offset, buffer);
  }
  mutable uint64_t bytes = 0;

 private:
  const Snapshot& snapshot_;
};

TEST(CheckedSource, GoodPagesAreReadInAnyPieces) {
  const TempFile file(BytesOf(SmallContent()));
  const std::unique_ptr<Snapshot> snapshot = Open(file);
  const BoundChecksums checksums = Bound(*snapshot);
  const CheckedSource source(*snapshot, checksums);
  for (uint64_t first = 0; first < 100; ++first) {
    for (uint64_t count = 1; first + count <= 100; ++count) {
      std::vector<uint8_t> buffer(count * kPage);
      std::vector<uint8_t> expected(count * kPage);
      ASSERT_EQ(source.ReadPages(0, first * kPage, absl::MakeSpan(buffer)), absl::OkStatus())
          << first << "+" << count;
      ASSERT_TRUE(snapshot->ReadPages(0, first * kPage, absl::MakeSpan(expected)).ok());
      ASSERT_EQ(buffer, expected);
    }
  }
}

TEST(CheckedSource, OnePageCostsTheNonzeroOnesOfItsRun) {
  const TempFile file(BytesOf(SmallContent()));
  const std::unique_ptr<Snapshot> snapshot = Open(file);
  const BoundChecksums checksums = Bound(*snapshot);
  const CountingSource counting(*snapshot);
  const CheckedSource source(counting, checksums);
  std::vector<uint8_t> buffer(kPage);
  ASSERT_TRUE(source.ReadPages(0, 1 * kPage, absl::MakeSpan(buffer)).ok());
  EXPECT_EQ(counting.bytes, 2 * kPage);
  ASSERT_TRUE(source.ReadPages(0, 30 * kPage, absl::MakeSpan(buffer)).ok());  // zero: no sum
  EXPECT_EQ(counting.bytes, 3 * kPage);
}

// Each of a run's pages answers for all of them, for one sum is all there is.
TEST(CheckedSource, DamagedByteMakesItsRunUnreadableAndNoOther) {
  const TempFile file(BytesOf(SmallContent()));
  std::unique_ptr<Snapshot> snapshot = Open(file);
  absl::StatusOr<Checksums> sums = ComputeChecksums(*snapshot);
  ASSERT_TRUE(sums.ok());
  std::string bytes = file.Read();
  bytes[snapshot->blocks()[0].pages_offset + 64 * kPage + 17] ^= 4;
  file.Write(bytes);
  snapshot = Open(file);
  absl::StatusOr<BoundChecksums> checksums = BoundChecksums::Bind(*sums, *snapshot);
  ASSERT_TRUE(checksums.ok()) << checksums.status();
  snapshot->TakeNonzero(0);  // as the loader does
  const CheckedSource source(*snapshot, *checksums);
  const auto read = [&](uint64_t first, uint64_t count) {
    std::vector<uint8_t> buffer(count * kPage);
    return source.ReadPages(0, first * kPage, absl::MakeSpan(buffer));
  };
  EXPECT_EQ(read(63, 1), absl::OkStatus());  // the run before
  EXPECT_EQ(read(1, 2), absl::OkStatus());
  EXPECT_EQ(read(99, 1), absl::OkStatus());
  const std::string message =
      absl::StrCat(file.path(), ": the content of pages 64 to 79 of block \"ram\" is not what");
  EXPECT_THAT(read(64, 1), StatusIs(StatusCode::kDataLoss, message));
  EXPECT_THAT(read(60, 40), StatusIs(StatusCode::kDataLoss, message));
  EXPECT_THAT(read(65, 1), StatusIs(StatusCode::kDataLoss, message));
  ReadQueue queue;
  std::vector<uint8_t> page(kPage);
  EXPECT_THAT(source.EndRead(queue, 0, 0, 64 * kPage, absl::MakeSpan(page)),
              StatusIs(StatusCode::kDataLoss, message));
}

TEST(CheckedSource, StaleBytesOfZeroPagesDoNotCount) {
  const TempFile file(BytesOf(SmallContent()));
  std::unique_ptr<Snapshot> snapshot = Open(file);
  const absl::StatusOr<Checksums> sums = ComputeChecksums(*snapshot);
  std::string bytes = file.Read();
  bytes[snapshot->blocks()[0].pages_offset + 65 * kPage] = 'x';
  file.Write(bytes);
  EXPECT_EQ(*ComputeChecksums(*Open(file)), *sums);
}

}  // namespace
}  // namespace ramjet
