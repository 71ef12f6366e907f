#include "tools/bench/qemu_bench.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tools/bench/cleared_copy.h"
#include "tools/bench/process_figures.h"
#include "tools/bench/sampler.h"
#include "tools/child_process.h"
#include "tools/lazy_launch.h"
#include "tools/migration.h"
#include "tools/page_cache.h"
#include "tools/test_guest.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr absl::Duration kSilence = absl::Seconds(5);
constexpr uint64_t kSparseContentBytes = 64 << 20;
constexpr int kMultifdChannels = 2;
// The first work of a guest, and a little more.
constexpr char kRecordSeconds[] = "1";

bool IsLazy(const std::string& contestant) { return absl::StartsWith(contestant, "ramjet"); }

std::vector<std::string> SparseMachineArgs(uint64_t memory_mib) {
  return {"-S",       "-display",
          "none",     "-nodefaults",
          "-accel",   "tcg",
          "-machine", "pc,memory-backend=ram",
          "-m",       absl::StrCat(memory_mib),
          "-object",  absl::StrCat("memory-backend-ram,id=ram,reserve=off,size=", memory_mib, "M")};
}

absl::StatusOr<double> TimeSparse(uint64_t memory_mib, const std::string& snapshot,
                                  const std::vector<std::string>& launcher) {
  QemuOptions options;
  options.launcher = launcher;
  options.args = SparseMachineArgs(memory_mib);
  options.args.insert(options.args.end(), {"-incoming", "defer"});
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
  if (!qemu.ok()) return qemu.status();
  WarmHostMemory(BytesToWarm(kSparseContentBytes));
  const absl::StatusOr<LoadTimes> times = LoadMappedRam(**qemu, "file:" + snapshot);
  if (!times.ok()) return times.status();
  return absl::ToDoubleSeconds(times->resumed - times->asked);
}

std::string ClearedCopyOf(const std::string& snapshot) { return snapshot + ".cleared"; }

// TCG runs all vCPUs in one thread or has one for each, as KVM does.
absl::StatusOr<std::vector<pid_t>> VcpuThreads(QemuProcess& qemu) {
  const absl::StatusOr<json> cpus = qemu.Execute("query-cpus-fast");
  if (!cpus.ok()) return cpus.status();
  std::set<pid_t> threads;
  for (const json& cpu : *cpus) threads.insert(cpu.value("thread-id", 0));
  return std::vector<pid_t>(threads.begin(), threads.end());
}

void AddStats(const json& stats, std::map<std::string, double>* values) {
  (*values)["demand_faults"] = NumberAt(stats, "/pages/faulted");
  (*values)["stall_count"] = NumberAt(stats, "/fault_us/count");
  for (const char* const quantile : {"p50", "p99", "p999", "max"}) {
    (*values)[absl::StrCat("stall_", quantile)] =
        NumberAt(stats, absl::StrCat("/fault_us/", quantile));
  }
}

}  // namespace

QemuBench::QemuBench(QemuGuest guest, const std::string& directory, std::string ramjet)
    : guest_(std::move(guest)),
      stats_path_(directory + "/stats.json"),
      cleared_copy_(directory + "/cleared.mr"),
      working_set_(directory + "/qemu.ws"),
      ramjet_(std::move(ramjet)) {}

absl::Status QemuBench::Prepare(const std::string& contestant) {
  if (contestant == "floor") return WriteClearedCopy(guest_.snapshot, cleared_copy_);
  if (contestant == "ramjet-ws") return RecordWorkingSet();
  return absl::OkStatus();
}

QemuOptions QemuBench::OptionsFor(const std::string& contestant) const {
  QemuOptions options;
  if (IsLazy(contestant)) options.launcher = RamjetRun(ramjet_, stats_path_);
  if (contestant == "ramjet-ws") {
    options.launcher.insert(options.launcher.end() - 1, {"--working-set", working_set_});
  }
  options.emulator = guest_.emulator;
  options.args = guest_.args;
  options.args.insert(options.args.end(), {"-incoming", "defer"});
  if (contestant == "floor") options.args.emplace_back("-S");
  return options;
}

absl::Status QemuBench::RecordWorkingSet() const {
  QemuOptions options = OptionsFor("ramjet");
  options.launcher.insert(options.launcher.end() - 1,
                          {"--record", working_set_, "--record-for", kRecordSeconds});
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
  if (!qemu.ok()) return qemu.status();
  const absl::StatusOr<LoadTimes> times =
      LoadMappedRam(**qemu, absl::StrCat("file:", guest_.snapshot, guest_.uri_options));
  if (!times.ok()) return times.status();
  while (absl::Now() < times->asked + kTimeout) {
    if (access(working_set_.c_str(), R_OK) == 0) return absl::OkStatus();
    absl::SleepFor(absl::Milliseconds(50));
  }
  return absl::InternalError(absl::StrCat("no working set was recorded: ", (*qemu)->Stderr()));
}

