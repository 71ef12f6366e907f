// Saves, loads and compares a guest's memory through QEMU's monitor.
#ifndef RAMJET_TOOLS_MIGRATION_H_
#define RAMJET_TOOLS_MIGRATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tools/qemu_process.h"

namespace ramjet {

struct MigrationOptions {
  int multifd_channels = 0;  // 0: without multifd
  absl::Duration timeout = absl::Minutes(3);
};

// Writes a mapped-ram file. The guest runs on meanwhile and is stopped ("postmigrate") at the end.
// `uri` is what QEMU takes: file:PATH[,offset=N].
absl::Status SaveMappedRam(QemuProcess& qemu, const std::string& uri,
                           const MigrationOptions& options = {});

struct LoadTimes {
  absl::Time asked;    // just before migrate-incoming was sent
  absl::Time resumed;  // QEMU's own stamp of leaving "inmigrate"
};

// Loads a mapped-ram file into a QEMU started with `-incoming defer`, and returns when it has left
// "inmigrate": it runs, or is paused if it was started with -S. What ends the wait is an event, so
// nothing of ours competes with the load.
absl::StatusOr<LoadTimes> LoadMappedRam(QemuProcess& qemu, const std::string& uri,
                                        const MigrationOptions& options = {});

// Guest-physical addresses [addr, addr + length).
struct PhysicalRange {
  uint64_t addr;
  uint64_t length;
};

// Where a "pc" machine of that size has its RAM: below the hole for PCI devices, and above 4 GiB.
std::vector<PhysicalRange> PcRam(uint64_t memory_mib);

// sha256 of the ranges (in hex, one per range), read by QEMU itself. `fifo` is a path that does not
// exist yet: the bytes go through a pipe to sha256sum, never to the disk.
absl::StatusOr<std::string> HashRam(QemuProcess& qemu, const std::vector<PhysicalRange>& ranges,
                                    const std::string& fifo);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_MIGRATION_H_
