#include "mappedram/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace ramjet {
namespace {

using Function = uint32_t (*)(absl::Span<const uint8_t> bytes, uint32_t before);

#if defined(__x86_64__)

__attribute__((target("sse4.2"))) uint32_t HardwareCrc32c(absl::Span<const uint8_t> bytes,
                                                          uint32_t before) {
  uint64_t crc = ~before;
  for (; bytes.size() >= sizeof(uint64_t); bytes.remove_prefix(sizeof(uint64_t))) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), sizeof(word));
    crc = _mm_crc32_u64(crc, word);
  }
  auto small = static_cast<uint32_t>(crc);
  for (const uint8_t byte : bytes) small = _mm_crc32_u8(small, byte);
  return ~small;
}

bool HasHardware() { return __builtin_cpu_supports("sse4.2"); }

#elif defined(__aarch64__)

// In assembly, for clang 14 knows the intrinsics only in files that are for such processors as a
// whole.
uint32_t HardwareCrc32c(absl::Span<const uint8_t> bytes, uint32_t before) {
  uint32_t crc = ~before;
  for (; bytes.size() >= sizeof(uint64_t); bytes.remove_prefix(sizeof(uint64_t))) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), sizeof(word));
    asm(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
  }
  for (const uint32_t byte : bytes) {
    asm(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(byte));
  }
  return ~crc;
}

bool HasHardware() {
  constexpr unsigned long kHwcapCrc32 = 1 << 7;  // asm/hwcap.h
  return (getauxval(AT_HWCAP) & kHwcapCrc32) != 0;
}

#else

constexpr Function HardwareCrc32c = nullptr;
bool HasHardware() { return false; }

#endif

}  // namespace

uint32_t PlainCrc32c(absl::Span<const uint8_t> bytes, uint32_t before) {
  static constexpr std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < table.size(); ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc % 2 == 1 ? 0x82f63b78u : 0);
      table[i] = crc;
    }
    return table;
  }();
  uint32_t crc = ~before;
  for (const uint8_t byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ byte) & 0xff];
  return ~crc;
}

uint32_t Crc32c(absl::Span<const uint8_t> bytes, uint32_t before) {
  static const Function best = HasHardware() ? HardwareCrc32c : PlainCrc32c;
  return best(bytes, before);
}

}  // namespace ramjet
