#include "loader/page_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

constexpr int kProtection = PROT_READ | PROT_WRITE;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

absl::Status MapError(size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot map ", bytes, " bytes: ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<PageBuffer> PageBuffer::Create(size_t bytes) {
  void* const memory = mmap(nullptr, bytes, kProtection, kAnonymous | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return MapError(bytes);
  return PageBuffer(static_cast<uint8_t*>(memory), bytes);
}

absl::StatusOr<PageBuffer> PageBuffer::CreateZeros(size_t bytes) {
  // Only read, all of it stays the kernel's one page of zeros.
  void* const memory = mmap(nullptr, bytes, PROT_READ, kAnonymous | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return MapError(bytes);
  return PageBuffer(static_cast<uint8_t*>(memory), bytes);
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(size_, other.size_);
  return *this;
}

PageBuffer::~PageBuffer() {
  if (memory_ != nullptr) munmap(memory_, size_);
}

absl::StatusOr<HugeStaging> HugeStaging::Create() {
  void* const reservation = mmap(nullptr, 2 * kBytes, PROT_NONE, kAnonymous | MAP_NORESERVE, -1, 0);
  if (reservation == MAP_FAILED) return MapError(2 * kBytes);
  auto* const start = static_cast<uint8_t*>(reservation);
  const uintptr_t misaligned = reinterpret_cast<uintptr_t>(start) % kBytes;
  HugeStaging staging(start, start + (misaligned == 0 ? 0 : kBytes - misaligned));
  if (!staging.Renew()) return MapError(kBytes);
  return staging;
}

HugeStaging::HugeStaging(HugeStaging&& other) noexcept
    : reservation_(std::exchange(other.reservation_, nullptr)),
      memory_(std::exchange(other.memory_, nullptr)) {}

HugeStaging::~HugeStaging() {
  if (reservation_ != nullptr) munmap(reservation_, 2 * kBytes);
}

bool HugeStaging::Renew() {
  void* const memory = mmap(memory_, kBytes, kProtection, kAnonymous | MAP_FIXED, -1, 0);
  return memory != MAP_FAILED && madvise(memory, kBytes, MADV_HUGEPAGE) == 0;
}

}  // namespace ramjet
