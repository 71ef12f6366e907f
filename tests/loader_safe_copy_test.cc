#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "loader/safe_copy.h"
#include "tests/seccomp_testing.h"

namespace ramjet {
namespace {

constexpr size_t kBytes = 3 << 20;  // more than a pipe holds

void* MapShared(size_t bytes) {
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

// What all ways have to do. 0, or the line of what went wrong.
int CopyAndFail() {
  std::vector<uint8_t> from(kBytes);
  for (size_t i = 0; i < kBytes; ++i) from[i] = static_cast<uint8_t>(i * 7 + i / 251);
  auto* const to = static_cast<uint8_t*>(MapShared(kBytes));
  if (CopySafely(to, from.data(), kBytes) != 0) return __LINE__;
  if (std::memcmp(to, from.data(), kBytes) != 0) return __LINE__;
  if (CopySafely(to, from.data(), 0) != 0) return __LINE__;
  // Behind the end of a file there is no memory, and an access is a SIGBUS.
  const int fd = static_cast<int>(syscall(SYS_memfd_create, "short", 0));
  if (ftruncate(fd, kBytes / 2) != 0) return __LINE__;
  void* const ends = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (CopySafely(ends, from.data(), kBytes) != EFAULT) return __LINE__;
  if (CopySafely(to, ends, kBytes) != EFAULT) return __LINE__;
  // What failed leaves nothing behind that the next could take for its own.
  std::memset(to, 0, kBytes);
  if (CopySafely(to, from.data(), kBytes) != 0) return __LINE__;
  return std::memcmp(to, from.data(), kBytes) == 0 ? 0 : __LINE__;
}

TEST(SafeCopy, CopiesAndSaysWhatItCannotReach) { EXPECT_EQ(RunInChild(CopyAndFail), 0); }

// Where a filter denies process_vm_writev(2), aliased memory was poisoned page after page: as if
// the kernel had no memory.
TEST(SafeCopy, DoesTheSameByAPipeWhereTheCallIsDenied) {
  for (const int error : {EPERM, ENOSYS, EACCES}) {
    EXPECT_EQ(RunInChild([&] {
                Deny({{SYS_process_vm_writev}, {SYS_process_vm_readv}}, error);
                return CopyAndFail();
              }),
              0)
        << std::strerror(error);
  }
}

TEST(SafeCopy, GoesOnByAPipeWhenTheCallIsDeniedLater) {
  EXPECT_EQ(RunInChild([] {
              if (const int line = CopyAndFail(); line != 0) return line;
              Deny({{SYS_process_vm_writev}}, EPERM);
              return CopyAndFail();
            }),
            0);
}

TEST(SafeCopy, SaysThatAllWaysAreDenied) {
  for (const int error : {EPERM, ENOSYS}) {
    EXPECT_EQ(RunInChild([&] {
                Deny({{SYS_process_vm_writev}, {SYS_pipe2}}, error);
                const char from = 1;
                char to = 0;
                return CopySafely(&to, &from, 1);
              }),
              EPERM);
  }
}

}  // namespace
}  // namespace ramjet