std::optional<absl::Time> QemuBench::WaitForFirstWork(const SerialConsole& serial) {
  if (guest_is_silent_) return std::nullopt;
  const auto is_work = [&](const std::string& line) {
    return !guest_.last_tick || TickOf(line).value_or(0) > *guest_.last_tick;
  };
  const absl::StatusOr<SerialConsole::Line> line =
      serial.WaitForLine(is_work, absl::Now() + (guest_.last_tick ? kTimeout : kSilence));
  guest_is_silent_ = !line.ok();
  if (!line.ok()) return std::nullopt;
  return line->received;
}

absl::StatusOr<WatchedRun> QemuBench::Time(const Case& of, bool picture) {
  unlink(stats_path_.c_str());
  const absl::StatusOr<std::unique_ptr<QemuProcess>> started =
      QemuProcess::Start(OptionsFor(of.contestant));
  if (!started.ok()) return started.status();
  QemuProcess& qemu = **started;
  const absl::StatusOr<std::vector<pid_t>> vcpus = VcpuThreads(qemu);
  if (!vcpus.ok()) return vcpus.status();
  const AddressRange ram = FindGuestRam(qemu.pid(), guest_.ram_bytes).value_or(AddressRange{});

  // In this order: the warm-up must not push the file out of the cache again.
  const std::string& snapshot = of.contestant == "floor" ? cleared_copy_ : guest_.snapshot;
  WarmHostMemory(BytesToWarm(guest_.nonzero_bytes));
  const absl::Status prepared =
      SetCacheState(snapshot, of.cache == "cold" ? CacheState::kCold : CacheState::kWarm);
  if (!prepared.ok()) return prepared;
  std::optional<Sampler> sampler;
  if (picture) sampler.emplace(qemu.pid(), ram);
  const ProcessBaseline baseline(qemu.pid(), ram, *vcpus);

  WatchedRun result;
  result.run.of = of;
  std::map<std::string, double>& values = result.run.values;
  if (sampler) sampler->SetStart(MonotonicNs());
  const absl::StatusOr<LoadTimes> times =
      LoadMappedRam(qemu, absl::StrCat("file:", snapshot, guest_.uri_options),
                    {.multifd_channels = of.contestant == "stock-multifd" ? kMultifdChannels : 0});
  if (!times.ok()) return times.status();
  values["to_resume"] = absl::ToDoubleSeconds(times->resumed - times->asked);
  if (of.contestant == "floor") return result;

  values["to_resident"] = values["to_resume"];
  if (IsLazy(of.contestant)) {
    const absl::StatusOr<json> stats = WaitForCompleteStats(stats_path_, times->asked + kTimeout);
    if (!stats.ok()) return stats.status();
    values["to_resident"] = std::max(absl::ToDoubleSeconds(absl::Now() - times->asked),
                                     NumberAt(*stats, "/seconds/to_complete"));
    AddStats(*stats, &values);
  }
  values["cpu"] = baseline.CpuSeconds();
  values["read_bytes"] = static_cast<double>(baseline.ReadBytes());
  values["peak_bytes"] = static_cast<double>(baseline.PeakBytesBeyondRam());
  values["huge_bytes"] = static_cast<double>(FiguresOf(qemu.pid(), ram).huge_bytes);
  const std::optional<absl::Time> worked = WaitForFirstWork(qemu.serial());
  if (worked) values["to_first_work"] = absl::ToDoubleSeconds(*worked - times->asked);
  if (guest_.last_tick && !worked) return absl::DeadlineExceededError("the guest does not tick");
  if (sampler) {
    sampler->Stop();
    result.picture = {{"resident", sampler->Resident()}, {"stalls", json::array()}};
  }
  return result;
}

absl::Status SparseMachine::Save(const std::string& directory) const {
  const std::string content = directory + "/content";
  const absl::Cleanup remove = [&] { unlink(content.c_str()); };
  const auto made = RunCommand({"dd", "if=/dev/urandom", "of=" + content, "bs=1M",
                                absl::StrCat("count=", kSparseContentBytes >> 20)},
                               absl::Now() + kTimeout);
  if (!made.ok()) return made.status();
  QemuOptions options;
  options.args = SparseMachineArgs(memory_mib);
  options.args.insert(options.args.end(),
                      {"-device", "loader,addr=0x1000000,force-raw=on,file=" + content});
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
  if (!qemu.ok()) return qemu.status();
  const absl::Status saved = SaveMappedRam(**qemu, "file:" + snapshot);
  return saved.ok() ? WriteClearedCopy(snapshot, ClearedCopyOf(snapshot)) : saved;
}

absl::StatusOr<double> SparseMachine::TimeResume(const std::string& ramjet) const {
  return TimeSparse(memory_mib, snapshot, {ramjet, "run", "--"});
}

absl::StatusOr<double> SparseMachine::TimeFloor() const {
  return TimeSparse(memory_mib, ClearedCopyOf(snapshot), {});
}

}  // namespace ramjet::bench
