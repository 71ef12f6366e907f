#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mappedram/read_queue.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

constexpr uint64_t kFileBytes = 300'000;

class ReadQueueTest : public testing::Test {
 protected:
  ReadQueueTest() : content_(Noise(kFileBytes)), saved_(content_), file_(saved_.Open()) {}

  void SetUp() override {
    uint8_t byte;
    if (!queue_.Begin(0, file_.fd(), 0, {&byte, 1})) {
      GTEST_SKIP() << "this system has no io_uring, or denies it";
    }
    ASSERT_EQ(queue_.Await(0), 1u);
  }
  bool IsContent(uint64_t offset, absl::Span<const uint8_t> bytes) const {
    return std::equal(bytes.begin(), bytes.end(),
                      reinterpret_cast<const uint8_t*>(content_.data()) + offset);
  }

  const std::string content_;
  const TempFile saved_;
  const File file_;
  ReadQueue queue_;
};

TEST_F(ReadQueueTest, ReadsSeveralAtATimeInAnyOrderOfTheirWaiting) {
  constexpr uint64_t kBytes = 20'000;
  std::array<std::vector<uint8_t>, ReadQueue::kMost> buffers;
  for (uint64_t round = 0; round < 50; ++round) {  // many times around the rings
    for (size_t slot = 0; slot < buffers.size(); ++slot) {
      buffers[slot].assign(kBytes, 0xee);
      ASSERT_TRUE(queue_.Begin(slot, file_.fd(), 1000 * round + slot * kBytes,
                               absl::MakeSpan(buffers[slot])));
    }
    for (size_t i = 0; i < buffers.size(); ++i) {
      const size_t slot = (i * 3 + round) % buffers.size();
      ASSERT_EQ(queue_.Await(slot), kBytes);
      EXPECT_TRUE(IsContent(1000 * round + slot * kBytes, buffers[slot])) << round << " " << slot;
    }
  }
}

TEST_F(ReadQueueTest, GivesWhatThereIsBeforeTheEndOfTheFile) {
  std::vector<uint8_t> buffer(1000);
  ASSERT_TRUE(queue_.Begin(2, file_.fd(), kFileBytes - 300, absl::MakeSpan(buffer)));
  ASSERT_TRUE(queue_.Begin(1, file_.fd(), kFileBytes + 300, absl::MakeSpan(buffer).last(300)));
  EXPECT_EQ(queue_.Await(1), 0u);
  EXPECT_EQ(queue_.Await(2), 300u);
  EXPECT_TRUE(IsContent(kFileBytes - 300, absl::MakeSpan(buffer).first(300)));
}

TEST_F(ReadQueueTest, AReadThatFailsGivesNothingAndLeavesTheOthersAlone) {
  std::vector<uint8_t> buffer(1000);
  uint8_t byte;
  ASSERT_TRUE(queue_.Begin(0, file_.fd(), 5000, absl::MakeSpan(buffer)));
  ASSERT_TRUE(queue_.Begin(1, /*fd=*/-1, 0, {&byte, 1}));
  EXPECT_EQ(queue_.Await(1), 0u);
  EXPECT_EQ(queue_.Await(0), buffer.size());
  EXPECT_TRUE(IsContent(5000, buffer));
}

TEST(ReadQueue, WhereTheSystemDeniesItNothingBegins) {
  const TempFile saved("content");
  const File file = saved.Open();
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);  // as good a reason as any
  ReadQueue queue;
  uint8_t byte;
  EXPECT_FALSE(queue.Begin(0, file.fd(), 0, {&byte, 1}));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(queue.Begin(0, file.fd(), 0, {&byte, 1})) << "asked for a second time";
}

}  // namespace
}  // namespace ramjet
