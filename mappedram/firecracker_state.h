// The file that Firecracker writes beside the memory of a snapshot: devices, vCPUs, and the like.
#ifndef RAMJET_MAPPEDRAM_FIRECRACKER_STATE_H_
#define RAMJET_MAPPEDRAM_FIRECRACKER_STATE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ramjet {

struct FirecrackerState {
  std::string version;       // of the format: "11.0.0", or "data 5" where that is a plain number
  std::string architecture;  // "x86-64" or "aarch64"
  // The guest's memory without what is hotplugged; nullopt: a version newer than we know.
  std::optional<uint64_t> boot_bytes;
  bool can_hotplug = false;  // the memory file may have more: that of virtio-mem
};

// Reads the beginning and the sum at the end of `bytes`, a whole file. There are three forms;
// numbers are little-endian:
//
//   Firecracker 0.23 - 1.6   u64 magic + 1, u16 data version, u64 MiB, ..., u64 sum
//   Firecracker 1.7 - 1.14   u64 magic, u64 length, "major.minor.patch", u64 MiB, ..., u64 sum
//   Firecracker 1.15 -       u8 0, u64 magic, u8 length, "major.minor.patch", MiB, ..., u64 sum
//
// The magic number is 0x0710198486640000 on x86-64, and 0x07101984aaaa0000 on aarch64. The last
// form's MiB are a byte that tells their width (0, 2, 4, 6: of 8, 4, 2, 1 bytes) and the number.
// The sum is a CRC-64 of all that is before it: polynomial 0xad93d23594c935a9 (Jones), reflected,
// from 0, not inverted. What is in between depends on Firecracker's own types, and is not read.
//
// InvalidArgument: it has none of the forms. DataLoss: it has one, but its sum is another.
absl::StatusOr<FirecrackerState> ParseFirecrackerState(absl::string_view bytes);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_FIRECRACKER_STATE_H_
