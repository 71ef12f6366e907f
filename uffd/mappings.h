// What the kernel says of this process's mappings.
#ifndef RAMJET_UFFD_MAPPINGS_H_
#define RAMJET_UFFD_MAPPINGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ramjet {

// What the kernel does about transparent huge pages when a mapping is touched.
enum class HugeAdvice {
  kWanted,    // makes them: so the host is set, or the owner has asked for it (MADV_HUGEPAGE)
  kNone,      // makes none, for nobody has asked for them
  kUnwanted,  // makes none, for the owner does not want them (MADV_NOHUGEPAGE)
};

// A mapping that an address lies in.
struct KernelMapping {
  uintptr_t start = 0;
  uintptr_t end = 0;
  bool writable = false;  // and readable
  bool shared = false;
  uint64_t page_bytes = 0;  // the system's page size, or that of hugetlb
  // Of a file: which, and where in it the mapping starts. Of memory without a name all 0.
  uint64_t offset = 0;
  uint64_t device_major = 0;
  uint64_t device_minor = 0;
  uint64_t inode = 0;
  std::string path;  // " (deleted)" at its end if it has been; of memory without a name empty
  // Set by VisitMappings() only.
  bool registered = false;  // with a userfaultfd
  HugeAdvice huge = HugeAdvice::kNone;
  bool huge_advised = false;  // the owner has asked for huge pages, and may not get them
};

// Calls `visit` for each mapping of /proc/self/smaps, by rising address, until it returns false.
// FailedPrecondition: it cannot be read.
absl::Status VisitMappings(absl::FunctionRef<bool(const KernelMapping&)> visit);

// InvalidArgument: nothing is mapped there. FailedPrecondition: /proc does not tell. Asks by
// PROCMAP_QUERY (Linux 6.11), before that by reading /proc/self/smaps, which takes longer the more
// is mapped.
absl::StatusOr<KernelMapping> MappingAt(uintptr_t addr);

// Whether there is anything in [start, end) that a fault would find: a page (of zeros, too, which
// was only read), one that is swapped out, or a mark such as that of a poisoned page. What is not
// mapped holds nothing. Of private memory without a file it is the whole truth; a page of a file
// may be in the page cache and not here. nullopt: the kernel cannot be asked (PAGEMAP_SCAN, Linux
// 6.7). REQUIRES: both are multiples of the page size.
std::optional<bool> HoldsAnything(uintptr_t start, uintptr_t end);

// [start, end), all of it registered with a userfaultfd.
struct RegisteredRange {
  uintptr_t start;
  uintptr_t end;
  HugeAdvice huge;
};

// What of [start, end) is registered, by rising address: what was unmapped there, or mapped anew
// since, is not among it. FailedPrecondition: /proc/self/smaps cannot be read.
absl::StatusOr<std::vector<RegisteredRange>> RegisteredRanges(uintptr_t start, uintptr_t end);

}  // namespace ramjet

#endif  // RAMJET_UFFD_MAPPINGS_H_
