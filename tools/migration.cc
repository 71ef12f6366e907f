#include "tools/migration.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tools/child_process.h"

namespace ramjet {
namespace {

using nlohmann::json;

absl::Status Configure(QemuProcess& qemu, const MigrationOptions& options) {
  json capabilities = json::array();
  const auto enable = [&](const char* name) {
    capabilities.push_back({{"capability", name}, {"state", true}});
  };
  enable("mapped-ram");
  enable("events");
  if (options.multifd_channels > 0) enable("multifd");
  const auto enabled = qemu.Execute("migrate-set-capabilities", {{"capabilities", capabilities}});
  if (!enabled.ok()) return enabled.status();
  // Bandwidth 0 is no limit; the default would throttle a save to 128 MiB/s.
  json parameters = {{"max-bandwidth", 0}};
  if (options.multifd_channels > 0) parameters["multifd-channels"] = options.multifd_channels;
  return qemu.Execute("migrate-set-parameters", parameters).status();
}

// Of either direction. On the way in, a failure ends QEMU, and its words are in the error.
absl::StatusOr<absl::Time> WaitForCompletion(QemuProcess& qemu, absl::Time deadline) {
  while (true) {
    const absl::StatusOr<QmpEvent> event = qemu.WaitForEvent("MIGRATION", deadline);
    if (!event.ok()) return event.status();
    const json status = event->data.value("status", json());
    if (status == "completed") return event->emitted;
    if (status == "failed" || status == "cancelled") {
      const absl::StatusOr<json> why = qemu.Execute("query-migrate");
      return absl::AbortedError(
          absl::StrCat("the migration failed: ", why.ok() ? why->dump() : why.status().message()));
    }
  }
}

// The "completed" of a save comes a little before the guest may be continued, and the change of
// state between them has no event: asks until it is over.
absl::Status WaitUntilStopped(QemuProcess& qemu, absl::Time deadline) {
  while (absl::Now() < deadline) {
    const absl::StatusOr<json> state = qemu.Execute("query-status");
    if (!state.ok()) return state.status();
    if (state->value("status", json()) != "finish-migrate") return absl::OkStatus();
  }
  return absl::DeadlineExceededError("the migration has ended, but the guest is not stopped");
}

absl::StatusOr<std::string> HashRange(QemuProcess& qemu, PhysicalRange range,
                                      const std::string& fifo) {
  if (mkfifo(fifo.c_str(), 0600) != 0) return absl::ErrnoToStatus(errno, fifo);
  const absl::Cleanup unlink_fifo = [&] { unlink(fifo.c_str()); };
  absl::StatusOr<ChildProcess> hasher = ChildProcess::Start({"sha256sum", fifo});
  if (!hasher.ok()) return hasher.status();
  const auto saved =
      qemu.Execute("pmemsave", {{"val", range.addr}, {"size", range.length}, {"filename", fifo}});
  if (!saved.ok()) return saved.status();
  const absl::StatusOr<int> exit_status = hasher->Wait(absl::Now() + absl::Seconds(30));
  if (!exit_status.ok()) return exit_status.status();
  const std::string line = hasher->Stdout();
  if (*exit_status != 0 || line.find(' ') != 64) {
    return absl::InternalError(absl::StrCat("sha256sum: ", line, hasher->Stderr()));
  }
  return line.substr(0, 64);
}

}  // namespace

absl::Status SaveMappedRam(QemuProcess& qemu, const std::string& uri,
                           const MigrationOptions& options) {
  absl::Status configured = Configure(qemu, options);
  if (!configured.ok()) return configured;
  const auto started = qemu.Execute("migrate", {{"uri", uri}});
  if (!started.ok()) return started.status();
  const absl::Time deadline = absl::Now() + options.timeout;
  const absl::StatusOr<absl::Time> completed = WaitForCompletion(qemu, deadline);
  if (!completed.ok()) return completed.status();
  return WaitUntilStopped(qemu, deadline);
}

absl::StatusOr<LoadTimes> LoadMappedRam(QemuProcess& qemu, const std::string& uri,
                                        const MigrationOptions& options) {
  const absl::Status configured = Configure(qemu, options);
  if (!configured.ok()) return configured;
  const absl::Time asked = absl::Now();
  const auto started = qemu.Execute("migrate-incoming", {{"uri", uri}});
  if (!started.ok()) return started.status();
  // The last thing QEMU does on the way in, after vm_start() and its RESUME event.
  const absl::StatusOr<absl::Time> completed = WaitForCompletion(qemu, asked + options.timeout);
  if (!completed.ok()) return completed.status();
  const absl::StatusOr<QmpEvent> resumed = qemu.WaitForEvent("RESUME", absl::InfinitePast());
  return LoadTimes{asked, resumed.ok() ? resumed->emitted : *completed};
}

std::vector<PhysicalRange> PcRam(uint64_t memory_mib) {
  constexpr uint64_t kMib = 1 << 20;
  if (memory_mib < 3584) return {{0, memory_mib * kMib}};
  return {{0, 3072 * kMib}, {4096 * kMib, (memory_mib - 3072) * kMib}};
}

absl::StatusOr<std::string> HashRam(QemuProcess& qemu, const std::vector<PhysicalRange>& ranges,
                                    const std::string& fifo) {
  std::string hashes;
  for (const PhysicalRange& range : ranges) {
    const absl::StatusOr<std::string> hash = HashRange(qemu, range, fifo);
    if (!hash.ok()) return hash.status();
    absl::StrAppend(&hashes, hashes.empty() ? "" : " ", *hash);
  }
  return hashes;
}

}  // namespace ramjet
