#include "tools/bench/bench.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "tools/bench/bench_guest.h"
#include "tools/bench/bench_result.h"
#include "tools/bench/comparison.h"
#include "tools/bench/conditions.h"
#include "tools/bench/kvm_toucher.h"
#include "tools/bench/measurement.h"
#include "tools/bench/qemu_bench.h"
#include "tools/bench/ramjet_build.h"
#include "tools/bench/report.h"
#include "tools/bench/table.h"
#include "tools/bench/vm_bench.h"
#include "tools/error_line.h"
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

// As a shell has it of a program that Ctrl-C has ended.
constexpr int kInterruptedStatus = 130;

void Complain(absl::string_view words) { PrintError(words, "ramjet bench"); }

bool Chosen(const std::vector<std::string>& among, const std::string& name) {
  return among.empty() || std::find(among.begin(), among.end(), name) != among.end();
}

// What competes with each other, in the order of the first round.
using Group = std::vector<Case>;

// A `ramjet` command that loads, and its files. Builds that are compared have one each, with
// working sets of their own: two records of one guest differ, and that is part of the noise.
struct Loader {
  std::string ramjet;                         // path of the command
  std::string directory;                      // of its files
  std::unique_ptr<QemuBench> qemu = nullptr;  // null: QEMU takes no part
};

// "about 12 min left", if the rest goes on as fast.
std::string TimeLeft(absl::Duration elapsed, size_t done, size_t count) {
  if (done == 0) return "";
  const double seconds = absl::ToDoubleSeconds(elapsed) / static_cast<double>(done) *
                         static_cast<double>(count - done);
  return seconds < 90 ? absl::StrFormat("; about %.0f s left", seconds)
                      : absl::StrFormat("; about %.0f min left", seconds / 60);
}

// The rounds, in one thread; what is complete of them is shown by it in the end, or by the thread
// that hears Ctrl-C.
class Bench {
 public:
  static absl::StatusOr<std::unique_ptr<Bench>> Create(const BenchOptions& options);

  // Measures and prints. Returns the exit status.
  int Run();

 private:
  explicit Bench(const BenchOptions& options) : options_(options), ramjet_(RamjetBesideUs()) {}

  // In a thread of its own: whether we go on until the load in hand has ended.
  bool OutlivesInterrupt();
  absl::Status Interrupted() const {
    return interrupted_ ? absl::CancelledError("Ctrl-C") : absl::OkStatus();
  }

  int rounds() const {
    if (options_.rounds > 0) return options_.rounds;
    return options_.quick ? 1 : compares_builds() ? 20 : 5;
  }
  bool compares_builds() const { return !options_.against.empty(); }
  bool TakesPart(const std::string& contestant) const;
  absl::Status Measure();
  absl::Status FindBuilds();
  absl::Status PrepareLoaders();
  absl::Status PlanGroups();
  void AddGroups(Group group);
  absl::Status Prepare(const Case& of);
  // The cases of `group` in the order of that round.
  Group Turns(const Group& group, int round) const;
  absl::Status RunRound(int round);
  absl::StatusOr<WatchedRun> Load(const Case& of, bool picture);
  absl::Status TakePictures();
  absl::Status MeasureScaling();
  VmBenchOptions VmOptions(const Case& of) const;
  void Show(const std::string& words) { progress_.Show(words); }
  void NoteFailure(int round, const Case& of, const absl::Status& why);
  bool HasFailed(const Case& of) const;
  // Whether a build has failed at it, which leaves nothing to compare.
  bool IsOver(const Group& group) const;

  // Makes what has been found so far what is shown if nothing more comes.
  void Publish();
  // Once: shows what was published. FailedPrecondition: no round is complete, or our build is
  // slower than the other.
  absl::Status Print(const std::string& interrupted);

