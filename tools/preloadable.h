// Whether the dynamic linker lets the preload library into a program.
#ifndef RAMJET_TOOLS_PRELOADABLE_H_
#define RAMJET_TOOLS_PRELOADABLE_H_

#include <string>

#include "absl/status/status.h"

namespace ramjet {

// FailedPrecondition in words if `program`, found as execvp() finds it, is setuid or setgid, has
// file capabilities, is linked statically, or is no program of this machine's own kind. OK for a
// script: what it starts is not known. OK, too, if there is no such program, as execvp() says so.
absl::Status CheckPreloadable(const std::string& program);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOADABLE_H_
