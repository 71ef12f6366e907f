// Writes past the page cache, as many under way as keep a disk busy.
#ifndef RAMJET_MAPPEDRAM_WRITE_QUEUE_H_
#define RAMJET_MAPPEDRAM_WRITE_QUEUE_H_

#include <linux/aio_abi.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/new_file.h"

namespace ramjet {

// Asynchronous, where pwrite() by several threads would do no good: ext4 (Linux 6.18) keeps a file
// locked as long as a direct write into a hole of it takes, so there is one at a time; of an
// asynchronous one, until it is under way. In the kernel's older way, io_submit(): containers
// often deny io_uring.
//
// Threads: all of it by one; others may write to the file at the same time.
class WriteQueue {
 public:
  // `file` outlives the queue.
  explicit WriteQueue(const NewFile& file);
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;
  // Waits for what is under way, and tells nobody how it ended.
  ~WriteQueue();

  // Begins to write all of `bytes`, which stay as they are until WaitFor() has said that they are
  // written. What cannot be direct, or not asynchronous, is written when it returns. Errors are
  // NewFile::WriteAt()'s, of this write or one before.
  absl::Status Put(uint64_t offset, absl::Span<const uint8_t> bytes);

  // How often Put() was called.
  uint64_t put() const { return put_; }

  // Returns when the first `count` of all that was put are written, or with the first error.
  absl::Status WaitFor(uint64_t count);

 private:
  struct Write {
    struct iocb control = {};
    uint64_t number = 0;  // from 1 on; 0: nothing is under way here
    uint64_t offset = 0;
    absl::Span<const uint8_t> bytes = {};
  };

  bool IsUnderWay(uint64_t count) const;
  // Waits for one at least.
  absl::Status Reap();

  const NewFile& file_;
  aio_context_t context_ = 0;  // 0: nothing is asynchronous
  std::array<Write, 64> writes_ = {};
  std::vector<size_t> free_;  // of writes_
  uint64_t put_ = 0;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_WRITE_QUEUE_H_