  const BenchOptions& options_;
  const std::string ramjet_;
  ProgressLine progress_;  // any thread
  std::atomic<bool> rounds_begun_{false};
  std::atomic<bool> interrupted_{false};
  // The measuring thread's own.
  BenchGuest guest_;
  std::map<std::string, Loader> loaders_;  // by Case::build
  std::vector<Group> groups_;
  absl::Time first_load_;
  size_t done_ = 0;
  BenchResult result_;

  absl::Mutex mu_;
  BenchResult complete_ ABSL_GUARDED_BY(mu_);
  bool printed_ ABSL_GUARDED_BY(mu_) = false;

  // Has the thread that calls OutlivesInterrupt().
  std::unique_ptr<ScratchDir> scratch_;
};

absl::StatusOr<std::unique_ptr<Bench>> Bench::Create(const BenchOptions& options) {
  std::unique_ptr<Bench> bench(new Bench(options));
  absl::StatusOr<std::unique_ptr<ScratchDir>> scratch =
      ScratchDir::Create([bench = bench.get()] { return bench->OutlivesInterrupt(); });
  if (!scratch.ok()) return scratch.status();
  bench->scratch_ = *std::move(scratch);
  return bench;
}

bool Bench::OutlivesInterrupt() {
  if (!rounds_begun_) return false;
  Show("");
  if (!interrupted_.exchange(true)) {
    Complain("Ctrl-C: ending after this load; once more, and it is given up");
    return true;
  }
  const absl::Status printed = Print("Ctrl-C");
  if (!printed.ok()) Complain(printed.message());
  return false;
}

void Bench::NoteFailure(int round, const Case& of, const absl::Status& why) {
  Failure failure = {.round = round, .of = of, .why = std::string(why.message())};
  absl::StripAsciiWhitespace(&failure.why);
  absl::StrReplaceAll({{"\n", "; "}}, &failure.why);
  Show("");
  Complain(absl::StrCat(of.ToString(), ": ", failure.why));
  result_.failures.push_back(std::move(failure));
}

bool Bench::HasFailed(const Case& of) const {
  return std::any_of(result_.failures.begin(), result_.failures.end(),
                     [&](const Failure& failure) { return failure.of == of; });
}

VmBenchOptions Bench::VmOptions(const Case& of) const {
  VmBenchOptions options = {
      .snapshot = guest_.snapshot, .of = of, .vcpus = options_.vcpus, .vcpu = options_.vcpu};
  if (of.contestant == "ramjet-ws") {
    options.working_set = absl::StrCat(loaders_.at(of.build).directory, "/", of.workload, ".ws");
  }
  return options;
}

absl::Status Bench::Prepare(const Case& of) {
  Show(absl::StrCat("preparing ", of.ToString()));
  const Loader& loader = loaders_.at(of.build);
  if (of.where == "qemu") return loader.qemu->Prepare(of.contestant);
  if (of.contestant != "ramjet-ws") return absl::OkStatus();
  VmBenchOptions options = VmOptions(of);
  std::swap(options.record, options.working_set);
  return RunVm(loader.ramjet, options).status();
}

bool Bench::TakesPart(const std::string& contestant) const {
  // What serves a figure of ramjet's goes with it.
  const bool serves =
      contestant == "ramjet-demand" || contestant == "ramjet-pages" || contestant == "fault-loop";
  const std::string served = serves ? "ramjet" : contestant;
  if (compares_builds() && !absl::StartsWith(contestant, "ramjet")) return false;
  // A comparison of builds takes long; who wants working sets in it names them.
  if (compares_builds() && options_.contestants.empty()) return served == "ramjet";
  return Chosen(options_.contestants, served);
}

