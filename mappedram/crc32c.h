// CRC-32C (Castagnoli), by the processor's own instruction where it has one.
#ifndef RAMJET_MAPPEDRAM_CRC32C_H_
#define RAMJET_MAPPEDRAM_CRC32C_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace ramjet {

// Of `bytes`, behind others whose sum is `before`.
uint32_t Crc32c(absl::Span<const uint8_t> bytes, uint32_t before = 0);
inline uint32_t Crc32c(absl::string_view bytes) {
  return Crc32c({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

// The same by a table, whatever the processor.
uint32_t PlainCrc32c(absl::Span<const uint8_t> bytes, uint32_t before = 0);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_CRC32C_H_
