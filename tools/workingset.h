// `ramjet workingset`: what is in the files that `ramjet run --record` writes, and one of several.
#ifndef RAMJET_TOOLS_WORKINGSET_H_
#define RAMJET_TOOLS_WORKINGSET_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ramjet {

// Describes the working set `path` on stdout: as text or, with `json`, as one object of the schema
// "ramjet.workingset/1". With `snapshot`, the path of one, says whether it belongs to that, whose
// stream begins at `stream_offset`, or is found. Returns the exit status: 0; or 1, with one line on
// stderr, if a file cannot be read or is damaged, or if the two do not belong together.
int ShowWorkingSet(const std::string& path, const std::string& snapshot,
                   std::optional<uint64_t> stream_offset, bool json);

// Writes the union of the working sets `paths` to `out`, and says on stdout what it has. Returns
// the exit status: 0; or 1, with one line on stderr, and then `out` is as it was.
int MergeWorkingSetFiles(const std::vector<std::string>& paths, const std::string& out);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_WORKINGSET_H_
