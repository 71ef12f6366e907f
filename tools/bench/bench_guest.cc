#include "tools/bench/bench_guest.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "tools/requirements.h"
#include "tools/test_guest.h"

namespace ramjet::bench {

absl::StatusOr<BenchGuest> FindGuest(const BenchOptions& options, const std::string& directory,
                                     const std::string& ramjet, const ShowStep& show_step) {
  BenchGuest found;
  found.snapshot = options.snapshot;
  if (options.snapshot.empty()) {
    const std::vector<std::string> missing = MissingRequirements();
    if (!missing.empty()) return absl::FailedPreconditionError(absl::StrJoin(missing, "\n"));
    GuestOptions guest;
    guest.memory_mib = options.memory_mib != 0 ? options.memory_mib : options.quick ? 256 : 1024;
    guest.fill_mib = options.fill_mib != 0 ? options.fill_mib : options.quick ? 64 : 424;
    const absl::StatusOr<SavedGuest> saved =
        SavedGuest::Create(guest, directory, ramjet, show_step);
    if (!saved.ok()) return saved.status();
    found.snapshot = saved->snapshot();
    found.qemu.emplace();
    found.qemu->args = MachineArgs(guest);
    found.qemu->last_tick = saved->last_tick();
  } else if (!options.qemu_command.empty()) {
    found.qemu.emplace();
    found.qemu->args = options.qemu_command;
    if (!absl::StartsWith(found.qemu->args.front(), "-")) {
      found.qemu->emulator = found.qemu->args.front();
      found.qemu->args.erase(found.qemu->args.begin());
    }
  }
  absl::StatusOr<SnapshotSummary> summary = DescribeSnapshot(found.snapshot);
  if (!summary.ok()) return summary.status();
  found.summary = *std::move(summary);
  if (found.qemu) {
    found.qemu->snapshot = found.snapshot;
    found.qemu->uri_options = found.summary.uri_options;
    found.qemu->ram_bytes = found.summary.largest_block_bytes;
    found.qemu->nonzero_bytes = found.summary.nonzero_bytes;
  }
  return found;
}

}  // namespace ramjet::bench
