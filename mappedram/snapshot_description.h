// What a snapshot file says of itself.
#ifndef RAMJET_MAPPEDRAM_SNAPSHOT_DESCRIPTION_H_
#define RAMJET_MAPPEDRAM_SNAPSHOT_DESCRIPTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace ramjet {

// A RAM block as the file holds it. Offsets are from the start of the file, lengths in bytes.
struct SnapshotBlock {
  std::string idstr;         // QEMU's name of the block: "pc.ram", "/rom@etc/acpi/tables", ...
  uint64_t used_length = 0;  // a multiple of page_size
  uint64_t page_size = 0;    // the target's page size, a power of two
  uint64_t bitmap_offset =
      0;  // 0 with pages_offset 0: the block is not in the file (x-ignore-shared)
  uint64_t pages_offset = 0;  // page i lies at pages_offset + i * page_size
  uint64_t address = 0;       // guest-physical, if the file tells (x-ignore-shared)
  uint64_t nonzero_pages =
      0;  // set bits of the bitmap; a clear bit means zero, whatever the file holds there

  uint64_t pages() const { return used_length / page_size; }
  bool in_file() const { return pages_offset != 0; }
  uint64_t pages_end() const { return pages_offset + used_length; }
};

// One section of device state. [offset, offset + size) is its payload, without header and footer.
struct DeviceSection {
  std::string name;
  uint32_t instance_id = 0;
  uint32_t version_id = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
};

// What a file says of itself.
struct SnapshotDescription {
  uint64_t stream_offset = 0;  // where the migration stream begins
  // The START record of section "ram", which has the blocks: [ram_start_offset, ram_end_offset).
  uint64_t ram_start_offset = 0;
  uint64_t ram_end_offset = 0;  // 0 if the file ends before
  uint32_t ram_section_id = 0;
  std::string machine;  // "pc-i440fx-10.0"
  std::vector<std::string> capabilities;
  std::vector<SnapshotBlock> blocks;
  std::vector<DeviceSection> devices;
  // Of the EOF record: a reader that has got past it has the whole device state. 0 if incomplete.
  uint64_t eof_offset = 0;
  // OK, or why the file, well-formed as far as it goes, cannot be loaded: its save was interrupted
  // or it was cut off.
  absl::Status complete;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_SNAPSHOT_DESCRIPTION_H_
