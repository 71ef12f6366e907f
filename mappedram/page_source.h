// Where a page's bytes come from: the one seam between the file and the loader.
#ifndef RAMJET_MAPPEDRAM_PAGE_SOURCE_H_
#define RAMJET_MAPPEDRAM_PAGE_SOURCE_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace ramjet {

class ReadQueue;

// Reads snapshot pages. Snapshot is the real one; tests put a source that stalls, fails or waits in
// its place.
//
// Threads: ReadPages may be called from any number of threads at once, and does not allocate unless
// it fails.
class PageSource {
 public:
  virtual ~PageSource() = default;

  // Fills `buffer` with bytes [offset, offset + buffer.size()) of the pages of block number `block`
  // (its index in Snapshot::blocks()): all of it, or an error after which the buffer's content is
  // not to be used. Pages whose nonzero bit is clear have unspecified content. REQUIRES: the bytes
  // lie inside the block. DataLoss: the file ends early or is not the file that was opened any
  // more. Unavailable: the system refused the read (the message has block, page, offset and errno);
  // a later call may succeed. ResourceExhausted: the kernel lacks memory; so may it.
  virtual absl::Status ReadPages(size_t block, uint64_t offset,
                                 absl::Span<uint8_t> buffer) const = 0;

  // As ReadPages(), but Unavailable where it would have to wait for a disk, as far as that can be
  // told.
  virtual absl::Status ReadCached(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const {
    return ReadPages(block, offset, buffer);
  }

  // Calls `prepare`, which takes the caller some time before ReadPages(), when that would read:
  // where reads take turns, for the time of one.
  virtual void InTurn(absl::FunctionRef<void()> prepare) const { prepare(); }

  // Begins what ReadPages() would do, in a slot of `queue`, and does not wait for it; false:
  // nothing has begun, and ReadPages() it is. `buffer` is not to be touched until EndRead().
  virtual bool BeginRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                         absl::Span<uint8_t> buffer) const {
    (void)queue, (void)slot, (void)block, (void)offset, (void)buffer;
    return false;
  }
  // Waits for what has begun, with the same arguments; once.
  virtual absl::Status EndRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                               absl::Span<uint8_t> buffer) const {
    (void)queue, (void)slot;
    return ReadPages(block, offset, buffer);
  }

  // Bytes [offset, offset + length) of block number `block` will be read soon. A hint, which waits
  // for nothing but room in the disk's queue. REQUIRES: they lie inside the block.
  virtual void Prefetch(size_t block, uint64_t offset, uint64_t length) const {
    (void)block, (void)offset, (void)length;
  }

  // How many of these bytes are in memory already, in whole pages of the host, so that a reader
  // waits for no disk, as far as is known. Of no use before reading only a little: it costs about
  // as much as to read a page. REQUIRES: they lie inside the block.
  virtual uint64_t CachedBytes(size_t block, uint64_t offset, uint64_t length) const {
    (void)block, (void)offset, (void)length;
    return 0;
  }
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_PAGE_SOURCE_H_
