// What the devices of a snapshot hold, field by field, by the description that the file ends with.
#ifndef RAMJET_MAPPEDRAM_DEVICE_FIELDS_H_
#define RAMJET_MAPPEDRAM_DEVICE_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/file.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

struct DeviceField;

// Bytes that the description says to be just that: a buffer, a bitmap, unused ones.
struct RawBytes {
  std::string bytes;
};
// Bytes of which it names no more than a type that only some device's code knows, say "virtio".
struct OpaqueBytes {
  std::string bytes;
};
struct NullPointer {};
// In order, and without names. They need not be of one type.
struct FieldArray {
  std::vector<DeviceField> elements;
};
// In order, and no name twice. Subsections come last, named "device/subsection".
struct FieldStruct {
  std::vector<DeviceField> fields;
};

struct DeviceField {
  std::string name;
  std::string type;     // QEMU's word: "uint32", "struct", "timer", ...; or "subsection"
  uint64_t offset = 0;  // in the file
  uint64_t size = 0;    // on the wire, with all that is nested in it
  std::variant<RawBytes, OpaqueBytes, NullPointer, bool, int64_t, uint64_t, std::string, FieldArray,
               FieldStruct>
      value;
};

// The bytes of a device's section, which outlive the struct.
struct DevicePayload {
  std::string name;
  absl::Span<const uint8_t> bytes;
  uint64_t offset = 0;  // in the file
};

// Decodes each payload, to its last byte, as `vmdesc` describes the device of its number:
//  - Integers and timers (nanoseconds; -1: off) are numbers, as signed as QEMU says.
//  - What is listed under one name several times, element by element or in runs, is one array, and
//    so is whatever has a length, be it 1.
//  - A list or a tree is an array; a tree's elements are structs of "key" and "value".
//  - Where markers or sizes are not as the type has them, and for every type not known here, the
//    bytes are opaque.
// DataLoss, with device, field and offset, if description and bytes contradict each other. Costs
// memory in proportion to both, and no more than four million fields.
absl::StatusOr<std::vector<FieldStruct>> DecodeDevices(absl::string_view vmdesc,
                                                       const std::vector<DevicePayload>& payloads);

// The same for the devices of `file`, of which `description` is; nullopt if it has no vmdesc.
absl::StatusOr<std::optional<std::vector<FieldStruct>>> ReadDeviceFields(
    const File& file, const SnapshotDescription& description);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_DEVICE_FIELDS_H_
