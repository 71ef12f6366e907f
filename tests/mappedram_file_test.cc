#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using absl::StatusCode;

std::string ReadAll(const File& file) {
  std::vector<uint8_t> bytes(file.size());
  EXPECT_EQ(file.ReadAt(0, absl::MakeSpan(bytes)), absl::OkStatus());
  return std::string(bytes.begin(), bytes.end());
}

TEST(File, OpenKnowsNameSizeAndIdentity) {
  const TempFile temp("hello");
  const File file = temp.Open();
  struct stat info;
  ASSERT_EQ(stat(temp.path().c_str(), &info), 0);
  EXPECT_EQ(file.name(), temp.path());
  EXPECT_EQ(file.size(), 5);
  EXPECT_EQ(file.inode(), info.st_ino);
  EXPECT_EQ(file.device(), info.st_dev);
  EXPECT_EQ(fcntl(file.fd(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(ReadAll(file), "hello");
}

TEST(File, ReadCachedAtGivesWhatThePageCacheHasAndWaitsForNothing) {
  const std::string content(1 << 20, 'x');
  const TempFile temp(content);
  const File file = temp.Open();
  std::vector<uint8_t> bytes(content.size());
  EXPECT_EQ(file.ReadCachedAt(0, absl::MakeSpan(bytes)), absl::OkStatus());
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), content);
  EXPECT_THAT(file.ReadCachedAt(1, absl::MakeSpan(bytes)),
              StatusIs(StatusCode::kDataLoss, "ends before offset"));

  ASSERT_EQ(fsync(file.fd()), 0);
  ASSERT_EQ(posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  const iovec byte{.iov_base = bytes.data(), .iov_len = 1};
  if (preadv2(file.fd(), &byte, 1, 512 << 10, RWF_NOWAIT) >= 0 || errno != EAGAIN) {
    GTEST_SKIP() << "this file system forgets nothing, or does not tell";
  }
  EXPECT_THAT(file.ReadCachedAt(0, absl::MakeSpan(bytes)),
              StatusIs(StatusCode::kUnavailable, "is not in the page cache"));
}

TEST(File, OpenOfMissingFileIsNotFound) {
  EXPECT_THAT(File::Open("/nonexistent/snapshot").status(),
              StatusIs(StatusCode::kNotFound, "/nonexistent/snapshot: cannot be opened"));
}

TEST(File, OpenOfDirectoryIsRefused) {
  EXPECT_THAT(File::Open("/tmp").status(),
              StatusIs(StatusCode::kInvalidArgument, "/tmp: is a directory, not a regular file"));
}

// Would wait for a writer for ever if it were opened the usual way.
TEST(File, OpenOfPipeIsRefusedAtOnce) {
  const TempFile temp;
  unlink(temp.path().c_str());
  ASSERT_EQ(mkfifo(temp.path().c_str(), 0600), 0);
  EXPECT_THAT(File::Open(temp.path()).status(),
              StatusIs(StatusCode::kInvalidArgument, ": is a pipe, not a regular file"));
}

TEST(File, OpenOfDeviceIsRefused) {
  EXPECT_THAT(File::Open("/dev/zero").status(),
              StatusIs(StatusCode::kInvalidArgument, ": is a character device"));
}

TEST(File, OpenOfSocketIsRefused) {
  // The test's own directory may have too long a name for a socket.
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/tmp/ramjet_file_test_XXXXXX"};
  ASSERT_NE(mkdtemp(address.sun_path), nullptr);
  const std::string directory = address.sun_path;
  const std::string path = directory + "/socket";
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_THAT(File::Open(path).status(),
              StatusIs(StatusCode::kNotFound, "/socket: cannot be opened"));
  close(fd);
  unlink(path.c_str());
  rmdir(directory.c_str());
}

TEST(File, ReadBeyondTheEndIsDataLossWithTheNumbers) {
  const TempFile temp("hello");
  uint8_t buffer[4];
  EXPECT_THAT(temp.Open().ReadAt(3, absl::MakeSpan(buffer)),
              StatusIs(StatusCode::kDataLoss,
                       ": ends before offset 7: reading 4 bytes at offset 3 gave 2"));
}

TEST(File, FailedReadIsUnavailableAndSaysWhy) {
  const TempFile temp("hello");
  uint8_t buffer[4];
  EXPECT_THAT(temp.Open().ReadAt(uint64_t{1} << 63, absl::MakeSpan(buffer)),
              StatusIs(StatusCode::kUnavailable,
                       "reading 4 bytes at offset 9223372036854775808 "
                       "failed: Invalid argument"));
}

TEST(File, ReadOfNothingIsFineAnywhere) {
  const TempFile temp("hello");
  EXPECT_EQ(temp.Open().ReadAt(1000, {}), absl::OkStatus());
}

TEST(File, ReopenSharesNeitherPositionNorFlags) {
  const TempFile temp("hello");
  const int fd = open(temp.path().c_str(), O_RDONLY);
  absl::StatusOr<File> file = File::Reopen(fd, "the snapshot");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->name(), "the snapshot");
  EXPECT_NE(file->fd(), fd);
  EXPECT_EQ(lseek(file->fd(), 3, SEEK_SET), 3);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
  close(fd);
  EXPECT_EQ(ReadAll(*file), "hello");
}

TEST(File, ReopenOfUnlinkedFileAndOfMemfdWorks) {
  const int fd = memfd_create("snapshot", MFD_CLOEXEC);
  ASSERT_EQ(write(fd, "hello", 5), 5);
  absl::StatusOr<File> file = File::Reopen(fd, "memfd");
  close(fd);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(ReadAll(*file), "hello");
}

TEST(File, ReopenOfWriteOnlyDescriptorCanBeRead) {
  const TempFile temp("hello");
  const int fd = open(temp.path().c_str(), O_WRONLY);
  absl::StatusOr<File> file = File::Reopen(fd, "write-only");
  close(fd);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(ReadAll(*file), "hello");
}

TEST(File, ReopenOfPipeOrClosedDescriptorIsRefused) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  EXPECT_THAT(File::Reopen(fds[0], "stdin").status(),
              StatusIs(StatusCode::kInvalidArgument, "stdin: is a pipe, not a regular file"));
  close(fds[0]);
  close(fds[1]);
  EXPECT_THAT(File::Reopen(fds[0], "closed").status(),
              StatusIs(StatusCode::kFailedPrecondition, "closed: is not an open file"));
}

