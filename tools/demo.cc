#include "tools/demo.h"

#include <sys/stat.h>

#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "tools/embedded_restore.h"
#include "tools/error_line.h"
#include "tools/lazy_launch.h"
#include "tools/progress_line.h"
#include "tools/requirements.h"
#include "tools/restore_timing.h"
#include "tools/scratch_dir.h"

namespace ramjet {
namespace {

void Complain(absl::string_view words) { PrintError(words, "ramjet demo"); }

uint64_t BytesOnDisk(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
}

uint64_t MemoryMib(const DemoOptions& options) {
  if (options.memory_mib != 0) return options.memory_mib;
  return options.embedded ? 256 : 1024;
}

absl::StatusOr<DemoResult> MeasureEmbedded(const DemoOptions& options,
                                           const std::string& directory) {
  ProgressLine line;
  const std::string snapshot = directory + "/guest.mr";
  absl::StatusOr<EmbeddedRestores> embedded =
      TimeEmbeddedRestores(MemoryMib(options), options.vcpus, options.rounds, snapshot,
                           [&](const std::string& words) { line.Show(words); });
  if (!embedded.ok()) return embedded.status();
  DemoResult result;
  result.vcpus = options.vcpus;
  result.backend_reason = embedded->backend_reason;
  result.rounds = options.rounds;
  result.guest.machine = "embedded";
  result.guest.accel = embedded->backend;
  result.guest.memory_mib = result.guest.fill_mib = MemoryMib(options);
  result.snapshot_bytes = BytesOnDisk(snapshot);
  result.restores = std::move(embedded->restores);
  result.equal_memory = embedded->equal_memory;
  return result;
}

absl::StatusOr<DemoResult> Measure(const DemoOptions& options, const std::string& directory) {
  ProgressLine line;
  const ShowStep show_step = [&](const std::string& words) { line.Show(words); };
  DemoResult result;
  const absl::StatusOr<std::string> version = QemuVersion();
  if (!version.ok()) return version.status();
  result.qemu_version = *version;
  result.rounds = options.rounds;
  result.guest.accel = options.accel;
  result.guest.memory_mib = MemoryMib(options);
  result.guest.fill_mib = MemoryMib(options) * 2 / 5 / 8 * 8 + 16;  // the guest fills by 8 MiB

  const absl::StatusOr<SavedGuest> saved =
      SavedGuest::Create(result.guest, directory, RamjetBesideUs(), show_step);
  if (!saved.ok()) return saved.status();
  result.snapshot_bytes = BytesOnDisk(saved->snapshot());
  absl::StatusOr<std::vector<Restore>> restores = saved->TimeRounds(options.rounds, show_step);
  if (!restores.ok()) return restores.status();
  result.restores = *std::move(restores);

  show_step("comparing all of the memory");
  const absl::StatusOr<std::string> stock = saved->HashRestoredRam(Loader::kStock);
  if (!stock.ok()) return stock.status();
  const absl::StatusOr<std::string> ramjet = saved->HashRestoredRam(Loader::kRamjet);
  if (!ramjet.ok()) return ramjet.status();
  result.equal_memory = *stock == *ramjet;
  return result;
}

}  // namespace

absl::StatusOr<DemoResult> MeasureDemo(const DemoOptions& options) {
  std::vector<std::string> missing;
  if (!options.embedded) missing = MissingRequirements();
  if (!missing.empty()) return absl::FailedPreconditionError(absl::StrJoin(missing, "\n"));
  const absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
  if (!scratch.ok()) return scratch.status();
  if (options.keep) {
    (*scratch)->Keep();
    Complain(absl::StrCat("keeping ", (*scratch)->path()));
  }
  return options.embedded ? MeasureEmbedded(options, (*scratch)->path())
                          : Measure(options, (*scratch)->path());
}

int RunDemo(const DemoOptions& options) {
  // QEMU: the kernel, its initramfs and something to fill. Embedded: a guest without paging.
  const uint64_t least_mib = options.embedded ? 16 : 256;
  const uint64_t most_mib = options.embedded ? 3072 : 65536;
  const uint64_t memory_mib = MemoryMib(options);
  if (memory_mib < least_mib || memory_mib > most_mib || options.rounds < 1) {
    Complain(
        absl::StrCat("--memory must be ", least_mib, " to ", most_mib, ", --rounds at least 1"));
    return 2;
  }
  const absl::StatusOr<DemoResult> result = MeasureDemo(options);
  if (!result.ok()) {
    for (const absl::string_view line : absl::StrSplit(result.status().message(), '\n')) {
      Complain(line);
    }
    return 1;
  }
  const std::string report = options.json ? DemoJson(*result).dump(2) + "\n" : DemoTable(*result);
  std::fputs(report.c_str(), stdout);
  return result->equal_memory ? 0 : 1;
}

}  // namespace ramjet
