// The size of the pages that a mapping consists of.
#ifndef RAMJET_UFFD_KERNEL_PAGE_SIZE_H_
#define RAMJET_UFFD_KERNEL_PAGE_SIZE_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace ramjet {

// In bytes, of the mapping that `addr` lies in: the system's page size, or that of hugetlb.
// InvalidArgument: nothing is mapped there. FailedPrecondition: /proc does not tell. Asks by
// PROCMAP_QUERY (Linux 6.11), before that by reading /proc/self/smaps, which takes longer the more
// is mapped.
absl::StatusOr<uint64_t> KernelPageSize(uintptr_t addr);

}  // namespace ramjet

#endif  // RAMJET_UFFD_KERNEL_PAGE_SIZE_H_