// Prepares each case, and leaves out those that cannot be.
void Bench::AddGroups(Group group) {
  std::vector<std::string> caches = {"warm", "cold"};
  if (options_.cache == "warm" || (options_.cache.empty() && options_.quick)) caches = {"warm"};
  if (options_.cache == "cold") caches = {"cold"};
  std::erase_if(group, [&](Case& of) {
    const absl::Status prepared = Prepare(of);
    if (prepared.ok()) return false;
    for (const std::string& cache : caches) {
      of.cache = cache;
      NoteFailure(0, of, prepared);
    }
    return true;
  });
  if (group.empty() || (compares_builds() && group.size() < std::size(kBuilds))) return;
  for (const std::string& cache : caches) {
    for (Case& of : group) of.cache = cache;
    groups_.push_back(group);
  }
}

absl::Status Bench::PlanGroups() {
  const auto add = [&](const char* where, const std::string& workload,
                       const std::vector<std::string>& contestants) {
    if (!Chosen(options_.workloads, workload)) return;
    Group group;
    for (const std::string& contestant : contestants) {
      if (!TakesPart(contestant)) continue;
      if (compares_builds()) group.clear();
      for (const auto& [build, loader] : loaders_) {
        group.push_back({contestant, where, workload, "warm", build});
      }
      if (compares_builds()) AddGroups(group);
    }
    if (!compares_builds()) AddGroups(group);
  };
  if (loaders_.begin()->second.qemu != nullptr) add("qemu", "first-work", kQemuContestants);
  for (const std::string& workload : kVmWorkloads) add("vm", workload, kVmContestants);
  if (!compares_builds()) add("vm", "idle", {"full-read", "one-page", "ramjet"});
  add("vm", "faults", {"ramjet", "ramjet-demand", "ramjet-pages", "fault-loop"});
  if (!groups_.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      result_.failures.empty() ? "none of these contestants has one of these workloads here"
                               : "nobody is left to be compared");
}

absl::StatusOr<WatchedRun> Bench::Load(const Case& of, bool picture) {
  VmBenchOptions options = VmOptions(of);
  options.picture = picture;
  const Loader& loader = loaders_.at(of.build);
  return of.where == "qemu" ? loader.qemu->Time(of, picture) : RunVm(loader.ramjet, options);
}

bool Bench::IsOver(const Group& group) const {
  return compares_builds() &&
         std::any_of(group.begin(), group.end(), [&](const Case& of) { return HasFailed(of); });
}

Group Bench::Turns(const Group& group, int round) const {
  Group turns = group;
  const size_t before = static_cast<size_t>(round) - 1;
  // Another one comes first in each round.
  std::rotate(turns.begin(), turns.begin() + static_cast<ptrdiff_t>(before % turns.size()),
              turns.end());
  // Six rounds have all orders of three builds, so that none always comes behind the same one.
  if (compares_builds() && before / turns.size() % 2 == 1) std::reverse(turns.begin(), turns.end());
  return turns;
}

absl::Status Bench::RunRound(int round) {
  size_t cases = 0;
  for (const Group& group : groups_) cases += group.size();
  const size_t loads = cases * static_cast<size_t>(rounds());
  for (const Group& group : groups_) {
    for (const Case& of : Turns(group, round)) {
      const size_t done = done_++;
      if (HasFailed(of) || IsOver(group)) continue;
      absl::Status interrupted = Interrupted();
      if (!interrupted.ok()) return interrupted;
      Show(absl::StrCat("[", done_, " of ", loads, "] round ", round, ": ", of.ToString(),
                        TimeLeft(absl::Now() - first_load_, done, loads)));
      absl::StatusOr<WatchedRun> loaded = Load(of, /*picture=*/false);
      if (!loaded.ok()) {
        NoteFailure(round, of, loaded.status());
        continue;
      }
      loaded->run.round = round;
      if (of.contestant != "fault-loop") {
        result_.runs.push_back(std::move(loaded->run));
      } else if (of.cache == "warm") {
        result_.limits.Add("fault-loop-p50", 1, loaded->run.values["stall_p50"]);
        result_.limits.Add("fault-loop-p99", 1, loaded->run.values["stall_p99"]);
      }
    }
  }
  absl::Status interrupted = Interrupted();
  if (!interrupted.ok()) return interrupted;
  if (result_.builds) {
    for (const RamjetBuild* const build : {&result_.builds->ours, &result_.builds->other}) {
      absl::Status unchanged = build->IsUnchanged();
      if (!unchanged.ok()) return unchanged;
    }
  } else {
    Show(absl::StrCat("round ", round, ": the machine's limits"));
    absl::Status measured = result_.limits.Measure(guest_.snapshot);
    if (!measured.ok()) return measured;
  }
  result_.rounds = round;
  Publish();
  return absl::OkStatus();
}

