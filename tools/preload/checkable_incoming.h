// Whether what an emulator is told to load can be compared with checksums.
#ifndef RAMJET_TOOLS_PRELOAD_CHECKABLE_INCOMING_H_
#define RAMJET_TOOLS_PRELOAD_CHECKABLE_INCOMING_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace ramjet {

// FailedPrecondition in words if `command`, an emulator with its arguments, has an -incoming whose
// stream does not come from a file (unix:, tcp:, exec:, ...), or a -loadvm. Of `-incoming defer`,
// the preload library sees what comes. An `fd:N` is looked up among this process's descriptors,
// which the emulator inherits.
absl::Status CheckIncoming(const std::vector<std::string>& command);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_CHECKABLE_INCOMING_H_
