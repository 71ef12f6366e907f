// What a file is that was given for a mapped-ram snapshot, and is none.
#ifndef RAMJET_TOOLS_FOREIGN_SNAPSHOT_H_
#define RAMJET_TOOLS_FOREIGN_SNAPSHOT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace ramjet {

// If `path` is of another VMM's snapshot: InvalidArgument, which says of which, and names the
// command that converts it. Plain memory has no mark of its own; such a file is said to be what its
// size allows. Otherwise, or if the user has said where in `path` the stream begins, `error`, which
// is what reading it as a snapshot gave.
absl::Status NameForeignSnapshot(const std::string& path, const absl::Status& error,
                                 std::optional<uint64_t> stream_offset = std::nullopt);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_FOREIGN_SNAPSHOT_H_
