// What this process's own /proc says about memory and devices that a lazy load must not disturb.
#ifndef RAMJET_TOOLS_PRELOAD_PROCESS_VIEW_H_
#define RAMJET_TOOLS_PRELOAD_PROCESS_VIEW_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ramjet {

// A line of /proc/self/maps: the mapping of [start, end).
struct Mapping {
  uintptr_t start = 0;
  uintptr_t end = 0;
  bool writable = false;
  bool shared = false;
  uint64_t offset = 0;  // of `start` in the file
  dev_t device = 0;     // 0 with inode 0: anonymous
  ino_t inode = 0;
  std::string path;
};

// nullopt if the line is not of the form that proc(5) gives.
std::optional<Mapping> ParseMapsLine(absl::string_view line);

// The mapping that contains `addr`.
absl::StatusOr<Mapping> FindMapping(uintptr_t addr);

// The mapping in which [host, host + length) can be emptied and loaded lazily, or
// FailedPrecondition in words: it is memory of a file, or known by name to others, or was populated
// on purpose (prealloc, mlock), or is not one mapping of its own.
absl::StatusOr<Mapping> CheckGuestMemory(uintptr_t host, uint64_t length);

// FailedPrecondition if the process has a device open that pins guest memory or maps it for
// hardware (VFIO, vDPA): emptying memory under it would leave the device with the old pages.
absl::Status CheckNoPinningDevice();

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_PROCESS_VIEW_H_
