#include "tools/migration_settings.h"

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

using nlohmann::json;

// "8.2.10", for messages.
std::string Version(QmpClient& qmp) {
  const absl::StatusOr<json> answer = qmp.Execute("query-version");
  if (!answer.ok()) return "of unknown version";
  const json version = answer->is_object() ? answer->value("qemu", json()) : json();
  return absl::StrCat(NumberMember(version, "major"), ".", NumberMember(version, "minor"), ".",
                      NumberMember(version, "micro"));
}

absl::Status Lacks(QmpClient& qmp, const std::string& what) {
  return absl::FailedPreconditionError(
      absl::StrCat("this QEMU, ", Version(qmp), ", has no ", what));
}

// Every capability that QEMU knows and that is not as a save needs it, as it is.
absl::StatusOr<MigrationSettings> Unsuitable(QmpClient& qmp, const SaveSettings& settings,
                                             MigrationSettings& wanted) {
  MigrationSettings unsuitable;
  const absl::StatusOr<json> known = qmp.Execute("query-migrate-capabilities");
  if (!known.ok()) return known.status();
  // All others are for peers of a live migration, or are written into the file and then have to be
  // set to load it: x-ignore-shared, validate-uuid.
  std::map<std::string, bool> needed = {{"mapped-ram", true}, {"events", true}};
  if (settings.multifd_channels > 0) needed["multifd"] = true;
  for (const json& capability : *known) {
    const std::string name = StringMember(capability, "capability");
    const bool state = BoolMember(capability, "state");
    const bool want = needed.erase(name) > 0;
    if (state == want) continue;
    unsuitable.capabilities[name] = state;
    wanted.capabilities[name] = want;
  }
  if (needed.count("mapped-ram") > 0) return Lacks(qmp, "mapped-ram migration: 9.0 has it");
  if (!needed.empty()) return Lacks(qmp, needed.begin()->first);

  const absl::StatusOr<json> parameters = qmp.Execute("query-migrate-parameters");
  if (!parameters.ok()) return parameters.status();
  if (settings.direct_io && !parameters->contains("direct-io")) {
    return Lacks(qmp, "migration with direct-io: 9.1 has it");
  }
  json suitable = {{"max-bandwidth", settings.bytes_per_s},
                   {"direct-io", settings.direct_io},
                   {"mode", "normal"},
                   {"tls-creds", ""},
                   {"multifd-compression", "none"}};
  if (settings.multifd_channels > 0) suitable["multifd-channels"] = settings.multifd_channels;
  for (const auto& [name, value] : suitable.items()) {
    const auto now = parameters->find(name);
    if (now == parameters->end() || *now == value) continue;
    unsuitable.parameters[name] = *now;
    wanted.parameters[name] = value;
  }
  return unsuitable;
}

absl::Status SetCapabilities(QmpClient& qmp, const MigrationSettings& settings) {
  if (settings.capabilities.empty()) return absl::OkStatus();
  json capabilities = json::array();
  for (const auto& [name, state] : settings.capabilities) {
    capabilities.push_back({{"capability", name}, {"state", state}});
  }
  return qmp.Execute("migrate-set-capabilities", {{"capabilities", capabilities}}).status();
}

absl::Status SetParameters(QmpClient& qmp, const MigrationSettings& settings) {
  if (settings.parameters.empty()) return absl::OkStatus();
  return qmp.Execute("migrate-set-parameters", settings.parameters).status();
}

}  // namespace

absl::StatusOr<MigrationSettings> PrepareSave(QmpClient& qmp, const SaveSettings& settings) {
  MigrationSettings wanted;
  absl::StatusOr<MigrationSettings> before = Unsuitable(qmp, settings, wanted);
  if (!before.ok()) return before.status();
  // In this order, for with mapped-ram on, QEMU changes no parameter while the old ones do not go
  // with it; and back in the other.
  absl::Status set = SetParameters(qmp, wanted);
  if (set.ok()) set = SetCapabilities(qmp, wanted);
  if (set.ok()) return before;
  PutBackSettings(qmp, *before).IgnoreError();
  return set;
}

absl::Status PutBackSettings(QmpClient& qmp, const MigrationSettings& before) {
  absl::Status set = SetCapabilities(qmp, before);
  set.Update(SetParameters(qmp, before));
  return set;
}

}  // namespace ramjet
