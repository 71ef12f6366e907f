// The memory of a guest as its VMM has mapped it: whether it can be loaded lazily, and what becomes
// of it before and after a load.
#ifndef RAMJET_LOADER_GUEST_MAPPING_H_
#define RAMJET_LOADER_GUEST_MAPPING_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loader/huge_page_policy.h"
#include "loader/ram_block.h"
#include "loader/ram_map.h"
#include "mappedram/snapshot_description.h"
#include "uffd/huge_page_advice.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// How the VMM mapped a block's memory.
enum class BlockMemory {
  // MAP_PRIVATE | MAP_ANONYMOUS
  kPrivate,
  // MAP_SHARED of a memfd, or of a file on tmpfs or hugetlbfs, which nobody uses by another mapping
  // before the load is complete. On Linux before 6.4, and with an alias, all mappings of it in this
  // process have MADV_NOHUGEPAGE until then.
  kShared,
};

// Where a block of guest RAM lies in this process.
struct BlockMapping {
  void* host = nullptr;  // a multiple of host_page_size
  uint64_t length = 0;   // at least used_length; 0: that, rounded up to whole host pages
  BlockMemory memory = BlockMemory::kPrivate;
  uint64_t host_page_size = 0;  // the system's, or that of hugetlb; 0: find out
  // Of shared memory: a second mapping of the same bytes, through which content is filled in before
  // it becomes visible at `host`; nullptr: none.
  void* alias = nullptr;
};

uint64_t SystemPageSize();

// What the kernel says of a mapping.
struct HostMemory {
  uint64_t page_size = 0;
  uint64_t length = 0;     // of the block, in whole pages of that size
  bool anonymous = false;  // known to be one private mapping without a file
};

// Whether block `stored` can be loaded into `mapping` by a userfaultfd with `features`. `map` has
// the blocks that are attached. InvalidArgument: the mapping makes no sense; FailedPrecondition:
// this memory cannot be loaded lazily. The message says why.
absl::StatusOr<HostMemory> CheckMapping(const SnapshotBlock& stored, const BlockMapping& mapping,
                                        const Userfaultfd::Features& features, const RamMap& map);

// Memory that is registered and holds nothing.
struct EmptyMemory {
  bool discarded = false;  // it was not empty: the kernel has an event of that
  std::optional<HugePagesOff> huge_pages_off = std::nullopt;  // until the load has ended
};

// Registers `length` bytes at memory.host, and drops what is there. On an error nothing is
// registered. `anonymous` is HostMemory's.
absl::StatusOr<EmptyMemory> RegisterEmpty(const Userfaultfd& uffd, const RamBlock::Memory& memory,
                                          uint64_t length, BlockMemory kind, bool anonymous);

// Makes every access to what is still registered of the block a SIGSEGV. What was unmapped, and may
// be somebody else's by now, stays as it is.
void MakeInaccessible(const RamBlock& block);

// Makes huge pages of what has arrived in small ones, where `policy` wants them and the guest has
// given nothing up. REQUIRES: the block is complete and no longer registered. False: the kernel
// cannot (before Linux 6.1).
bool CollapseWindows(const RamBlock& block, const HugePagePolicy& policy);

}  // namespace ramjet

#endif  // RAMJET_LOADER_GUEST_MAPPING_H_
