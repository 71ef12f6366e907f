// Writes a small file that others may be reading.
#ifndef RAMJET_LOADER_REPLACE_FILE_H_
#define RAMJET_LOADER_REPLACE_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace ramjet {

// Replaces `path` atomically: a reader sees the old file or the new one.
absl::Status ReplaceFile(const std::string& path, const std::string& text);

}  // namespace ramjet

#endif  // RAMJET_LOADER_REPLACE_FILE_H_
