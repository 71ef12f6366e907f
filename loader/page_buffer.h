// Memory that pages are read into on their way to the guest.
#ifndef RAMJET_LOADER_PAGE_BUFFER_H_
#define RAMJET_LOADER_PAGE_BUFFER_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "loader/memory_policy.h"

namespace ramjet {

// Belongs to one thread. Present from the start, for the kernel copies from absent memory by a
// slower way; and in huge pages, if it is not small, for what a disk writes to memory in one piece
// it writes twice as fast as what it has to scatter. Movable.
class PageBuffer {
 public:
  static absl::StatusOr<PageBuffer> Create(size_t bytes);
  // The same, but present only after Touch(), for a thread that is not to hold up its creator.
  static absl::StatusOr<PageBuffer> CreateAbsent(size_t bytes);
  void Touch() const;
  // Zeros to copy from: takes no memory worth mentioning, and must not be written to.
  static absl::StatusOr<PageBuffer> CreateZeros(size_t bytes);
  PageBuffer(PageBuffer&& other) noexcept;
  PageBuffer& operator=(PageBuffer&& other) noexcept;
  ~PageBuffer();

  // REQUIRES: bytes <= size().
  absl::Span<uint8_t> first(size_t bytes) const { return {memory_, bytes}; }
  size_t size() const { return size_; }

 private:
  PageBuffer(uint8_t* mapping, size_t mapped, uint8_t* memory, size_t size)
      : mapping_(mapping), mapped_(mapped), memory_(memory), size_(size) {}

  uint8_t* mapping_;
  size_t mapped_;
  uint8_t* memory_;  // inside the mapping
  size_t size_;
};

// One huge page that is filled and then moved to the guest as it is (UFFDIO_MOVE). Belongs to one
// thread. Movable.
class HugeStaging {
 public:
  static constexpr size_t kBytes =
      2 << 20;  // of a transparent huge page on x86-64 and 4 KiB-page arm64

  static absl::StatusOr<HugeStaging> Create();
  HugeStaging(HugeStaging&& other) noexcept;
  HugeStaging& operator=(HugeStaging&& other) noexcept;
  ~HugeStaging();

  // Zero wherever nothing was written since the last Renew(). REQUIRES: fit().
  absl::Span<uint8_t> memory() const { return {memory_, kBytes}; }

  // Says where memory() will be moved to, before it is written to: a moved page stays on the NUMA
  // node that it was taken from, so it is taken from where the memory policy (mbind) at `addr` puts
  // it. Does nothing on a machine with one node. REQUIRES: fit(); memory() is empty.
  void PlaceFor(uintptr_t addr);
  // False: PlaceFor() could not do that. What is read here has to be copied.
  bool placed() const { return placed_; }

  // Makes the memory present, as one huge page. False: the kernel has none to give. Most likely it
  // is short of memory, so the next 63 calls do not ask again. The memory is empty then. On several
  // nodes it does nothing, since memory that is present stays on its node. REQUIRES:
  // fit(), and what was filled in has moved on.
  bool Touch();

  // Makes the memory empty again, fit for a whole huge page: mapped anew, for a page table that
  // once held small pages stays behind after MADV_DONTNEED and keeps huge ones away. If the kernel
  // refuses, there is none from then on.
  void Renew();
  // Else there is no memory() any more, and another staging has to be created.
  bool fit() const { return memory_ != nullptr; }

 private:
  HugeStaging(uint8_t* reservation, uint8_t* memory)
      : reservation_(reservation), memory_(memory), several_nodes_(SeveralNodes()) {}

  uint8_t* reservation_;  // twice kBytes, so that an aligned huge page lies inside
  uint8_t* memory_;
  bool several_nodes_;
  bool placed_ = true;
  MemoryPolicy policy_;  // of memory_
  int refusals_ = 0;     // of Touch(), still to come
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_PAGE_BUFFER_H_
