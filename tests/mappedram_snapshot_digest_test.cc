// The same for copies, another for everything else.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_digest.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

SnapshotContent Content() {
  SnapshotContent content;
  content.blocks = {
      {.idstr = "ram", .used_length = 1 << 20, .page_size = 4096, .nonzero = {{3, 9}}},
      {.idstr = "rom", .used_length = 1 << 16, .page_size = 4096}};
  content.devices = {{"timer", 0, 2, std::string(300001, 't')}, {"cpu", 1, 12, "state"}};
  return content;
}

std::unique_ptr<Snapshot> Written(const SnapshotContent& content) {
  static int count = 0;
  const std::string path = ::testing::TempDir() + "/digest" + std::to_string(count++) + ".mr";
  EXPECT_TRUE(WriteSnapshot(content, path).ok());
  auto snapshot = Snapshot::Open(*File::Open(path), content.stream_offset == 0
                                                        ? std::nullopt
                                                        : std::optional(content.stream_offset));
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  unlink(path.c_str());
  return *std::move(snapshot);
}

uint64_t DigestOf(const SnapshotContent& content) {
  const absl::StatusOr<uint64_t> digest = DigestSnapshot(*Written(content));
  EXPECT_TRUE(digest.ok()) << digest.status();
  return *digest;
}

TEST(SnapshotDigest, IsTheSameForCopies) {
  const uint64_t digest = DigestOf(Content());
  EXPECT_EQ(DigestOf(Content()), digest);
  SnapshotContent elsewhere = Content();
  elsewhere.stream_offset = 0x5000;
  EXPECT_EQ(DigestOf(elsewhere), digest);
  elsewhere.pages_alignment = 4096;
  EXPECT_EQ(DigestOf(elsewhere), digest);
}

// A load hands the bitmaps over to those who load.
TEST(SnapshotDigest, DoesNotNeedBitmapsInMemory) {
  const std::unique_ptr<Snapshot> snapshot = Written(Content());
  (void)snapshot->TakeNonzero(0);
  EXPECT_EQ(*DigestSnapshot(*snapshot), DigestOf(Content()));
}

TEST(SnapshotDigest, IsAnotherForAnythingElse) {
  const std::function<void(SnapshotContent&)> changes[] = {
      [](auto&) {},
      [](auto& content) {
        content.blocks[0].nonzero = {{3, 8}};
      },
      [](auto& content) {
        content.blocks[0].nonzero = {{4, 9}};
      },
      [](auto& content) {
        content.blocks[1].nonzero = {{3, 9}};
      },
      [](auto& content) { content.blocks[0].idstr = "ran"; },
      [](auto& content) { content.blocks[1].used_length *= 2; },
      [](auto& content) { std::swap(content.blocks[0], content.blocks[1]); },
      [](auto& content) { content.blocks.pop_back(); },
      [](auto& content) { content.devices[0].payload.back() = 'u'; },
      [](auto& content) { content.devices[0].payload.front() = 'u'; },
      [](auto& content) { content.devices[0].payload += 't'; },
      [](auto& content) { content.devices[0].payload.pop_back(); },
      [](auto& content) { content.devices[1].payload = std::string("state\0", 6); },
      [](auto& content) { content.devices[1].name = "cpv"; },
      [](auto& content) { content.devices[1].instance_id = 2; },
      [](auto& content) { content.devices[1].version_id = 13; },
      [](auto& content) { std::swap(content.devices[0], content.devices[1]); },
      [](auto& content) { content.devices.pop_back(); },
  };
  std::set<uint64_t> digests;
  for (const auto& change : changes) {
    SnapshotContent content = Content();
    change(content);
    digests.insert(DigestOf(content));
  }
  EXPECT_EQ(digests.size(), std::size(changes));
}

TEST(SnapshotDigest, OfAFileThatHasChangedThereIsNone) {
  const std::string path = ::testing::TempDir() + "/changed.mr";
  ASSERT_TRUE(WriteSnapshot(Content(), path).ok());
  auto snapshot = Snapshot::Open(*File::Open(path));
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  const timespec times[] = {{1, 0}, {1, 0}};  // as if it had been written to
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  EXPECT_TRUE(absl::IsDataLoss(DigestSnapshot(**snapshot).status()));
  ASSERT_EQ(truncate(path.c_str(), 1 << 20), 0);
  EXPECT_TRUE(absl::IsDataLoss(DigestSnapshot(**snapshot).status()));
  unlink(path.c_str());
}

}  // namespace
}  // namespace ramjet