absl::Status Bench::TakePictures() {
  for (const Group& group : groups_) {
    for (const Case& of : group) {
      if (of.workload == "idle" || of.workload == "faults" || of.contestant == "floor") continue;
      if (HasFailed(of)) continue;
      absl::Status interrupted = Interrupted();
      if (!interrupted.ok()) return interrupted;
      Show(absl::StrCat("watching ", of.ToString()));
      absl::StatusOr<WatchedRun> loaded = Load(of, /*picture=*/true);
      if (!loaded.ok()) {
        NoteFailure(rounds(), of, loaded.status());
        Publish();
        continue;
      }
      loaded->picture.update(json{{"contestant", of.contestant},
                                  {"where", of.where},
                                  {"workload", of.workload},
                                  {"cache", of.cache}});
      result_.pictures->push_back(std::move(loaded->picture));
      Publish();
    }
  }
  return absl::OkStatus();
}

absl::Status Bench::MeasureScaling() {
  const bool wanted = options_.scaling.value_or(guest_.qemu && !options_.quick &&
                                                !compares_builds() && TakesPart("ramjet"));
  if (!wanted) return absl::OkStatus();
  const absl::StatusOr<std::string> version = QemuVersion();
  if (!version.ok()) return version.status();
  const SparseMachine small = {1 << 10, scratch_->File("sparse-1.mr")};
  const SparseMachine large = {64 << 10, scratch_->File("sparse-64.mr")};
  for (const SparseMachine* const machine : {&small, &large}) {
    absl::Status interrupted = Interrupted();
    if (!interrupted.ok()) return interrupted;
    Show(absl::StrCat("saving a sparse machine of ", machine->memory_mib >> 10, " GiB"));
    absl::Status saved = machine->Save(scratch_->path());
    if (!saved.ok()) return saved;
  }
  for (int round = 1; round <= rounds(); ++round) {
    Show(absl::StrCat("round ", round, ": resuming the sparse machines"));
    for (const auto& [machine, resumes] :
         {std::pair(&small, &result_.sparse_1_gib), std::pair(&large, &result_.sparse_64_gib)}) {
      absl::Status interrupted = Interrupted();
      if (!interrupted.ok()) return interrupted;
      const absl::StatusOr<double> timed = machine->TimeResume(ramjet_);
      if (!timed.ok()) return timed.status();
      const absl::StatusOr<double> floor = machine->TimeFloor();
      if (!floor.ok()) return floor.status();
      resumes->ramjet.push_back(*timed);
      resumes->floor.push_back(*floor);
    }
    Publish();
  }
  return absl::OkStatus();
}

absl::Status Bench::FindBuilds() {
  const absl::StatusOr<RamjetBuild> ours = RamjetBuild::Find(ramjet_);
  if (!ours.ok()) return ours.status();
  const absl::StatusOr<RamjetBuild> other = RamjetBuild::Find(options_.against);
  if (!other.ok()) return other.status();
  result_.builds = {*ours, *other};
  return absl::OkStatus();
}

