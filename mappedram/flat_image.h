// Writes RAM as plain bytes, one block behind the other, by several threads.
#ifndef RAMJET_MAPPEDRAM_FLAT_IMAGE_H_
#define RAMJET_MAPPEDRAM_FLAT_IMAGE_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "mappedram/new_file.h"
#include "mappedram/ram_source.h"

namespace ramjet {

// A raw image: what Firecracker's memory file is, Cloud Hypervisor's `memory-ranges`, and what
// others call a memory dump. Zeros are holes. With a base it has only what is other than there, and
// zeros that are not zero in the base are written: a diff, as LayeredSource reads it.
class FlatImage {
 public:
  // A source outlives the image.
  struct Block {
    const RamSource* source = nullptr;
    uint64_t length = 0;  // bytes
  };

  struct Options {
    unsigned threads = 0;   // that read, look for zeros and write; 0: as many as suit the machine
    bool writeback = true;  // the disk begins with what is written, for the caller will sync
  };

  // `base`, of all blocks as one, outlives the image; null: none.
  FlatImage(std::vector<Block> blocks, const RamSource* base, Options options)
      : blocks_(std::move(blocks)), base_(base), options_(options) {}

  // Once. The caller syncs and publishes `file`. InvalidArgument: a block does not begin where the
  // file system can have a hole end, which a diff needs; Cancelled; the sources' and the system's,
  // after which `file` holds anything.
  absl::Status Write(const NewFile& file);

  uint64_t total_bytes() const;
  // Any thread, at any time. Holes count as done.
  uint64_t done_bytes() const { return done_bytes_.load(std::memory_order_relaxed); }
  uint64_t written_bytes() const { return written_bytes_.load(std::memory_order_relaxed); }
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  class Job;

  const std::vector<Block> blocks_;
  const RamSource* const base_;
  const Options options_;
  // relaxed, all of them: they say nothing of other memory
  std::atomic<uint64_t> done_bytes_{0};
  std::atomic<uint64_t> written_bytes_{0};
  std::atomic<bool> cancelled_{false};
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_FLAT_IMAGE_H_
