#include "tools/bench/bench.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tools/bench/bench_guest.h"
#include "tools/bench/c_face.h"
#include "tools/bench/conditions.h"
#include "tools/bench/limits.h"
#include "tools/bench/measurement.h"
#include "tools/bench/qemu_bench.h"
#include "tools/bench/ratios.h"
#include "tools/bench/report.h"
#include "tools/bench/table.h"
#include "tools/bench/vm_bench.h"
#include "tools/lazy_launch.h"
#include "tools/progress_line.h"
#include "tools/requirements.h"
#include "tools/scratch_dir.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

const std::vector<std::string> kQemuContestants = {"stock", "stock-multifd", "ramjet", "ramjet-ws",
                                                   "floor"};
const std::vector<std::string> kVmContestants = {"full-read", "map-private", "one-page", "ramjet",
                                                 "ramjet-ws"};
const std::vector<std::string> kVmWorkloads = {"touch-all", "read-25", "write-25", "zipf"};

void Complain(absl::string_view words) {
  std::fprintf(stderr, "ramjet bench: %s\n", std::string{words}.c_str());
}

bool Chosen(const std::vector<std::string>& among, const std::string& name) {
  return among.empty() || std::find(among.begin(), among.end(), name) != among.end();
}

// What competes with each other, in the order of the first round.
struct Group {
  std::string where;
  std::string workload;
  std::string cache;
  std::vector<std::string> contestants;
};

class Bench {
 public:
  Bench(const BenchOptions& options, std::string directory)
      : options_(options), directory_(std::move(directory)), ramjet_(RamjetBesideUs()) {}

  absl::StatusOr<json> Measure();
  std::string Table(const json& bench) const { return BenchTable(bench, Summary(runs_)); }

 private:
  int rounds() const { return options_.rounds > 0 ? options_.rounds : options_.quick ? 1 : 5; }
  absl::Status PlanGroups();
  absl::Status Prepare(const Case& of);
  absl::Status RunRound(int round);
  absl::StatusOr<WatchedRun> Load(const Case& of, bool picture);
  absl::Status TakePictures();
  absl::Status MeasureScaling();
  VmBenchOptions VmOptions(const Case& of) const;
  void Show(const std::string& words) { progress_.Show(words); }

  const BenchOptions& options_;
  const std::string directory_;
  const std::string ramjet_;
  ProgressLine progress_;
  BenchGuest guest_;
  std::unique_ptr<QemuBench> qemu_;  // null: QEMU takes no part
  std::vector<Group> groups_;
  size_t done_ = 0;
  std::vector<Run> runs_;
  Limits limits_;
  json pictures_ = json::array();
  std::vector<double> sparse_1_gib_;
  std::vector<double> sparse_64_gib_;
};

VmBenchOptions Bench::VmOptions(const Case& of) const {
  VmBenchOptions options = {.snapshot = guest_.snapshot, .of = of, .vcpus = options_.vcpus};
  if (of.contestant == "ramjet-ws") {
    options.working_set = absl::StrCat(directory_, "/", of.workload, ".ws");
  }
  return options;
}

absl::Status Bench::Prepare(const Case& of) {
  Show(absl::StrCat("preparing ", of.ToString()));
  if (of.where == "qemu") return qemu_->Prepare(of.contestant);
  if (of.contestant != "ramjet-ws") return absl::OkStatus();
  VmBenchOptions options = VmOptions(of);
  std::swap(options.record, options.working_set);
  return RunVm(ramjet_, options).status();
}

