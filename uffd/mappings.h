// What the kernel says of this process's mappings.
#ifndef RAMJET_UFFD_MAPPINGS_H_
#define RAMJET_UFFD_MAPPINGS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace ramjet {

// The size in bytes of the pages of the mapping that `addr` lies in: the system's, or that of
// hugetlb. InvalidArgument: nothing is mapped there. FailedPrecondition: /proc does not tell. Asks
// by PROCMAP_QUERY (Linux 6.11), before that by reading /proc/self/smaps, which takes longer the
// more is mapped.
absl::StatusOr<uint64_t> KernelPageSize(uintptr_t addr);

// [start, end), all of it registered with a userfaultfd.
struct RegisteredRange {
  uintptr_t start;
  uintptr_t end;
};

// What of [start, end) is registered, by rising address: what was unmapped there, or mapped anew
// since, is not among it. FailedPrecondition: /proc/self/smaps cannot be read.
absl::StatusOr<std::vector<RegisteredRange>> RegisteredRanges(uintptr_t start, uintptr_t end);

}  // namespace ramjet

#endif  // RAMJET_UFFD_MAPPINGS_H_
