// Finds out whether memory is all zeros.
#ifndef RAMJET_MAPPEDRAM_ZERO_SCAN_H_
#define RAMJET_MAPPEDRAM_ZERO_SCAN_H_

#include <cstdint>

#include "absl/types/span.h"

namespace ramjet {

// True if every byte is zero; so for none. Any address, any length. Ends at the first that is not.
bool IsZero(absl::Span<const uint8_t> bytes);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_ZERO_SCAN_H_