absl::Status Bench::PrepareLoaders() {
  if (compares_builds()) {
    for (const std::string build : kBuilds) {
      const std::string directory = scratch_->File(build);
      if (mkdir(directory.c_str(), 0700) != 0) return absl::ErrnoToStatus(errno, directory);
      loaders_[build] = {.ramjet = build == "other" ? result_.builds->other.path : ramjet_,
                         .directory = directory};
    }
  } else {
    loaders_[""] = {.ramjet = ramjet_, .directory = scratch_->path()};
  }
  if (!guest_.qemu) {
    Complain("no QEMU arguments behind --, so only the benchmark's own VM takes part");
    return absl::OkStatus();
  }
  for (auto& [build, loader] : loaders_) {
    loader.qemu = std::make_unique<QemuBench>(*guest_.qemu, loader.directory, loader.ramjet);
  }
  return absl::OkStatus();
}

absl::Status Bench::Measure() {
  const bool kvm = options_.vcpu == "kvm";
  const absl::Status possible = kvm ? KvmIsHere() : absl::OkStatus();
  if (!possible.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--vcpu kvm: ", possible.message(), "; --vcpu thread needs no KVM"));
  }
  if (compares_builds()) {
    absl::Status found = FindBuilds();
    if (!found.ok()) return found;
  }
  result_.started = absl::Now();
  result_.planned_rounds = rounds();
  absl::StatusOr<BenchGuest> guest = FindGuest(options_, scratch_->path(), ramjet_,
                                               [&](const std::string& words) { Show(words); });
  if (!guest.ok()) return guest.status();
  guest_ = *std::move(guest);
  result_.snapshot = guest_.summary;
  result_.machine = DescribeMachine(guest_.snapshot);
  result_.machine["vcpu"] = options_.vcpu;
  const std::string doubts = kvm ? DoubtsAboutKvm() : "";
  result_.machine["vcpu_note"] = doubts.empty() ? json() : json(doubts);
  absl::Status status = PrepareLoaders();
  if (status.ok()) status = PlanGroups();
  if (!status.ok()) return status;
  rounds_begun_ = true;
  first_load_ = absl::Now();
  for (int round = 1; status.ok() && round <= rounds(); ++round) status = RunRound(round);
  if (status.ok()) status = MeasureScaling();
  if (status.ok() && (options_.pictures || !options_.report_directory.empty())) {
    result_.pictures = json::array();
    status = TakePictures();
  }
  return status;
}

void Bench::Publish() {
  absl::MutexLock lock(&mu_);
  complete_ = result_;
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

absl::Status Bench::Print(const std::string& interrupted) {
  absl::MutexLock lock(&mu_);
  if (printed_) return absl::OkStatus();
  printed_ = true;
  if (complete_.rounds == 0) {
    return absl::FailedPreconditionError("not one round is complete: there is nothing to show");
  }
  complete_.interrupted = interrupted;
  // Neither a path nor what a program has said when it failed need be UTF-8.
  const std::string text =
      ToJson(complete_).dump(2, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
  const json bench = json::parse(text);
  const std::string words = options_.json       ? text + "\n"
                            : compares_builds() ? AgainstTable(bench)
                                                : BenchTable(bench, Compare(complete_));
  std::fputs(words.c_str(), stdout);
  std::fflush(stdout);
  if (compares_builds()) return NothingIsSlower(Figures(complete_));
  if (options_.report_directory.empty()) return absl::OkStatus();
  return WriteReport(bench, options_.report_directory);
}

int Bench::Run() {
  const absl::Status measured = Measure();
  Show("");
  const bool interrupted = absl::IsCancelled(measured);
  if (!interrupted) {
    for (const auto line : absl::StrSplit(measured.message(), '\n', absl::SkipEmpty())) {
      Complain(line);
    }
  }
  if (!rounds_begun_) return 1;
  const absl::Status printed = Print(std::string(measured.message()));
  if (!printed.ok()) Complain(printed.message());
  if (interrupted) return kInterruptedStatus;
  return measured.ok() && printed.ok() && result_.failures.empty() ? 0 : 1;
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
  const absl::StatusOr<std::unique_ptr<Bench>> bench = Bench::Create(options);
  if (bench.ok()) return (*bench)->Run();
  Complain(bench.status().message());
  return 1;
}

}  // namespace ramjet::bench
