#include "tools/restore_timing.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tools/lazy_launch.h"
#include "tools/migration.h"

namespace ramjet {
namespace {

constexpr absl::Duration kFillTimeout = absl::Minutes(10);
constexpr absl::Duration kRestoreTimeout = absl::Minutes(2);

std::string Describe(Loader loader, CacheState cache) {
  return absl::StrCat(loader == Loader::kStock ? "QEMU's own load" : "ramjet", ", ",
                      cache == CacheState::kWarm ? "warm" : "cold");
}

double MedianOf(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace

SavedGuest::SavedGuest(GuestOptions guest, std::string directory, std::string ramjet)
    : guest_(std::move(guest)),
      directory_(std::move(directory)),
      ramjet_(std::move(ramjet)),
      snapshot_(directory_ + "/guest.mr") {}

absl::StatusOr<SavedGuest> SavedGuest::Create(const GuestOptions& guest,
                                              const std::string& directory,
                                              const std::string& ramjet,
                                              const ShowStep& show_step) {
  SavedGuest saved(guest, directory, ramjet);
  const absl::StatusOr<std::string> kernel = FindGuestKernel();
  if (!kernel.ok()) return kernel.status();
  const std::string initramfs = directory + "/initramfs";
  const absl::Status written = WriteInitramfs(initramfs);
  if (!written.ok()) return written;

  show_step(absl::StrCat("booting a guest and filling ", guest.fill_mib, " MiB of its memory"));
  QemuOptions options;
  options.args = BootArgs(guest, *kernel, initramfs);
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
  if (!qemu.ok()) return qemu.status();
  const absl::Status filled = WaitUntilFilled((*qemu)->serial(), absl::Now() + kFillTimeout);
  if (!filled.ok()) return filled;
  show_step("saving it");
  const absl::Status stored = SaveMappedRam(**qemu, absl::StrCat("file:", saved.snapshot_));
  if (!stored.ok()) return stored;
  saved.last_tick_ = LastTick((*qemu)->serial());
  return saved;
}

QemuOptions SavedGuest::RestoreOptions(Loader loader, const std::string& stats_path) const {
  QemuOptions options;
  if (loader == Loader::kRamjet) options.launcher = RamjetRun(ramjet_, stats_path);
  options.args = MachineArgs(guest_);
  options.args.insert(options.args.end(), {"-incoming", "defer"});
  return options;
}

absl::StatusOr<Restore> SavedGuest::TimeOne(Loader loader, CacheState cache) const {
  const std::string stats_path = directory_ + "/stats.json";
  unlink(stats_path.c_str());
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu =
      QemuProcess::Start(RestoreOptions(loader, stats_path));
  if (!qemu.ok()) return qemu.status();
  // In this order: the warm-up must not push the file out of the cache again.
  WarmHostMemory();
  const absl::Status prepared = SetCacheState(snapshot_, cache);
  if (!prepared.ok()) return prepared;

  const absl::StatusOr<LoadTimes> times = LoadMappedRam(**qemu, "file:" + snapshot_);
  if (!times.ok()) return times.status();
  const absl::Time deadline = times->asked + kRestoreTimeout;
  Restore restore;
  restore.cache = cache;
  restore.loader = loader;
  restore.to_resume_s = absl::ToDoubleSeconds(times->resumed - times->asked);
  restore.to_resident_s = restore.to_resume_s;
  if (loader == Loader::kRamjet) {
    absl::StatusOr<nlohmann::json> stats = WaitForCompleteStats(stats_path, deadline);
    if (!stats.ok()) return stats.status();
    restore.to_resident_s = std::max(absl::ToDoubleSeconds(absl::Now() - times->asked),
                                     NumberAt(*stats, "/seconds/to_complete"));
    restore.stats = *std::move(stats);
  }
  // Its time was taken by the console's own thread, however late we look.
  const absl::StatusOr<SerialConsole::Line> tick = (*qemu)->serial().WaitForLine(
      [&](const std::string& line) { return TickOf(line).value_or(0) > last_tick_; }, deadline);
  if (!tick.ok()) return tick.status();
  restore.to_first_work_s = absl::ToDoubleSeconds(tick->received - times->asked);
  return restore;
}

absl::StatusOr<std::vector<Restore>> SavedGuest::TimeRounds(int rounds,
                                                            const ShowStep& show_step) const {
  std::vector<Restore> restores;
  for (int round = 1; round <= rounds; ++round) {
    for (const CacheState cache : {CacheState::kWarm, CacheState::kCold}) {
      const Loader first = round % 2 == 1 ? Loader::kStock : Loader::kRamjet;
      const Loader second = round % 2 == 1 ? Loader::kRamjet : Loader::kStock;
      for (const Loader loader : {first, second}) {
        const std::string what = Describe(loader, cache);
        show_step(absl::StrCat("round ", round, " of ", rounds, ": ", what));
        absl::StatusOr<Restore> restore = TimeOne(loader, cache);
        if (!restore.ok()) {
          return absl::Status(restore.status().code(),
                              absl::StrCat(what, ": ", restore.status().message()));
        }
        restore->round = round;
        restores.push_back(*std::move(restore));
      }
    }
  }
  return restores;
}

absl::StatusOr<std::string> SavedGuest::HashRestoredRam(Loader loader) const {
  QemuOptions options = RestoreOptions(loader, directory_ + "/stats.json");
  options.args.push_back("-S");
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
  if (!qemu.ok()) return qemu.status();
  const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, "file:" + snapshot_);
  if (!loaded.ok()) return loaded.status();
  return HashRam(**qemu, PcRam(guest_.memory_mib), directory_ + "/ram");
}

Medians MediansOf(const std::vector<Restore>& restores, Loader loader, CacheState cache) {
  const auto median = [&](auto value) {
    std::vector<double> values;
    for (const Restore& restore : restores) {
      if (restore.loader == loader && restore.cache == cache) values.push_back(value(restore));
    }
    return MedianOf(std::move(values));
  };
  const auto statistic = [&](const char* pointer) {
    return median([&](const Restore& restore) { return NumberAt(restore.stats, pointer); });
  };
  return {median([](const Restore& restore) { return restore.to_resume_s; }),
          median([](const Restore& restore) { return restore.to_first_work_s; }),
          median([](const Restore& restore) { return restore.to_resident_s; }),
          statistic("/pages/faulted"),
          statistic("/fault_us/p50"),
          statistic("/fault_us/p99")};
}

}  // namespace ramjet
