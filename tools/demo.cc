#include "tools/demo.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "tools/lazy_launch.h"
#include "tools/requirements.h"
#include "tools/restore_timing.h"
#include "tools/scratch_dir.h"

namespace ramjet {
namespace {

// One line on a terminal, overwritten by the next; nothing in a pipe.
class ProgressLine {
 public:
  ~ProgressLine() { Show(""); }
  void Show(const std::string& words) {
    if (on_terminal_) std::fprintf(stderr, "\r\033[K%s", words.c_str());
  }

 private:
  const bool on_terminal_ = isatty(STDERR_FILENO) != 0;
};

void Complain(absl::string_view words) {
  std::fprintf(stderr, "ramjet demo: %s\n", std::string{words}.c_str());
}

uint64_t BytesOnDisk(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
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
  result.guest.memory_mib = options.memory_mib;
  result.guest.fill_mib = options.memory_mib * 2 / 5 / 8 * 8 + 16;  // the guest fills by 8 MiB

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
  const std::vector<std::string> missing = MissingRequirements();
  if (!missing.empty()) return absl::FailedPreconditionError(absl::StrJoin(missing, "\n"));
  const absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
  if (!scratch.ok()) return scratch.status();
  if (options.keep) {
    (*scratch)->Keep();
    Complain(absl::StrCat("keeping ", (*scratch)->path()));
  }
  return Measure(options, (*scratch)->path());
}

int RunDemo(const DemoOptions& options) {
  constexpr uint64_t kLeastMemoryMib = 128;  // the kernel, its initramfs and something to fill
  if (options.memory_mib < kLeastMemoryMib || options.rounds < 1) {
    Complain(absl::StrCat("--memory must be at least ", kLeastMemoryMib, ", --rounds at least 1"));
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
