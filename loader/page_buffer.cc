#include "loader/page_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

constexpr int kProtection = PROT_READ | PROT_WRITE;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

// Of a buffer of this size and more, half the huge page may lie idle.
constexpr size_t kHugeBufferBytes = 256 << 10;
constexpr size_t kHugePageBytes = HugeStaging::kBytes;
constexpr size_t kMinPageBytes = 4096;  // no system's pages are smaller
constexpr int kRefusals = 63;

uint8_t* AlignUp(uint8_t* start) {
  const uintptr_t into_page = reinterpret_cast<uintptr_t>(start) % kHugePageBytes;
  return start + (into_page == 0 ? 0 : kHugePageBytes - into_page);
}

absl::Status MapError(size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot map ", bytes, " bytes: ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<PageBuffer> PageBuffer::Create(size_t bytes) {
  absl::StatusOr<PageBuffer> buffer = CreateAbsent(bytes);
  if (buffer.ok()) buffer->Touch();
  return buffer;
}

void PageBuffer::Touch() const {
  for (size_t at = 0; at < size_; at += kMinPageBytes) memory_[at] = 0;
}

absl::StatusOr<PageBuffer> PageBuffer::CreateAbsent(size_t bytes) {
  const bool small = bytes < kHugeBufferBytes;
  const size_t size =
      small ? bytes : (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const size_t mapped = small ? size : size + kHugePageBytes;
  void* const mapping = mmap(nullptr, mapped, kProtection, kAnonymous | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return MapError(bytes);
  auto* const start = static_cast<uint8_t*>(mapping);
  uint8_t* const memory = small ? start : AlignUp(start);
  PageBuffer buffer(start, mapped, memory, bytes);
  if (!small) (void)madvise(memory, size, MADV_HUGEPAGE);  // a kernel without them does without
  return buffer;
}

absl::StatusOr<PageBuffer> PageBuffer::CreateZeros(size_t bytes) {
  // Only read, all of it stays the kernel's one page of zeros.
  void* const memory = mmap(nullptr, bytes, PROT_READ, kAnonymous | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return MapError(bytes);
  auto* const start = static_cast<uint8_t*>(memory);
  return PageBuffer(start, bytes, start, bytes);
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)),
      memory_(std::exchange(other.memory_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  std::swap(memory_, other.memory_);
  std::swap(size_, other.size_);
  return *this;
}

PageBuffer::~PageBuffer() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

absl::StatusOr<HugeStaging> HugeStaging::Create() {
  void* const reservation = mmap(nullptr, 2 * kBytes, PROT_NONE, kAnonymous | MAP_NORESERVE, -1, 0);
  if (reservation == MAP_FAILED) return MapError(2 * kBytes);
  auto* const start = static_cast<uint8_t*>(reservation);
  HugeStaging staging(start, AlignUp(start));
  staging.Renew();
  if (!staging.fit()) return MapError(kBytes);
  return staging;
}

HugeStaging::HugeStaging(HugeStaging&& other) noexcept
    : reservation_(std::exchange(other.reservation_, nullptr)),
      memory_(std::exchange(other.memory_, nullptr)),
      several_nodes_(other.several_nodes_),
      placed_(other.placed_),
      policy_(other.policy_),
      refusals_(other.refusals_) {}

HugeStaging& HugeStaging::operator=(HugeStaging&& other) noexcept {
  std::swap(reservation_, other.reservation_);
  std::swap(memory_, other.memory_);
  std::swap(several_nodes_, other.several_nodes_);
  std::swap(placed_, other.placed_);
  std::swap(policy_, other.policy_);
  std::swap(refusals_, other.refusals_);
  return *this;
}

HugeStaging::~HugeStaging() {
  if (reservation_ != nullptr) munmap(reservation_, 2 * kBytes);
}

void HugeStaging::PlaceFor(uintptr_t addr) {
  if (!several_nodes_) return;
  const std::optional<MemoryPolicy> wanted = MemoryPolicyOfHugePage(addr, kBytes);
  placed_ = wanted && (*wanted == policy_ ||
                       SetMemoryPolicy(reinterpret_cast<uintptr_t>(memory_), kBytes, *wanted));
  if (placed_) policy_ = *wanted;
}

bool HugeStaging::Touch() {
  if (several_nodes_) return true;  // PlaceFor() comes first, which may not be known yet
  if (refusals_ > 0) {
    --refusals_;
    return false;
  }
  memory_[0] = 0;
  // A huge page has brought the rest along. Where the kernel does not tell, it is taken for one.
  unsigned char resident = 1;
  if (mincore(memory_ + kBytes / 2, kMinPageBytes, &resident) != 0 || (resident & 1) != 0) {
    return true;
  }
  refusals_ = kRefusals;
  Renew();
  return false;
}

void HugeStaging::Renew() {
  policy_ = {};
  void* const memory = mmap(memory_, kBytes, kProtection, kAnonymous | MAP_FIXED, -1, 0);
  if (memory != MAP_FAILED && madvise(memory, kBytes, MADV_HUGEPAGE) == 0) return;
  // Before Linux 6.12 a failed mmap() may have left a hole, where somebody else may be by now.
  if (memory == MAP_FAILED) reservation_ = nullptr;
  memory_ = nullptr;
}

}  // namespace ramjet
