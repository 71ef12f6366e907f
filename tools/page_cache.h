// Puts the host's memory into a known state before something is timed.
#ifndef RAMJET_TOOLS_PAGE_CACHE_H_
#define RAMJET_TOOLS_PAGE_CACHE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace ramjet {

enum class CacheState { kWarm, kCold };

// Makes none of the file be in the page cache (cold), or all of it but its holes, read anew in one
// go (warm): fsync, then posix_fadvise(DONTNEED), which needs no privilege and leaves the rest of
// the machine alone. FailedPrecondition if mincore(2) finds that it has not worked.
absl::Status SetCacheState(const std::string& path, CacheState state);

// Touches and frees up to `bytes` (never more than half of what is free). In a virtual machine the
// first touch of memory that the hypervisor has not backed yet can be ten times slower than the
// second, and would be charged to the contestant that comes first.
void WarmHostMemory(uint64_t bytes = uint64_t{2} << 30);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PAGE_CACHE_H_
