// The statistics file of an earlier run.
#ifndef RAMJET_TOOLS_PRELOAD_OLD_STATS_H_
#define RAMJET_TOOLS_PRELOAD_OLD_STATS_H_

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/error_line.h"

namespace ramjet {

// Called as soon as it is known that there is to be a load, so that no old file passes for the new
// one's. What libvirt asks an emulator (-version, -machine none) loads nothing, and leaves the
// file. If it cannot be removed, that is said, and the load goes on. Empty: no statistics are
// wanted.
inline void RemoveOldStats(const std::string& path) {
  if (path.empty() || unlink(path.c_str()) == 0 || errno == ENOENT) return;
  PrintError(absl::StrCat("the old ", path, " stays, and is not of this run: cannot remove it: ",
                          std::strerror(errno)));
}

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_OLD_STATS_H_
