// The files in tests/corpus.
#ifndef RAMJET_TESTS_CORPUS_FILE_H_
#define RAMJET_TESTS_CORPUS_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace ramjet {

// Creates the sparse file `path`, a real QEMU's, from `extents_path` (see corpus/make_extents.py).
absl::Status WriteFromExtents(const std::string& extents_path, const std::string& path);

}  // namespace ramjet

#endif  // RAMJET_TESTS_CORPUS_FILE_H_