absl::Status Bench::PlanGroups() {
  std::vector<std::string> caches = {"warm", "cold"};
  if (options_.cache == "warm" || (options_.cache.empty() && options_.quick)) caches = {"warm"};
  if (options_.cache == "cold") caches = {"cold"};
  const auto add = [&](const char* where, const std::string& workload,
                       const std::vector<std::string>& contestants) -> absl::Status {
    if (!Chosen(options_.workloads, workload)) return absl::OkStatus();
    Group group = {.where = where, .workload = workload, .cache = "", .contestants = {}};
    for (const std::string& contestant : contestants) {
      // What serves a figure of ramjet's goes with it.
      const bool serves = contestant == "ramjet-demand" || contestant == "fault-loop";
      if (!Chosen(options_.contestants, serves ? "ramjet" : contestant)) continue;
      absl::Status prepared = Prepare({contestant, where, workload, "warm"});
      if (!prepared.ok()) return prepared;
      group.contestants.push_back(contestant);
    }
    for (const std::string& cache : caches) {
      group.cache = cache;
      if (!group.contestants.empty()) groups_.push_back(group);
    }
    return absl::OkStatus();
  };
  absl::Status added;
  if (qemu_ != nullptr) added.Update(add("qemu", "first-work", kQemuContestants));
  for (const std::string& workload : kVmWorkloads) {
    added.Update(add("vm", workload, kVmContestants));
  }
  added.Update(add("vm", "idle", {"full-read", "one-page", "ramjet"}));
  added.Update(add("vm", "faults", {"ramjet", "ramjet-demand", "fault-loop"}));
  if (added.ok() && groups_.empty()) {
    return absl::InvalidArgumentError("none of these contestants has one of these workloads here");
  }
  return added;
}

absl::StatusOr<WatchedRun> Bench::Load(const Case& of, bool picture) {
  VmBenchOptions options = VmOptions(of);
  options.picture = picture;
  absl::StatusOr<WatchedRun> loaded =
      of.where == "qemu" ? qemu_->Time(of, picture) : RunVm(ramjet_, options);
  if (loaded.ok()) return loaded;
  return absl::Status(loaded.status().code(),
                      absl::StrCat(of.ToString(), ": ", loaded.status().message()));
}

absl::Status Bench::RunRound(int round) {
  size_t cases = 0;
  for (const Group& group : groups_) cases += group.contestants.size();
  for (const Group& group : groups_) {
    const size_t count = group.contestants.size();
    for (size_t i = 0; i < count; ++i) {
      // Another one comes first in each round.
      const Case of = {group.contestants[(i + static_cast<size_t>(round) - 1) % count], group.where,
                       group.workload, group.cache};
      Show(absl::StrCat("[", ++done_, " of ", cases * rounds(), "] round ", round, ": ",
                        of.ToString()));
      absl::StatusOr<WatchedRun> loaded = Load(of, /*picture=*/false);
      if (!loaded.ok()) return loaded.status();
      loaded->run.round = round;
      if (of.contestant != "fault-loop") {
        runs_.push_back(std::move(loaded->run));
      } else if (of.cache == "warm") {
        limits_.Add("fault-loop-p50", 1, loaded->run.values["stall_p50"]);
        limits_.Add("fault-loop-p99", 1, loaded->run.values["stall_p99"]);
      }
    }
  }
  Show(absl::StrCat("round ", round, ": the machine's limits"));
  return limits_.Measure(guest_.snapshot);
}

absl::Status Bench::TakePictures() {
  for (const Group& group : groups_) {
    if (group.workload == "idle" || group.workload == "faults") continue;
    for (const std::string& contestant : group.contestants) {
      if (contestant == "floor") continue;
      const Case of = {contestant, group.where, group.workload, group.cache};
      Show(absl::StrCat("watching ", of.ToString()));
      absl::StatusOr<WatchedRun> loaded = Load(of, /*picture=*/true);
      if (!loaded.ok()) return loaded.status();
      loaded->picture.update(json{{"contestant", of.contestant},
                                  {"where", of.where},
                                  {"workload", of.workload},
                                  {"cache", of.cache}});
      pictures_.push_back(std::move(loaded->picture));
    }
  }
  return absl::OkStatus();
}

