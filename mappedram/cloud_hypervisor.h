// Where Cloud Hypervisor says what is in a snapshot's file `memory-ranges`.
#ifndef RAMJET_MAPPEDRAM_CLOUD_HYPERVISOR_H_
#define RAMJET_MAPPEDRAM_CLOUD_HYPERVISOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ramjet {

// Guest-physical addresses [address, address + length).
struct GuestRange {
  uint64_t address = 0;
  uint64_t length = 0;

  friend bool operator==(const GuestRange&, const GuestRange&) = default;
};

// The ranges, in the order in which their bytes follow each other in `memory-ranges` (which is not
// that of their addresses), from the text of `state.json`:
//
//   {"snapshots": {"memory-manager": {"snapshot_data": {"state": TEXT}}}}
//   TEXT, a string: {"memory_ranges": {"data": [{"gpa": 0, "length": 3221225472}, ...]}}
//
// and whatever stands beside these members (Cloud Hypervisor of August 2026). InvalidArgument: it
// is not such a text. DataLoss: the ranges cannot be: none or too many, of no length or half a
// page, one over the other.
absl::StatusOr<std::vector<GuestRange>> ParseMemoryRanges(absl::string_view state_json);

// InvalidArgument if the text of `config.json` is no JSON object.
absl::Status CheckConfiguration(absl::string_view config_json);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_CLOUD_HYPERVISOR_H_
