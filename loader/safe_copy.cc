#include "loader/safe_copy.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>

namespace ramjet {
namespace {

// As much as a pipe holds by default.
constexpr size_t kMaxPipeBytes = 64 << 10;

// ENOSYS: the kernel was built without CONFIG_CROSS_MEMORY_ATTACH, or a filter says so. Memory of
// this process is never refused for any other reason.
bool IsDenial(int error) { return error == EPERM || error == EACCES || error == ENOSYS; }

int ErrnoOrDenial() { return IsDenial(errno) ? EPERM : errno; }

int CopyByCall(void* to, const void* from, size_t length) {
  const iovec local{.iov_base = const_cast<void*>(from), .iov_len = length};
  const iovec remote{.iov_base = to, .iov_len = length};
  const ssize_t done = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
  if (done < 0) return ErrnoOrDenial();
  return done == static_cast<ssize_t>(length) ? 0 : EFAULT;
}

int CopyBy(int read_end, int write_end, uint8_t* to, const uint8_t* from, size_t length) {
  while (length > 0) {
    const ssize_t put = write(write_end, from, std::min(length, kMaxPipeBytes));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return ErrnoOrDenial();
    for (ssize_t left = put; left > 0;) {
      const ssize_t got = read(read_end, to, static_cast<size_t>(left));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return ErrnoOrDenial();
      left -= got;
      to += got;
    }
    from += put;
    length -= static_cast<size_t>(put);
  }
  return 0;
}

// A pipe for each call: threads share nothing, and what an error leaves in it is gone.
int CopyByPipe(void* to, const void* from, size_t length) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoOrDenial();
  const int error = CopyBy(ends[0], ends[1], static_cast<uint8_t*>(to),
                           static_cast<const uint8_t*>(from), length);
  close(ends[0]);
  close(ends[1]);
  return error;
}

}  // namespace

int CopySafely(void* to, const void* from, size_t length) {
  // A filter is never taken away again.
  static std::atomic<bool> call_denied{false};
  if (!call_denied.load(std::memory_order_relaxed)) {
    const int error = CopyByCall(to, from, length);
    if (error != EPERM) return error;
    call_denied.store(true, std::memory_order_relaxed);
  }
  return CopyByPipe(to, from, length);
}

}  // namespace ramjet
