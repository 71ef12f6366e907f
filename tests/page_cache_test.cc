#include "tools/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/fd.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPageBytes = 4096;
constexpr off_t kContentAt = off_t{1} << 20;
constexpr size_t kContentBytes = 64 * kPageBytes;
constexpr off_t kFileBytes = off_t{1} << 30;

// A file that is almost a hole: its content is far less than a hundredth of it.
class PageCache : public testing::Test {
 protected:
  PageCache() : path_(testing::TempDir() + "/sparse"), file_(Make(path_)) {}
  ~PageCache() override { unlink(path_.c_str()); }

  static int Make(const std::string& path) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const std::string content(kContentBytes, 'x');
    EXPECT_EQ(ftruncate(fd, kFileBytes), 0);
    EXPECT_EQ(pwrite(fd, content.data(), content.size(), kContentAt),
              static_cast<ssize_t>(content.size()));
    return fd;
  }

  // Of `length` bytes from `offset` on.
  size_t CachedPages(off_t offset, size_t length) const {
    void* const mapped = mmap(nullptr, length, PROT_READ, MAP_SHARED, file_.get(), offset);
    EXPECT_NE(mapped, MAP_FAILED);
    std::string pages(length / kPageBytes, 0);
    EXPECT_EQ(mincore(mapped, length, reinterpret_cast<unsigned char*>(pages.data())), 0);
    munmap(mapped, length);
    size_t count = 0;
    for (const char page : pages) count += page & 1;
    return count;
  }

  const std::string path_;
  const UniqueFd file_;
};

TEST_F(PageCache, AllOfTheContentAndNothingElseIsWarmOrCold) {
  if (!SetCacheState(path_, CacheState::kCold).ok()) GTEST_SKIP() << "no cold cache for " << path_;
  EXPECT_EQ(CachedPages(kContentAt, kContentBytes), 0u);
  ASSERT_TRUE(SetCacheState(path_, CacheState::kWarm).ok());
  EXPECT_EQ(CachedPages(kContentAt, kContentBytes), kContentBytes / kPageBytes);
  EXPECT_EQ(CachedPages(kFileBytes / 2, kContentBytes), 0u) << "a hole takes up memory";
}

// The share was once that of the whole file, holes and all: this one could be nothing but cold.
TEST_F(PageCache, ContentThatCannotBeDroppedIsNotCalledCold) {
  // Pages that are mapped stay cached. (Sanitizers make nothing of mlock().)
  void* const mapped =
      mmap(nullptr, kContentBytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file_.get(), kContentAt);
  ASSERT_NE(mapped, MAP_FAILED);
  const absl::Status cold = SetCacheState(path_, CacheState::kCold);
  EXPECT_TRUE(absl::IsFailedPrecondition(cold)) << cold;
  EXPECT_THAT(std::string(cold.message()), HasSubstr("100% of the content of " + path_));
  munmap(mapped, kContentBytes);
}

}  // namespace
}  // namespace ramjet
