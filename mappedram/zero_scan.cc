#include "mappedram/zero_scan.h"

#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Each of them takes four vectors at a time, for one branch, and leaves what is less than that to
// the next narrower.

namespace ramjet {
namespace {

bool PlainIsZero(const uint8_t* bytes, size_t length) {
  for (size_t i = 0; i < length; ++i) {
    if (bytes[i] != 0) return false;
  }
  return true;
}

#if defined(__x86_64__)

// Every x86-64 processor has it.
bool Sse2IsZero(const uint8_t* bytes, size_t length) {
  constexpr size_t kVector = sizeof(__m128i);
  const auto load = [bytes](size_t at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + at));
  };
  size_t at = 0;
  for (; at + 4 * kVector <= length; at += 4 * kVector) {
    const __m128i any = _mm_or_si128(_mm_or_si128(load(at), load(at + kVector)),
                                     _mm_or_si128(load(at + 2 * kVector), load(at + 3 * kVector)));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xffff) return false;
  }
  return PlainIsZero(bytes + at, length - at);
}

__attribute__((target("avx2"))) bool Avx2IsZero(const uint8_t* bytes, size_t length) {
  constexpr size_t kVector = sizeof(__m256i);
  size_t at = 0;
  for (; at + 4 * kVector <= length; at += 4 * kVector) {
    const auto* const from = reinterpret_cast<const __m256i*>(bytes + at);
    const __m256i any = _mm256_or_si256(
        _mm256_or_si256(_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)),
        _mm256_or_si256(_mm256_loadu_si256(from + 2), _mm256_loadu_si256(from + 3)));
    if (_mm256_testz_si256(any, any) == 0) return false;
  }
  return Sse2IsZero(bytes + at, length - at);
}

__attribute__((target("avx512f"))) bool Avx512IsZero(const uint8_t* bytes, size_t length) {
  constexpr size_t kVector = sizeof(__m512i);
  size_t at = 0;
  for (; at + 4 * kVector <= length; at += 4 * kVector) {
    const uint8_t* const from = bytes + at;
    const __m512i any = _mm512_or_si512(
        _mm512_or_si512(_mm512_loadu_si512(from), _mm512_loadu_si512(from + kVector)),
        _mm512_or_si512(_mm512_loadu_si512(from + 2 * kVector),
                        _mm512_loadu_si512(from + 3 * kVector)));
    if (_mm512_test_epi64_mask(any, any) != 0) return false;
  }
  return Sse2IsZero(bytes + at, length - at);
}

#elif defined(__aarch64__)

bool NeonIsZero(const uint8_t* bytes, size_t length) {
  constexpr size_t kVector = sizeof(uint8x16_t);
  size_t at = 0;
  for (; at + 4 * kVector <= length; at += 4 * kVector) {
    const uint8_t* const from = bytes + at;
    const uint8x16_t any =
        vorrq_u8(vorrq_u8(vld1q_u8(from), vld1q_u8(from + kVector)),
                 vorrq_u8(vld1q_u8(from + 2 * kVector), vld1q_u8(from + 3 * kVector)));
    if (vmaxvq_u8(any) != 0) return false;
  }
  return PlainIsZero(bytes + at, length - at);
}

#endif

std::vector<ZeroScan> FindZeroScans() {
  std::vector<ZeroScan> scans = {{"plain", PlainIsZero}};
#if defined(__x86_64__)
  scans.push_back({"SSE2", Sse2IsZero});
  if (__builtin_cpu_supports("avx2")) scans.push_back({"AVX2", Avx2IsZero});
  if (__builtin_cpu_supports("avx512f")) scans.push_back({"AVX-512", Avx512IsZero});
#elif defined(__aarch64__)
  scans.push_back({"NEON", NeonIsZero});
#endif
  return scans;
}

}  // namespace

absl::Span<const ZeroScan> ZeroScans() {
  static const auto* const scans = new std::vector<ZeroScan>(FindZeroScans());
  return *scans;
}

bool IsZero(absl::Span<const uint8_t> bytes) {
  static const auto best = ZeroScans().back().is_zero;
  return best(bytes.data(), bytes.size());
}

}  // namespace ramjet
