// The outputs of `ramjet convert` whose memory is plain bytes, with what lies beside them.
#ifndef RAMJET_TOOLS_CONVERT_TO_RAW_H_
#define RAMJET_TOOLS_CONVERT_TO_RAW_H_

#include "absl/status/status.h"
#include "tools/conversion.h"

namespace ramjet {

// A raw image; or what Firecracker or Cloud Hypervisor have, as the options say. On failure there
// is nothing new.
absl::Status ConvertToRaw(Conversion& conversion);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_CONVERT_TO_RAW_H_
