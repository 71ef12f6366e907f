// Finds out whether memory is all zeros, with the widest vectors that the processor has.
#ifndef RAMJET_MAPPEDRAM_ZERO_SCAN_H_
#define RAMJET_MAPPEDRAM_ZERO_SCAN_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace ramjet {

// True if every byte is zero; so for none. Any address, any length. Ends soon behind the first that
// is not.
bool IsZero(absl::Span<const uint8_t> bytes);

// One way to do that.
struct ZeroScan {
  const char* name;
  bool (*is_zero)(const uint8_t* bytes, size_t length);
};

// All that this processor can: first a plain loop, which the others are measured by; last the
// one that IsZero() uses.
absl::Span<const ZeroScan> ZeroScans();

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_ZERO_SCAN_H_
