// Reads of files, several under way at a time.
#ifndef RAMJET_MAPPEDRAM_READ_QUEUE_H_
#define RAMJET_MAPPEDRAM_READ_QUEUE_H_

#include <linux/io_uring.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace ramjet {

// A disk that has the next request before it has answered the last never rests, and one thread is
// enough for that. Through io_uring (IORING_OP_READ, Linux 5.6); a request that the disk's queue
// cannot take in one piece goes through a thread of the kernel's, as it would through one of ours.
//
// Threads: Begin() and Await() by one.
class ReadQueue {
 public:
  // Under way at a time: each has one of the slots [0, kMost).
  static constexpr size_t kMost = 4;

  // Takes nothing from the system before the first Begin().
  ReadQueue() = default;
  ReadQueue(const ReadQueue&) = delete;
  ReadQueue& operator=(const ReadQueue&) = delete;
  // REQUIRES: nothing is under way.
  ~ReadQueue();

  // Begins to read the bytes at `offset` of the file `fd` into `buffer`, which is the kernel's
  // until Await(slot) has returned. False: nothing has begun; the kernel has no io_uring or denies
  // it, as in many containers, or is short of memory. REQUIRES: nothing is under way in `slot`.
  bool Begin(size_t slot, int fd, uint64_t offset, absl::Span<uint8_t> buffer);

  // How many bytes were read; 0, too, after an error, which the next reader of them learns: nothing
  // begins any more. REQUIRES: something is under way in `slot`.
  uint64_t Await(size_t slot);

 private:
  struct Slot {
    bool ended = false;
    int32_t result = 0;  // bytes, or -errno
  };

  bool SetUp();
  void TearDown();
  void Reap();

  bool refused_ = false;  // nothing can begin, or any more
  int fd_ = -1;           // -1: it is not set up
  io_uring_params params_ = {};
  uint8_t* rings_ = nullptr;  // of both directions
  io_uring_sqe* requests_ = nullptr;
  std::array<Slot, kMost> slots_;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_READ_QUEUE_H_
