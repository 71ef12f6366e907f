// The outputs of `ramjet convert` that are mapped-ram files.
#ifndef RAMJET_TOOLS_CONVERT_TO_MAPPED_RAM_H_
#define RAMJET_TOOLS_CONVERT_TO_MAPPED_RAM_H_

#include "absl/status/status.h"
#include "tools/conversion.h"

namespace ramjet {

// Also behind libvirt's header, if the options say so: then there must be one to be carried along.
// On failure there is nothing new.
absl::Status ConvertToMappedRam(Conversion& conversion);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_CONVERT_TO_MAPPED_RAM_H_
