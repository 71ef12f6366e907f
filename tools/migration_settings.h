// QEMU's migration capabilities and parameters, for the time of one save to a file.
#ifndef RAMJET_TOOLS_MIGRATION_SETTINGS_H_
#define RAMJET_TOOLS_MIGRATION_SETTINGS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tools/qmp_client.h"

namespace ramjet {

struct MigrationSettings {
  std::map<std::string, bool> capabilities;
  nlohmann::json parameters = nlohmann::json::object();
};

struct SaveSettings {
  int multifd_channels = 0;  // 0: without multifd
  bool direct_io = false;
  uint64_t bytes_per_s = 0;  // 0: no limit
};

// Sets what a mapped-ram save to a file needs, and turns off what does not go with a file or would
// have to be set by who loads it. Returns what it changed, as it was before; on an error, nothing
// is changed. FailedPrecondition if this QEMU cannot do it.
absl::StatusOr<MigrationSettings> PrepareSave(QmpClient& qmp, const SaveSettings& settings);

// REQUIRES: no migration is under way.
absl::Status PutBackSettings(QmpClient& qmp, const MigrationSettings& before);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_MIGRATION_SETTINGS_H_
