// Memory for direct reads and writes.
#ifndef RAMJET_MAPPEDRAM_ALIGNED_BUFFER_H_
#define RAMJET_MAPPEDRAM_ALIGNED_BUFFER_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace ramjet {

// Begins with a page, and costs what is used of it.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t size)
      : address_(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        size_(size) {}
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() {
    if (valid()) munmap(address_, size_);
  }

  // False: there was no memory for it.
  bool valid() const { return address_ != MAP_FAILED; }
  // REQUIRES: valid(), and at most the size.
  absl::Span<uint8_t> first(size_t length) { return {static_cast<uint8_t*>(address_), length}; }

 private:
  void* const address_;
  const size_t size_;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_ALIGNED_BUFFER_H_
