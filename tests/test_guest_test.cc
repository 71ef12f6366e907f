#include "tools/test_guest.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tools/fd.h"
#include "tools/scratch_dir.h"

namespace ramjet {
namespace {

// QEMU's monitor answers before QEMU has read its initramfs. A second guest that was prepared under
// the same path then left the first with half a file, once in a few hundred runs.
TEST(TestGuest, WritingTheInitramfsAgainLeavesTheOneThatIsBeingReadWhole) {
  if (!FindBusybox().ok()) GTEST_SKIP() << FindBusybox().status();
  const absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
  ASSERT_TRUE(scratch.ok()) << scratch.status();
  const std::string path = (*scratch)->File("initramfs");
  ASSERT_TRUE(WriteInitramfs(path).ok());
  const UniqueFd reader(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(reader.valid());

  ASSERT_TRUE(WriteInitramfs(path).ok());

  struct stat reading;
  struct stat now;
  ASSERT_EQ(fstat(reader.get(), &reading), 0);
  ASSERT_EQ(stat(path.c_str(), &now), 0);
  EXPECT_NE(reading.st_ino, now.st_ino);
  EXPECT_EQ(reading.st_size, now.st_size);
}

}  // namespace
}  // namespace ramjet
