// What a machine needs to run the demo, the benchmarks and the tests with a real QEMU.
#ifndef RAMJET_TOOLS_REQUIREMENTS_H_
#define RAMJET_TOOLS_REQUIREMENTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace ramjet {

// "10.0.2", of the qemu-system-x86_64 in PATH. FailedPrecondition if it is older than 9.0, which
// brought mapped-ram.
absl::StatusOr<std::string> QemuVersion();

// One line for each thing that is missing, saying what to do about it. Empty: nothing is.
std::vector<std::string> MissingRequirements();

}  // namespace ramjet

#endif  // RAMJET_TOOLS_REQUIREMENTS_H_
