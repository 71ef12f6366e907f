#include "mappedram/zero_scan.h"

#include <cstring>

namespace ramjet {

bool IsZero(absl::Span<const uint8_t> bytes) {
  // All are like their neighbours, and the first is zero.
  return bytes.empty() ||
         (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace ramjet
