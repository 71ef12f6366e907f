// QEMU's description of the device state in a migration stream, from which the size of every
// section follows.
#ifndef RAMJET_MAPPEDRAM_VMDESC_H_
#define RAMJET_MAPPEDRAM_VMDESC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mappedram/file.h"

namespace ramjet {

// A device as described. Sections of the stream carry no length: this is the only way to skip one
// without knowing it.
struct VmdescDevice {
  std::string name;
  uint32_t instance_id = 0;
  uint64_t payload_bytes = 0;  // of its section, without header and footer
};

// `json` is what the VMDESCRIPTION record holds. Devices come in the order of their sections.
// DataLoss, with device and number, if the text is not JSON or not such a description.
absl::StatusOr<std::vector<VmdescDevice>> ParseVmdesc(absl::string_view json);

// Finds the VMDESCRIPTION record which ends `file`, looking back from the end but not before
// `begin`, and returns its text; nullopt if there is none: the machine wrote none, or the file was
// cut off. Reads little more than the record, which is at most kMaxVmdescBytes long.
absl::StatusOr<std::optional<std::string>> FindVmdesc(const File& file, uint64_t begin);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_VMDESC_H_
