// What this process's own /proc says about memory and devices that a lazy load must not disturb.
#ifndef RAMJET_TOOLS_PRELOAD_PROCESS_VIEW_H_
#define RAMJET_TOOLS_PRELOAD_PROCESS_VIEW_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "uffd/mappings.h"

namespace ramjet {

// The mapping in which [host, host + length) can be emptied and loaded lazily, or
// FailedPrecondition in words: it is memory of a file, or known by name to others, or was populated
// on purpose (prealloc, mlock), or is not one mapping of its own. AlreadyExists: it holds content,
// as firmware's flash does, or what was loaded before.
absl::StatusOr<KernelMapping> CheckGuestMemory(uintptr_t host, uint64_t length);

// FailedPrecondition in words if what the process has open forbids any lazy load: a device that
// pins guest memory or maps it for hardware (VFIO, vDPA, udmabuf and others), which would be left
// with the old pages if memory were emptied under it; or a userfaultfd, by which QEMU loads memory
// lazily itself. Ours is opened afterwards.
absl::Status CheckDescriptors();

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_PROCESS_VIEW_H_
