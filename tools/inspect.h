// `ramjet inspect`: what a snapshot file says of itself, for people and for scripts.
#ifndef RAMJET_TOOLS_INSPECT_H_
#define RAMJET_TOOLS_INSPECT_H_

#include <cstdint>
#include <optional>
#include <string>

namespace ramjet {

struct InspectOptions {
  std::optional<uint64_t> stream_offset;  // where the stream begins; without it, it is found
  bool json = false;
  bool devices = false;  // also what is in them
};

// Describes the snapshot at `path` on stdout: as text or, with `json`, as one object of the schema
// "ramjet.inspect/1". Returns the exit status: 0; or 1, with one line on stderr that says why, if
// the file cannot be loaded. A well-formed one which is only incomplete is described all the same.
int RunInspect(const std::string& path, const InspectOptions& options);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_INSPECT_H_
