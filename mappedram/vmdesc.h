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
#include "mappedram/json_reader.h"
#include "mappedram/stream.h"

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
absl::StatusOr<std::vector<VmdescDevice>> ParseVmdesc(JsonReader json);

// The text of a VMDESCRIPTION record: bytes [offset, end) of its file.
struct VmdescPlace {
  uint64_t offset = 0;
  uint64_t end = 0;
};

// Finds the record which ends the reader's file, looking back from the end but not before the
// reader's position, and moves to its text. nullopt, having moved nowhere in particular, if there
// is none: the machine wrote none, the file was cut off, or the reader is in error. Reads little
// more than the record, which is at most kMaxVmdescBytes long.
std::optional<VmdescPlace> FindVmdesc(StreamReader& reader);
// The same from offset `begin` on, and returns the text.
absl::StatusOr<std::optional<std::string>> FindVmdesc(const File& file, uint64_t begin);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_VMDESC_H_
