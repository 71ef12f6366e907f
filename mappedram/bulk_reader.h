// Reads much of a file at once, past the page cache where that is faster.
#ifndef RAMJET_MAPPEDRAM_BULK_READER_H_
#define RAMJET_MAPPEDRAM_BULK_READER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/file.h"
#include "mappedram/read_queue.h"

namespace ramjet {

// How large reads treat the page cache.
enum class DirectReads {
  kAuto,    // what is in the page cache comes from there, all else straight from the disk
  kAlways,  // straight from the disk, wherever the file system can
  kNever,   // through the page cache, which then holds the file for the next load
};

// A second way into an open file: with O_DIRECT a read of 2 MiB is one request, goes to where it is
// wanted without a copy, and leaves the page cache to others; without it the kernel reads ahead.
//
// Every read asks anew what the page cache has (cachestat, Linux 6.5; before that a look at the
// first byte stands for the rest), for a file may be there in part, and others load it, too.
//
// Threads: ReadAt() may be called by any number of threads.
class BulkReader {
 public:
  // `file` outlives the reader. Where the file cannot be opened a second time, or its file system
  // knows no O_DIRECT, reads go through `file`.
  BulkReader(const File& file, DirectReads direct);
  ~BulkReader();
  BulkReader(const BulkReader&) = delete;
  BulkReader& operator=(const BulkReader&) = delete;

  // As File::ReadAt(). Goes past the page cache only with what is large, and of which offset and
  // address are multiples of the disk's unit.
  absl::Status ReadAt(uint64_t offset, absl::Span<uint8_t> buffer) const;

  // Begins what ReadAt() does, if it is to come straight from the disk; false: it is not, and
  // nothing has begun.
  bool Begin(ReadQueue& queue, size_t slot, uint64_t offset, absl::Span<uint8_t> buffer) const;
  // Waits for its end. The rest is as for ReadAt(), of which it is the second half.
  absl::Status End(ReadQueue& queue, size_t slot, uint64_t offset,
                   absl::Span<uint8_t> buffer) const;

  // How many of these bytes the page cache has; 0 if ReadAt() would not take them from there.
  uint64_t CachedBytes(uint64_t offset, uint64_t length) const;

 private:
  bool IsPastCache(uint64_t offset, uint64_t length) const;
  uint64_t DirectBytes(uint64_t offset, absl::Span<const uint8_t> buffer) const;
  uint64_t ReadDirect(uint64_t offset, absl::Span<uint8_t> buffer) const;

  const File& file_;
  const DirectReads direct_;
  int fd_ = -1;  // of our own, with O_DIRECT or with readahead; -1: none
  uint64_t direct_unit_ =
      0;  // of offsets, lengths and addresses of direct reads; 0: there are none
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_BULK_READER_H_