absl::Status Bench::MeasureScaling() {
  const bool wanted = options_.scaling.value_or(qemu_ != nullptr && !options_.quick &&
                                                Chosen(options_.contestants, "ramjet"));
  if (!wanted) return absl::OkStatus();
  const absl::StatusOr<std::string> version = QemuVersion();
  if (!version.ok()) return version.status();
  const SparseMachine small = {1 << 10, directory_ + "/sparse-1.mr"};
  const SparseMachine large = {64 << 10, directory_ + "/sparse-64.mr"};
  for (const SparseMachine* const machine : {&small, &large}) {
    Show(absl::StrCat("saving a sparse machine of ", machine->memory_mib >> 10, " GiB"));
    absl::Status saved = machine->Save(directory_);
    if (!saved.ok()) return saved;
  }
  for (int round = 1; round <= rounds(); ++round) {
    Show(absl::StrCat("round ", round, ": resuming the sparse machines"));
    for (const auto& [machine, seconds] :
         {std::pair(&small, &sparse_1_gib_), std::pair(&large, &sparse_64_gib_)}) {
      const absl::StatusOr<double> timed = machine->TimeResume(ramjet_);
      if (!timed.ok()) return timed.status();
      seconds->push_back(*timed);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<json> Bench::Measure() {
  const absl::Time started = absl::Now();
  absl::StatusOr<BenchGuest> guest =
      FindGuest(options_, directory_, ramjet_, [&](const std::string& words) { Show(words); });
  if (!guest.ok()) return guest.status();
  guest_ = *std::move(guest);
  if (guest_.qemu) {
    qemu_ = std::make_unique<QemuBench>(*guest_.qemu, directory_, ramjet_);
  } else {
    Complain("no QEMU arguments behind --, so only the benchmark's own VM takes part");
  }
  absl::Status status = PlanGroups();
  for (int round = 1; status.ok() && round <= rounds(); ++round) status = RunRound(round);
  if (status.ok()) status = MeasureScaling();
  const bool pictures = options_.pictures || !options_.report_directory.empty();
  if (status.ok() && pictures) status = TakePictures();
  if (!status.ok()) return status;

  const Summary summary(runs_);
  const std::vector<Ratio> ratios =
      ComputeRatios({.summary = summary,
                     .limits = limits_,
                     .nonzero_bytes = guest_.summary.nonzero_bytes,
                     .pages = guest_.summary.pages,
                     .rounds = rounds(),
                     .cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)),
                     .sparse_1_gib = sparse_1_gib_,
                     .sparse_64_gib = sparse_64_gib_});
  json runs = json::array();
  for (const Run& run : runs_) runs.push_back(ToJson(run));
  json bench = {{"schema", "ramjet.bench/1"},
                {"version", c_face::Version()},
                {"started", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", started, absl::UTCTimeZone())},
                {"rounds", rounds()},
                {"machine", DescribeMachine(guest_.snapshot)},
                {"snapshot", guest_.summary.object},
                {"limits", limits_.AsJson()},
                {"runs", std::move(runs)},
                {"summary", summary.AsJson()},
                {"ratios", ToJson(ratios)}};
  if (!sparse_64_gib_.empty()) {
    bench["scaling"] = {{{"ram_bytes", uint64_t{1} << 30}, {"to_resume", sparse_1_gib_}},
                        {{"ram_bytes", uint64_t{64} << 30}, {"to_resume", sparse_64_gib_}}};
  }
  if (pictures) bench["pictures"] = std::move(pictures_);
  progress_.Show("");
  return bench;
}

absl::Status WriteReport(const json& bench, const std::string& directory) {
  if (mkdir(directory.c_str(), 0777) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, directory);
  }
  const std::string path = directory + "/index.html";
  std::ofstream file(path);
  file << ReportHtml(bench);
  file.close();
  return file ? absl::OkStatus() : absl::ErrnoToStatus(errno, path);
}

absl::Status MeasureAndPrint(const BenchOptions& options) {
  const absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
  if (!scratch.ok()) return scratch.status();
  Bench bench(options, (*scratch)->path());
  const absl::StatusOr<json> result = bench.Measure();
  if (!result.ok()) return result.status();
  if (!options.report_directory.empty()) {
    absl::Status written = WriteReport(*result, options.report_directory);
    if (!written.ok()) return written;
  }
  const std::string words = options.json ? result->dump(2) + "\n" : bench.Table(*result);
  std::fputs(words.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

const std::vector<std::string>& ContestantNames() {
  static const auto* const kNames =
      new std::vector<std::string>{"stock",       "stock-multifd", "floor",  "full-read",
                                   "map-private", "one-page",      "ramjet", "ramjet-ws"};
  return *kNames;
}

const std::vector<std::string>& WorkloadNames() {
  static const auto* const kNames = new std::vector<std::string>{
      "first-work", "touch-all", "read-25", "write-25", "zipf", "idle", "faults"};
  return *kNames;
}

int RunBench(const BenchOptions& options) {
  const absl::Status ran = MeasureAndPrint(options);
  if (ran.ok()) return 0;
  for (const absl::string_view line : absl::StrSplit(ran.message(), '\n')) Complain(line);
  return 1;
}

}  // namespace ramjet::bench