TEST(File, MoveHandsTheDescriptorOver) {
  const TempFile temp("hello");
  File from = temp.Open();
  const int fd = from.fd();
  File to(std::move(from));
  EXPECT_EQ(to.fd(), fd);
  EXPECT_EQ(from.fd(), -1);  // NOLINT: what was moved from is empty, that is the promise
  const TempFile other("world!");
  to = other.Open();
  EXPECT_EQ(ReadAll(to), "world!");
}

TEST(File, UnchangedFileIsUnchangedEvenIfUnlinkedOrRenamed) {
  const TempFile temp("hello");
  const File file = temp.Open();
  EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
  ASSERT_EQ(rename(temp.path().c_str(), (temp.path() + "2").c_str()), 0);
  EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
  unlink((temp.path() + "2").c_str());
  EXPECT_EQ(file.CheckUnchanged(), absl::OkStatus());
}

TEST(File, ChangeOfSizeIsNoticed) {
  const TempFile temp("hello");
  const File file = temp.Open();
  ASSERT_EQ(truncate(temp.path().c_str(), 3), 0);
  EXPECT_THAT(file.CheckUnchanged(),
              StatusIs(StatusCode::kDataLoss,
                       ": changed since it was opened: its size was 5 bytes and now is 3"));
}

TEST(File, ChangeOfContentIsNoticed) {
  const TempFile temp("hello");
  const File file = temp.Open();
  usleep(20000);  // more than a tick of the clock by which files are stamped
  const int fd = open(temp.path().c_str(), O_WRONLY);
  ASSERT_EQ(pwrite(fd, "j", 1, 0), 1);
  close(fd);
  EXPECT_THAT(file.CheckUnchanged(),
              StatusIs(StatusCode::kDataLoss, ": changed since it was opened: it was written to"));
}

}  // namespace
}  // namespace ramjet
