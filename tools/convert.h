// `ramjet convert`: snapshots of other VMMs, and raw images, to mapped-ram and back.
#ifndef RAMJET_TOOLS_CONVERT_H_
#define RAMJET_TOOLS_CONVERT_H_

#include "tools/conversion.h"

namespace ramjet {

// Reads the one, writes the other, and prints what came of it on stdout: as text or as one object
// of the schema "ramjet.convert/1". What the output has no place for is named in one line on
// stderr.
//
// Returns the exit status: 0; 1, with one line on stderr, and then there is nothing new; 2 for
// options that do not go together. Ctrl-C and its kin end this process when that is so.
int RunConvert(const ConvertOptions& options);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_CONVERT_H_
