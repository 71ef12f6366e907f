// Which of a process's reads are those of an incoming migration.
#ifndef RAMJET_TOOLS_PRELOAD_INCOMING_DOOR_H_
#define RAMJET_TOOLS_PRELOAD_INCOMING_DOOR_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "mappedram/format.h"

namespace ramjet {

// QEMU loads a stream only if its command line has -incoming (migrate-incoming requires
// `-incoming defer`), only before its guest runs, and only one stream at a time. It reads a stream
// from one descriptor and closes that at the end. So the door is
//
//   shut   unless the command line has -incoming, and for ever once a stream has been loaded: from
//          then on the guest may choose the bytes of any read;
//   open   until a stream begins, and again if its load fails;
//   taken  by one descriptor, until QEMU closes it. Whatever is read from that descriptor belongs
//          to the stream. The guest has chosen some of these bytes (device state), so they are not
//          looked at, and no other stream can begin.
//
// Threads: every method may be called concurrently.
class IncomingDoor {
 public:
  void OpenIfAsked(int argc, const char* const* argv) {
    for (int i = 1; i < argc; ++i) {
      if (std::strcmp(argv[i], "-incoming") == 0 || std::strcmp(argv[i], "--incoming") == 0) Open();
    }
  }
  void Open() { state_.store(kOpen, std::memory_order_release); }
  void Shut() { state_.store(kShut, std::memory_order_release); }
  // False if another thread has been faster.
  bool Take(int fd) {
    int open = kOpen;
    if (!state_.compare_exchange_strong(open, fd)) return false;
    expected_.store(kNone);
    return true;
  }

  // In a forked child: a stream that has begun is its parent's.
  void LeaveToParent() {
    if (!is_open() || expected_.load() != kNone) Shut();
  }

  bool is_open() const { return state_.load(std::memory_order_acquire) == kOpen; }
  bool is_shut() const { return state_.load(std::memory_order_acquire) == kShut; }
  bool IsTakenBy(int fd) const { return fd >= 0 && state_.load(std::memory_order_acquire) == fd; }

  // The stream will be read from `fd`, whatever its first read looks like. The first descriptor
  // counts, while the door is open; QEMU opens one more for each multifd channel.
  void Expect(int fd) {
    int none = kNone;
    if (is_open()) expected_.compare_exchange_strong(none, fd);
  }
  bool IsExpectedFrom(int fd) const { return is_open() && fd >= 0 && expected_.load() == fd; }

  // Whether a read of `fd`, which has brought `got` bytes, is the first of a stream.
  bool Begins(int fd, const iovec* iov, size_t count, ssize_t got) const {
    return IsExpectedFrom(fd) || (is_open() && IsHead(iov, count, got));
  }

 private:
  static constexpr int kShut = INT_MIN;
  static constexpr int kOpen = INT_MIN + 1;
  static constexpr int kNone = INT_MIN;

  // QEMU reads the first bytes of a stream into the whole of an empty buffer (IO_BUF_SIZE), and has
  // no other reader with a buffer of that size that a peer of the VM could fill. A socket may give
  // fewer bytes than the magic number has.
  static bool IsHead(const iovec* iov, size_t count, ssize_t got) {
    constexpr size_t kBufferBytes = 32 << 10;
    constexpr uint8_t kMagic[] = {kStreamMagic >> 24, kStreamMagic >> 16 & 0xff,
                                  kStreamMagic >> 8 & 0xff, kStreamMagic & 0xff};
    return count == 1 && got > 0 && iov[0].iov_len == kBufferBytes &&
           std::memcmp(iov[0].iov_base, kMagic,
                       std::min(sizeof(kMagic), static_cast<size_t>(got))) == 0;
  }

  std::atomic<int> state_{kShut};  // or the descriptor by which the door is taken
  std::atomic<int> expected_{kNone};
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_INCOMING_DOOR_H_
