// A snapshot next to without content: what is left of its load is the floor under every resume.
#ifndef RAMJET_TOOLS_BENCH_CLEARED_COPY_H_
#define RAMJET_TOOLS_BENCH_CLEARED_COPY_H_

#include <string>

#include "absl/status/status.h"

namespace ramjet::bench {

// Writes `to`, a snapshot like `from` whose bitmaps are clear, with holes for them and for pages.
// The first MiB of each block stays: devices look at firmware there when their state is loaded.
absl::Status WriteClearedCopy(const std::string& from, const std::string& to);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_CLEARED_COPY_H_
