// `ramjet bench`, as scripts see it, and whoever sits before it. Nothing here depends on how fast
// anything is.
#include <fcntl.h>
#include <pty.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/qemu_testing.h"
#include "tests/snapshot_content.h"
#include "tools/bench/comparison.h"
#include "tools/bench/kvm_toucher.h"
#include "tools/bench/limits.h"
#include "tools/bench/measurement.h"
#include "tools/bench/ratios.h"
#include "tools/child_process.h"

namespace ramjet {
namespace {

using bench::Figure;
using bench::Ratio;
using bench::Run;
using bench::Verdict;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

CommandResult RunBenchCommand(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {RamjetCommand(), "bench"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  absl::StatusOr<CommandResult> result = RunCommand(argv, absl::Now() + absl::Minutes(10));
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : CommandResult{-1, "", ""};
}

// The command at a terminal: its stdin and stderr are one, its stdout is a file.
class BenchAtTerminal {
 public:
  explicit BenchAtTerminal(const std::vector<std::string>& arguments)
      : out_path_(testing::TempDir() + "/at_terminal.out") {
    std::vector<std::string> argv = {RamjetCommand(), "bench"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    std::vector<char*> raw_argv;
    for (std::string& word : argv) raw_argv.push_back(word.data());
    raw_argv.push_back(nullptr);
    const int out = open(out_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    pid_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ != 0) {
      close(out);
      return;
    }
    dup2(out, STDOUT_FILENO);
    execv(raw_argv[0], raw_argv.data());
    _exit(127);
  }
  ~BenchAtTerminal() { close(terminal_); }
  BenchAtTerminal(const BenchAtTerminal&) = delete;
  BenchAtTerminal& operator=(const BenchAtTerminal&) = delete;

  // Whether the terminal shows `words` before the command ends.
  bool Shows(const std::string& words) {
    for (char byte; screen_.find(words) == screen_.npos; screen_ += byte) {
      if (read(terminal_, &byte, 1) != 1) return false;
    }
    return true;
  }
  void TypeControlC() const { EXPECT_EQ(write(terminal_, "\x03", 1), 1); }

  // As a shell has it, after the end.
  int ExitStatus() {
    for (char byte; read(terminal_, &byte, 1) == 1; screen_ += byte) {
    }
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  const std::string& screen() const { return screen_; }
  std::string Stdout() const {
    std::ostringstream text;
    text << std::ifstream(out_path_).rdbuf();
    return text.str();
  }

 private:
  const std::string out_path_;
  int terminal_ = -1;
  pid_t pid_ = -1;
  std::string screen_;
};

constexpr uint64_t kSmallPages = 4096;
constexpr uint64_t kSmallNonzeroPages = 2000;

// 16 MiB of memory, half of it with content, and a second, smaller block.
std::string WriteSmallSnapshot() {
  std::string path = testing::TempDir() + "/bench_test.mr";
  SnapshotContent content;
  content.blocks.push_back({.idstr = "small",
                            .used_length = uint64_t{16} * 4096,
                            .page_size = 4096,
                            .nonzero = {{0, 16}}});
  content.blocks.push_back({.idstr = "ram",
                            .used_length = kSmallPages * 4096,
                            .page_size = 4096,
                            .nonzero = {{7, kSmallNonzeroPages}}});
  EXPECT_TRUE(WriteSnapshot(content, path).ok());
  return path;
}

// Of all runs of a workload.
std::vector<json> RunsOf(const json& bench, const std::string& workload, const std::string& cache) {
  std::vector<json> runs;
  for (const json& run : bench["runs"]) {
    if (run["workload"] == workload && run["cache"] == cache) runs.push_back(run);
  }
  return runs;
}

std::vector<std::string> ContestantsOf(const std::vector<json>& runs) {
  std::vector<std::string> names;
  for (const json& run : runs) names.push_back(run["contestant"]);
  return names;
}

// Every column is there, and a number where it has to be.
void ExpectPlausible(const json& run) {
  SCOPED_TRACE(run.dump());
  const std::string contestant = run["contestant"];
  const bool in_vm = run["where"] == "vm";
  const bool whole = contestant != "floor";
  const bool ends = contestant != "map-private" && contestant != "ramjet-demand";
  const json& seconds = run["seconds"];
  for (const char* const column :
       {"to_resume", "to_first_work", "to_workload", "to_resident", "cpu"}) {
    EXPECT_TRUE(seconds.contains(column)) << column;
  }
  for (const char* const column : {"count", "p50", "p99", "p999", "max"}) {
    EXPECT_TRUE(run["stall_us"].contains(column)) << column;
  }
  ASSERT_TRUE(seconds["to_resume"].is_number());
  EXPECT_GE(seconds["to_resume"], 0);
  ASSERT_EQ(seconds["to_resident"].is_number(), whole && ends);
  if (whole && ends) {
    EXPECT_GE(seconds["to_resident"], seconds["to_resume"]);
  }
  const bool works = whole && run["workload"] != "idle";
  ASSERT_EQ(seconds["to_first_work"].is_number(), works);
  ASSERT_EQ(seconds["to_workload"].is_number(), works && in_vm);
  if (works) {
    EXPECT_GE(seconds["to_first_work"], seconds["to_resume"]);
  }
  if (works && in_vm) {
    EXPECT_GE(seconds["to_workload"], seconds["to_first_work"]);
  }
  for (const char* const column : {"read_bytes", "peak_bytes", "huge_bytes"}) {
    ASSERT_EQ(run[column].is_number(), whole) << column;
  }
  // A few may be the kernel's own affair.
  if (contestant == "full-read") {
    EXPECT_LT(run["demand_faults"], 100);
  }
  if (contestant == "ramjet-demand") {
    EXPECT_GT(run["demand_faults"], 1000);
  }
}

void ExpectPictures(const json& bench, size_t least_cells) {
  for (const json& picture : bench["pictures"]) {
    SCOPED_TRACE(absl::StrCat(picture["contestant"].dump(), picture["workload"].dump()));
    EXPECT_GE(picture["resident"].size(), 2u);
    EXPECT_LE(picture["stalls"].size(), 200u);
    if (picture["where"] == "qemu") continue;
    const json& cells = picture["map"]["cells"];
    EXPECT_GE(cells.size(), least_cells);
    EXPECT_LE(cells.size(), 8192u);
    for (const json& cell : cells) {
      EXPECT_EQ(cell[0] == "zero", cell[1].is_null()) << cell;
    }
  }
}

TEST(Bench, QuickRunHasEveryContestantInEveryColumn) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const CommandResult result = RunBenchCommand({"--quick", "--json"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  const json bench = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(bench.is_object()) << result.out;
  EXPECT_EQ(bench["schema"], "ramjet.bench/1");
  EXPECT_EQ(bench["rounds"], 1);
  EXPECT_GT(bench["machine"]["cpus"], 0);
  EXPECT_EQ(bench["machine"]["vcpu"], "thread");
  EXPECT_GE(bench["snapshot"]["ram_bytes"], uint64_t{256} << 20);
  EXPECT_GE(bench["snapshot"]["nonzero_bytes"], uint64_t{64} << 20);

  EXPECT_THAT(ContestantsOf(RunsOf(bench, "first-work", "warm")),
              UnorderedElementsAre("stock", "stock-multifd", "ramjet", "ramjet-ws", "floor"));
  for (const char* const workload : {"touch-all", "read-25", "write-25", "zipf"}) {
    EXPECT_THAT(ContestantsOf(RunsOf(bench, workload, "warm")),
                UnorderedElementsAre("full-read", "map-private", "one-page", "ramjet", "ramjet-ws"))
        << workload;
  }
  EXPECT_THAT(ContestantsOf(RunsOf(bench, "faults", "warm")),
              UnorderedElementsAre("ramjet", "ramjet-demand", "ramjet-pages"));
  for (const json& run : bench["runs"]) ExpectPlausible(run);

  std::vector<std::string> limits;
  for (const json& limit : bench["limits"]) {
    EXPECT_GT(limit["median"], 0) << limit;
    EXPECT_LE(limit["min"], limit["max"]) << limit;
    limits.push_back(limit["name"]);
  }
  EXPECT_THAT(limits, IsSupersetOf({"memcpy", "pread", "fill", "uffdio-copy", "thread-start",
                                    "fault-loop-p50", "fault-loop-p99"}));
  EXPECT_EQ(bench["summary"].size(), bench["runs"].size());  // of one round
  EXPECT_GT(bench["ratios"].size(), 20u);
  for (const json& ratio : bench["ratios"]) EXPECT_EQ(ratio["reliable"], false) << ratio;
}

TEST(Bench, SnapshotWithoutQemuArgumentsIsLoadedIntoOurOwnVm) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const CommandResult result =
      RunBenchCommand({WriteSmallSnapshot(), "--quick", "--cache", "both", "--workload",
                       "touch-all", "--vcpus", "2", "--pictures", "--json"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("only the benchmark's own VM"));
  const json bench = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_EQ(bench["snapshot"]["nonzero_bytes"], 2016u * 4096u);
  EXPECT_EQ(bench["runs"].size(), 10u);
  for (const json& run : bench["runs"]) {
    EXPECT_EQ(run["where"], "vm");
    ExpectPlausible(run);
  }
  EXPECT_EQ(bench["pictures"].size(), bench["runs"].size());
  ExpectPictures(bench, kSmallPages);
}

TEST(Bench, PicturesShowMemoryOfQemuFill) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const CommandResult result =
      RunBenchCommand({"--quick", "--cache", "cold", "--workload", "first-work", "--contestant",
                       "stock,ramjet", "--pictures", "--json"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  const json bench = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_EQ(bench["pictures"].size(), 2u);
  ExpectPictures(bench, 0);
  for (const json& picture : bench["pictures"]) {
    EXPECT_GE(picture["resident"].back()[1], uint64_t{64} << 20);
  }
}

// The emulator is a program that only complains, and not even in UTF-8.
TEST(Bench, WhoFailsIsNamedAndTheOthersAreStillCompared) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string path = WriteSmallSnapshot();
  const auto run = [&](const char* flag) {
    return RunBenchCommand({path, "--rounds", "2", "--cache", "warm", "--no-scaling", "--workload",
                            "first-work,idle", "--contestant", "stock,full-read,ramjet", flag, "--",
                            "sh", "-c", "printf 'no \\377' >&2; exit 1"});
  };
  const CommandResult result = run("--json");
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("qemu, first-work, warm: stock: "));
  const json bench = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(bench.is_object()) << result.out;
  EXPECT_EQ(bench["rounds"], 2);
  EXPECT_TRUE(bench["interrupted"].is_null());
  ASSERT_EQ(bench["failures"].size(), 2u) << "nobody fails twice";
  for (const json& failure : bench["failures"]) {
    EXPECT_EQ(failure["where"], "qemu");
    EXPECT_EQ(failure["round"], 1);
    EXPECT_THAT(failure["error"], HasSubstr("exit status 1"));
    EXPECT_THAT(failure["error"], HasSubstr("no \uFFFD"));
  }
  EXPECT_THAT(ContestantsOf(RunsOf(bench, "idle", "warm")),
              UnorderedElementsAre("full-read", "full-read", "ramjet", "ramjet"));
  EXPECT_EQ(bench["summary"].size(), 2u);

  const CommandResult table = run("--no-scaling");
  EXPECT_EQ(table.exit_status, 1);
  EXPECT_THAT(table.out, HasSubstr("\nstock          FAILED in round 1: "));
  EXPECT_THAT(table.out, HasSubstr("\nfull-read "));
}

TEST(Bench, CtrlCShowsTheRoundsThatAreComplete) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string report = testing::TempDir() + "/interrupted";
  BenchAtTerminal run({WriteSmallSnapshot(), "--rounds", "900", "--cache", "warm", "--workload",
                       "idle", "--contestant", "full-read,ramjet", "--json", "--report", report});
  ASSERT_TRUE(run.Shows("] round 3: vm, idle, warm: ")) << run.screen();
  EXPECT_TRUE(run.Shows(" of 1800] ")) << run.screen();
  EXPECT_TRUE(run.Shows(" left")) << run.screen();
  run.TypeControlC();
  EXPECT_EQ(run.ExitStatus(), 130);
  EXPECT_THAT(run.screen(), HasSubstr("ending after this load"));
  const json bench = json::parse(run.Stdout(), nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(bench.is_object()) << run.Stdout();
  EXPECT_EQ(bench["interrupted"], "Ctrl-C");
  EXPECT_EQ(bench["planned_rounds"], 900);
  const int rounds = bench["rounds"];
  EXPECT_GE(rounds, 2);
  EXPECT_LT(rounds, 900);
  EXPECT_EQ(bench["runs"].size(), 2u * static_cast<size_t>(rounds));
  for (const json& load : bench["runs"]) EXPECT_LE(load["round"], rounds);
  std::ostringstream page;
  page << std::ifstream(report + "/index.html").rdbuf();
  EXPECT_THAT(page.str(), HasSubstr("\"interrupted\":\"Ctrl-C\""));
}

// The load in hand is given up; whichever of the two threads shows the result, it is shown once.
TEST(Bench, CtrlCTwiceEndsAtOnceAndShowsTheSame) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  BenchAtTerminal run({WriteSmallSnapshot(), "--rounds", "900", "--cache", "warm", "--workload",
                       "idle", "--contestant", "full-read,ramjet", "--json"});
  ASSERT_TRUE(run.Shows("] round 2: vm, idle, warm: ")) << run.screen();
  run.TypeControlC();
  ASSERT_TRUE(run.Shows("once more")) << run.screen();
  run.TypeControlC();
  EXPECT_EQ(run.ExitStatus(), 130);
  const json bench = json::parse(run.Stdout(), nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(bench.is_object()) << run.Stdout();
  EXPECT_EQ(bench["interrupted"], "Ctrl-C");
}

TEST(Bench, CtrlCInTheFirstRoundHasNothingToShow) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  BenchAtTerminal run({WriteSmallSnapshot(), "--rounds", "2", "--cache", "warm"});
  ASSERT_TRUE(run.Shows("] round 1: vm, touch-all, warm: ")) << run.screen();
  run.TypeControlC();
  EXPECT_EQ(run.ExitStatus(), 130);
  EXPECT_THAT(run.screen(), HasSubstr("not one round is complete"));
  EXPECT_EQ(run.Stdout(), "");
}

TEST(Bench, KvmVcpusDoEveryWorkloadForEveryContestant) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const absl::Status kvm = bench::KvmIsHere();
  if (!kvm.ok()) GTEST_SKIP() << kvm;
  const CommandResult result =
      RunBenchCommand({WriteSmallSnapshot(), "--quick", "--vcpu", "kvm", "--vcpus", "2", "--json"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  const json bench = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_EQ(bench["machine"]["vcpu"], "kvm");
  EXPECT_TRUE(bench["machine"].contains("vcpu_note"));
  for (const char* const workload : {"touch-all", "read-25", "write-25", "zipf"}) {
    const std::vector<json> runs = RunsOf(bench, workload, "warm");
    EXPECT_THAT(ContestantsOf(runs),
                UnorderedElementsAre("full-read", "map-private", "one-page", "ramjet", "ramjet-ws"))
        << workload;
    for (const json& run : runs) ExpectPlausible(run);
  }
  // Nobody but the guest brings these pages: it has touched all of them, and had to wait for each.
  for (const json& run : RunsOf(bench, "faults", "warm")) {
    if (run["contestant"] != "ramjet-demand") continue;
    EXPECT_EQ(run["demand_faults"], kSmallNonzeroPages);
    EXPECT_GT(run["stall_us"]["count"], kSmallNonzeroPages / 2);
  }
}

// A /dev/kvm that is not KVM's, if there is a true one.
TEST(Bench, WithoutKvmItsVcpusAreRefused) {
  std::vector<std::string> argv;
  if (bench::KvmIsHere().ok()) {
    argv = {"unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount --bind /dev/null /dev/kvm && exec \"$@\"",
            "sh"};
  }
  argv.insert(argv.end(), {RamjetCommand(), "bench", WriteSmallSnapshot(), "--vcpu", "kvm"});
  const absl::StatusOr<CommandResult> result = RunCommand(argv, absl::Now() + absl::Minutes(1));
  ASSERT_TRUE(result.ok()) << result.status();
  if (!absl::StrContains(result->err, "ramjet bench")) GTEST_SKIP() << result->err;
  EXPECT_EQ(result->exit_status, 1);
  EXPECT_EQ(result->out, "");
  EXPECT_THAT(result->err, StartsWith("ramjet bench: --vcpu kvm: /dev/kvm: "));
  EXPECT_THAT(result->err, HasSubstr("--vcpu thread"));
}

TEST(Bench, WhatIsNotABenchIsRefusedInOneLine) {
  EXPECT_EQ(RunBenchCommand({"--contestant", "nobody"}).exit_status, 2);
  EXPECT_EQ(RunBenchCommand({"--rounds", "0"}).exit_status, 2);
  EXPECT_EQ(RunBenchCommand({"--vcpu", "auto"}).exit_status, 2);
  EXPECT_EQ(RunBenchCommand({"--", "qemu-system-x86_64"}).exit_status, 2);
  const CommandResult result = RunBenchCommand({"/no/such/file"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("/no/such/file"));
}

// --- Two builds. ---

// A program that `ramjet bench --against` takes for another build, with `bench-vm` as the load of
// our own VM.
std::string WriteBuild(const std::string& name, const std::string& run,
                       const std::string& bench_vm) {
  std::string path = testing::TempDir() + "/" + name;
  std::ofstream(path) << "#!/bin/sh\ncase $1 in\n--version) echo ramjet 0.0.1 ;;\nrun) shift; "
                      << run << " ;;\nbench-vm) " << bench_vm << " ;;\nesac\n";
  EXPECT_EQ(chmod(path.c_str(), 0755), 0);
  return path;
}

// One whose stalls are all `us` long.
std::string WriteBuildWithStallsOf(const std::string& name, const std::string& us) {
  return WriteBuild(
      name, "exec true",
      absl::StrCat("echo '{\"contestant\":\"ramjet\",\"stall_us\":{\"count\":9,\"p50\":", us,
                   ",\"p99\":", us, ",\"max\":", us, "}}'"));
}

json FigureOf(const json& against, const std::string& name) {
  for (const json& figure : against["figures"]) {
    if (figure["figure"] == name) return figure;
  }
  return {};
}

TEST(BenchAgainst, LoadsOfBuildsAlternateInEveryOrder) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const CommandResult result =
      RunBenchCommand({WriteSmallSnapshot(), "--against", RamjetCommand(), "--rounds", "6",
                       "--cache", "warm", "--workload", "zipf", "--json"});
  const json against = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(against.is_object()) << result.out << result.err;
  EXPECT_EQ(against["schema"], "ramjet.bench-against/1");
  EXPECT_EQ(against["rounds"], 6);
  EXPECT_EQ(against["builds"]["other"]["path"], RamjetCommand());
  EXPECT_THAT(against["builds"]["other"]["version"].get<std::string>(), StartsWith("ramjet "));
  EXPECT_TRUE(against["failures"].empty()) << against["failures"];
  std::map<int, std::string> orders;
  for (const json& run : against["runs"]) {
    EXPECT_EQ(run["contestant"], "ramjet");
    ExpectPlausible(run);
    orders[run["round"]] += run["build"].get<std::string>() + " ";
  }
  std::set<std::string> different;
  for (const auto& [round, order] : orders) different.insert(order);
  EXPECT_EQ(different.size(), 6u) << against["runs"];
  ASSERT_EQ(against["figures"].size(), 4u);
  bool slower = false;
  for (const json& figure : against["figures"]) {
    SCOPED_TRACE(figure.dump());
    EXPECT_EQ(figure["workload"], "zipf");
    EXPECT_EQ(figure["pairs"], 6);
    EXPECT_GT(figure["ours"]["median"], 0);
    EXPECT_LE(figure["to_other"]["min"], figure["to_other"]["lower_quartile"]);
    EXPECT_LE(figure["to_itself"]["upper_quartile"], figure["to_itself"]["max"]);
    slower = slower || (figure["judged"] == true && figure["verdict"] == "slower");
  }
  EXPECT_EQ(result.exit_status, slower ? 1 : 0) << result.err;
}

TEST(BenchAgainst, ABuildWithShorterStallsMakesOursSlowerAndTheExitStatusSaysSo) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::vector<std::string> arguments = {WriteSmallSnapshot(),
                                              "--against",
                                              WriteBuildWithStallsOf("fast", "0.001"),
                                              "--rounds",
                                              "2",
                                              "--cache",
                                              "warm",
                                              "--workload",
                                              "read-25",
                                              "--json"};
  CommandResult result = RunBenchCommand(arguments);
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("slower than the other build: vm, read-25, warm: ramjet, "
                                    "stall_p50 ("));
  const json against = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(against.is_object()) << result.out;
  for (const char* const stall : {"stall_p50", "stall_p99", "stall_max"}) {
    EXPECT_EQ(FigureOf(against, stall)["verdict"], "slower") << against["figures"];
  }
  // Which that build does not tell.
  EXPECT_EQ(FigureOf(against, "to_workload")["verdict"], "unknown") << against["figures"];

  result = RunBenchCommand({arguments.begin(), arguments.end() - 1});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.out, HasSubstr("3 are slower, 0 faster, 0 the same"));
  EXPECT_THAT(result.out, HasSubstr("--workload read-25 --cache warm"));
}

TEST(BenchAgainst, ABuildWithLongerStallsMakesOursFaster) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const CommandResult result =
      RunBenchCommand({WriteSmallSnapshot(), "--against", WriteBuildWithStallsOf("slow", "1e12"),
                       "--rounds", "2", "--cache", "cold", "--workload", "touch-all"});
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("0 are slower, 3 faster, 0 the same"));
}

// The other one is held up by its settings, far longer than a machine is by anything else.
TEST(BenchAgainst, InQemuABuildThatLoadsAheadSlowlyMakesOursFaster) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string slow =
      WriteBuild("slow_ahead",
                 absl::StrCat("exec ", RamjetCommand(), " run --eager-rate 16M \"$@\""), "exit 1");
  const CommandResult result =
      RunBenchCommand({"--against", slow, "--quick", "--workload", "first-work", "--json"});
  const json against = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(against.is_object()) << result.out << result.err;
  EXPECT_TRUE(against["failures"].empty()) << against["failures"];
  EXPECT_EQ(against["runs"].size(), 3u);
  EXPECT_EQ(FigureOf(against, "to_resident")["verdict"], "faster") << against["figures"];
  EXPECT_EQ(FigureOf(against, "to_resume")["judged"], false);
  EXPECT_EQ(FigureOf(against, "to_first_work")["judged"], true);
}

TEST(BenchAgainst, ABuildThatFailsIsNamedWithItsErrorAndTheOthersAreNotLoadedForNothing) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string broken = WriteBuild("broken", "exec true", "echo 'it broke' >&2; exit 3");
  const CommandResult result =
      RunBenchCommand({WriteSmallSnapshot(), "--against", broken, "--rounds", "3", "--cache",
                       "warm", "--workload", "zipf", "--json"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("vm, zipf, warm: ramjet, other: exit status 3: it broke"));
  const json against = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(against.is_object()) << result.out;
  ASSERT_EQ(against["failures"].size(), 1u);
  EXPECT_EQ(against["failures"][0]["build"], "other");
  EXPECT_LE(against["runs"].size(), 1u) << "before the other's first turn";
  EXPECT_TRUE(against["figures"].empty());
}

TEST(BenchAgainst, ABuildThatIsReplacedMeanwhileEndsTheRounds) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string path = testing::TempDir() + "/replaced";
  const std::string replaces_itself =
      WriteBuild("replaced", "exec true",
                 absl::StrCat("cp -p ", path, " ", path, ".new; mv ", path, ".new ", path,
                              "; exec ", RamjetCommand(), " \"$@\""));
  const CommandResult result =
      RunBenchCommand({WriteSmallSnapshot(), "--against", replaces_itself, "--rounds", "3",
                       "--cache", "warm", "--workload", "zipf", "--json"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_EQ(result.out, "") << "its only round is of no build";
  EXPECT_THAT(result.err, HasSubstr("/replaced, or its preload library, was replaced meanwhile"));
}

TEST(BenchAgainst, WhatIsNoBuildIsRefusedBeforeAnythingIsLoaded) {
  const auto refusal = [](const std::string& build) {
    const CommandResult result = RunBenchCommand({"--against", build});
    EXPECT_EQ(result.exit_status, 1);
    EXPECT_EQ(result.out, "");
    return result.err;
  };
  EXPECT_THAT(refusal("/bin/true"), HasSubstr("/bin/true is no ramjet"));
  EXPECT_THAT(refusal(WriteBuild("alone", "echo 'no library' >&2; exit 1", "exit 1")),
              HasSubstr("alone run: exit status 1: no library"));
  EXPECT_EQ(RunBenchCommand({"--against", "/no/such/file"}).exit_status, 2);
  const CommandResult result =
      RunBenchCommand({"--against", RamjetCommand(), "--contestant", "ramjet,one-page"});
  EXPECT_EQ(result.exit_status, 2);
  EXPECT_THAT(result.err, HasSubstr("not one-page"));
  EXPECT_EQ(RunBenchCommand({"--against", RamjetCommand(), "--scaling"}).exit_status, 2);
}

TEST(BenchAgainst, CtrlCShowsTheRoundsThatAreComplete) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  BenchAtTerminal run({WriteSmallSnapshot(), "--against", RamjetCommand(), "--rounds", "900",
                       "--cache", "warm", "--workload", "zipf", "--json"});
  ASSERT_TRUE(run.Shows("] round 3: vm, zipf, warm: ramjet, ")) << run.screen();
  run.TypeControlC();
  EXPECT_EQ(run.ExitStatus(), 130);
  const json against = json::parse(run.Stdout(), nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(against.is_object()) << run.Stdout();
  EXPECT_EQ(against["interrupted"], "Ctrl-C");
  EXPECT_GE(against["rounds"], 2);
  EXPECT_EQ(against["figures"][0]["pairs"], against["rounds"]);
}

// Rounds of three loads each, with these values of `column`.
std::vector<Figure> Compare(const std::string& column, const std::vector<double>& ours,
                            const std::vector<double>& other, const std::vector<double>& again) {
  std::vector<Run> runs;
  for (const auto& [build, values] :
       {std::pair("ours", ours), std::pair("other", other), std::pair("ours-again", again)}) {
    for (size_t i = 0; i < values.size(); ++i) {
      runs.push_back({static_cast<int>(i) + 1,
                      {"ramjet", "vm", "zipf", "warm", build},
                      {{"stall_count", 1}, {column, values[i]}}});
    }
  }
  std::vector<Figure> figures = bench::CompareBuilds(runs);
  std::erase_if(figures, [&](const Figure& figure) { return figure.column != column; });
  return figures;
}

Verdict VerdictOf(const std::vector<double>& ours, const std::vector<double>& other,
                  const std::vector<double>& again) {
  const std::vector<Figure> figures = Compare("stall_p99", ours, other, again);
  EXPECT_EQ(figures.size(), 1u);
  return figures.empty() ? Verdict::kUnknown : figures[0].verdict;
}

TEST(BenchComparison, IsOfTheRatiosOfEachRoundAndNotOfMedians) {
  // In each round ours takes 1.25 times as long, though the medians are equal.
  const std::vector<Figure> figures =
      Compare("stall_p99", {10, 20, 40, 80, 160}, {8, 16, 32, 64, 128}, {10, 20, 40, 80, 160});
  ASSERT_EQ(figures.size(), 1u);
  EXPECT_EQ(figures[0].pairs, 5);
  EXPECT_NEAR(figures[0].to_other->median, 1.25, 1e-9);
  EXPECT_NEAR(figures[0].to_itself->high, 1, 1e-9);
  EXPECT_EQ(figures[0].verdict, Verdict::kSlower);
  EXPECT_EQ(bench::NothingIsSlower(figures).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(BenchComparison, UpToFivePerCentIsTheSameHoweverSmallTheSpreadIs) {
  EXPECT_EQ(VerdictOf({105, 105, 105, 105}, {100, 100, 100, 100}, {105, 105, 105, 105}),
            Verdict::kSame);
  EXPECT_EQ(VerdictOf({106, 106, 106, 106}, {100, 100, 100, 100}, {106, 106, 106, 106}),
            Verdict::kSlower);
  EXPECT_EQ(VerdictOf({100, 100, 100, 100}, {105, 105, 105, 105}, {100, 100, 100, 100}),
            Verdict::kSame);
  EXPECT_EQ(VerdictOf({100, 100, 100, 100}, {106, 106, 106, 106}, {100, 100, 100, 100}),
            Verdict::kFaster);
}

TEST(BenchComparison, WhatABuildDiffersFromItselfIsTheSame) {
  // To itself 0.8, 0.9, 1.2, 1.3: the upper quartile is 1.225.
  const std::vector<double> again = {100 / 0.8, 100 / 0.9, 100 / 1.2, 100 / 1.3};
  const std::vector<double> ours(4, 100);
  EXPECT_EQ(VerdictOf(ours, std::vector<double>(4, 100 / 1.22), again), Verdict::kSame);
  EXPECT_EQ(VerdictOf(ours, std::vector<double>(4, 100 / 1.23), again), Verdict::kSlower);
  // The lower quartile is 0.875.
  EXPECT_EQ(VerdictOf(ours, std::vector<double>(4, 100 / 0.88), again), Verdict::kSame);
  EXPECT_EQ(VerdictOf(ours, std::vector<double>(4, 100 / 0.87), again), Verdict::kFaster);
}

TEST(BenchComparison, NothingIsSlowerNamesWhatIs) {
  const std::vector<double> hundred(4, 100);
  EXPECT_TRUE(bench::NothingIsSlower(Compare("stall_p50", hundred, hundred, hundred)).ok());
  const absl::Status slower =
      bench::NothingIsSlower(Compare("stall_p50", hundred, {50, 50, 50, 50}, hundred));
  EXPECT_EQ(slower.message(),
            "slower than the other build: vm, zipf, warm: ramjet, stall_p50 (2.00; to itself up to "
            "1.00)");
  // For information only.
  const std::vector<Figure> workload = Compare("to_workload", hundred, {50, 50, 50, 50}, hundred);
  ASSERT_EQ(workload.size(), 1u);
  EXPECT_EQ(workload[0].verdict, Verdict::kSlower);
  EXPECT_TRUE(bench::NothingIsSlower(workload).ok());
}

TEST(BenchComparison, ARoundCountsIfAllThreeHaveItsFigure) {
  const std::vector<Figure> figures = Compare("stall_p99", {10, 20, 40}, {10, 20}, {10, 20, 40});
  ASSERT_EQ(figures.size(), 1u);
  EXPECT_EQ(figures[0].pairs, 2);
}

TEST(BenchComparison, WhatOnlyOneBuildCanTellIsUnknownAndNotPassedOver) {
  const std::vector<Figure> figures = Compare("stall_p99", {10, 20}, {}, {10, 20});
  ASSERT_EQ(figures.size(), 1u);
  EXPECT_EQ(figures[0].verdict, Verdict::kUnknown);
  EXPECT_THAT(std::string(bench::NothingIsSlower(figures).message()),
              HasSubstr("no round has these of both builds: vm, zipf, warm: ramjet, stall_p99"));
}

// A guest of the other build that never had to wait has no figures of its stalls.
TEST(BenchComparison, ALoadWithoutStallsIsComparedToo) {
  std::vector<bench::Run> runs;
  for (const char* const build : bench::kBuilds) {
    bench::Run run = {1, {"ramjet", "vm", "zipf", "warm", build}, {{"stall_count", 0}}};
    if (build != std::string("other")) run.values = {{"stall_count", 5}, {"stall_p50", 400}};
    runs.push_back(run);
  }
  const std::vector<Figure> figures = bench::CompareBuilds(runs);
  ASSERT_EQ(figures.size(), 3u);
  EXPECT_STREQ(figures[0].column, "stall_p50");
  EXPECT_NEAR(figures[0].to_other->median, 200, 1e-9);
}

// --- Ratios. ---

std::vector<Run> Resumes(const std::string& contestant, const std::vector<double>& seconds) {
  std::vector<Run> runs;
  for (const double value : seconds) {
    runs.push_back({static_cast<int>(runs.size()) + 1,
                    {contestant, "qemu", "first-work", "warm"},
                    {{"to_resume", value}}});
  }
  return runs;
}

std::vector<Ratio> Judge(const std::vector<double>& stock, const std::vector<double>& ramjet) {
  std::vector<Run> runs = Resumes("stock", stock);
  for (Run& run : Resumes("ramjet", ramjet)) runs.push_back(std::move(run));
  const bench::Summary summary(runs);
  const bench::Limits limits;
  std::vector<Ratio> ratios = bench::ComputeRatios({.summary = summary,
                                                    .limits = limits,
                                                    .nonzero_bytes = 1,
                                                    .pages = 1,
                                                    .rounds = static_cast<int>(stock.size()),
                                                    .sparse_1_gib = {},
                                                    .sparse_64_gib = {}});
  return ratios;
}

TEST(BenchRatios, AreOfMediansAndOnlyOfWhatWasRun) {
  const std::vector<Ratio> ratios =
      Judge({0.31, 0.30, 0.99, 0.29, 0.32}, {0.01, 0.009, 0.01, 0.01, 0.01});
  ASSERT_EQ(ratios.size(), 1u);
  EXPECT_EQ(ratios[0].name, "resume: stock / ramjet");
  EXPECT_NEAR(ratios[0].value, 31, 1e-9);
  EXPECT_TRUE(ratios[0].met);
  EXPECT_EQ(ratios[0].bar, ">= 30");
}

TEST(BenchRatios, AreInDoubtWhenTheQuartilesLieOnBothSidesOfTheBar) {
  EXPECT_THAT(Judge({0.31, 0.31, 0.31, 0.31}, {0.009, 0.010, 0.010, 0.013}),
              Each(AllOf(Field(&Ratio::met, true), Field(&Ratio::reliable, false))));
  EXPECT_THAT(Judge({0.31, 0.31, 0.31, 0.31}, {0.005, 0.005, 0.005, 0.006}),
              Each(AllOf(Field(&Ratio::met, true), Field(&Ratio::reliable, true))));
  EXPECT_THAT(Judge({0.1, 0.1, 0.1, 0.1}, {0.01, 0.01, 0.02, 0.02}),
              Each(AllOf(Field(&Ratio::met, false), Field(&Ratio::reliable, true))));
}

// Of the measurements of two contestants, by column.
std::vector<Ratio> JudgeFaults(const std::vector<double>& ws, const std::vector<double>& ramjet) {
  std::vector<Run> runs;
  for (size_t i = 0; i < ws.size(); ++i) {
    const int round = static_cast<int>(i) + 1;
    runs.push_back(
        {round, {"ramjet-ws", "qemu", "first-work", "warm"}, {{"demand_faults", ws[i]}}});
    runs.push_back(
        {round, {"ramjet", "qemu", "first-work", "warm"}, {{"demand_faults", ramjet[i]}}});
  }
  const bench::Summary summary(runs);
  const bench::Limits limits;
  return bench::ComputeRatios({.summary = summary,
                               .limits = limits,
                               .rounds = static_cast<int>(ws.size()),
                               .sparse_1_gib = {},
                               .sparse_64_gib = {}});
}

// The lower quartile of what is divided by was zero, and that counted as if nobody had measured it.
TEST(BenchRatios, AreInDoubtWhenWhatIsDividedByMayBeNothing) {
  EXPECT_THAT(JudgeFaults({1, 1, 1, 1, 1}, {0, 0, 100, 100, 100}),
              Each(AllOf(Field(&Ratio::met, true), Field(&Ratio::reliable, false))));
  EXPECT_THAT(JudgeFaults({1, 1, 1, 1, 1}, {99, 99, 100, 100, 100}),
              Each(AllOf(Field(&Ratio::met, true), Field(&Ratio::reliable, true))));
}

// Our own VM has the largest block only; the content of all of them was once put down to it.
TEST(BenchRatios, TheEagerRateIsOfWhatOurVmLoads) {
  const std::vector<bench::Run> runs = {
      {1, {"ramjet", "vm", "idle", "warm"}, {{"to_resident", 2.0}}},
  };
  const bench::Summary summary(runs);
  bench::Limits limits;
  limits.Add("uffdio-copy", 1, 1.0);
  const std::vector<Ratio> ratios = bench::ComputeRatios({.summary = summary,
                                                          .limits = limits,
                                                          .nonzero_bytes = 8'000'000'000,
                                                          .vm_nonzero_bytes = 1'000'000'000,
                                                          .rounds = 1,
                                                          .cpus = 1,
                                                          .sparse_1_gib = {},
                                                          .sparse_64_gib = {}});
  ASSERT_EQ(ratios.size(), 1u);
  EXPECT_EQ(ratios[0].name, "eager rate / bare UFFDIO_COPY loop");
  EXPECT_NEAR(ratios[0].value, 0.5, 1e-9);
}

// Ratios by name.
std::map<std::string, Ratio> JudgeRuns(const std::vector<Run>& runs, const bench::Limits& limits) {
  const bench::Summary summary(runs);
  std::map<std::string, Ratio> by_name;
  for (Ratio& ratio : bench::ComputeRatios({.summary = summary,
                      .limits = limits,
                      .rounds = 1,
                      .sparse_1_gib = {},
                      .sparse_64_gib = {}})) {
    by_name.emplace(ratio.name, ratio);
  }
  return by_name;
}

TEST(BenchRatios, AResumeThatMissesItsBarSaysWhatTheFloorAllows) {
  const auto run = [](const char* contestant, double resume, double work) {
    return bench::Run{1,
                      {contestant, "qemu", "first-work", "warm"},
                      {{"to_resume", resume}, {"to_first_work", work}}};
  };
  std::map<std::string, Ratio> ratios = JudgeRuns(
      {run("stock", 0.06, 0.09), run("ramjet", 0.005, 0.08), run("floor", 0.003, 0.5)}, {});
  EXPECT_EQ(ratios["resume: stock / ramjet"].note, "The floor is 3.0 ms, so 20.0 at best. ");
  EXPECT_THAT(ratios["resume + first work: stock / ramjet"].note,
              HasSubstr("33.0 ms, so 2.7 at best"));
}

TEST(BenchRatios, AStallThatIsLongerThanThatOfAPageSaysWhatItBrought) {
  const auto run = [](const char* contestant, double stall, double faults) {
    return bench::Run{1,
                      {contestant, "vm", "read-25", "warm"},
                      {{"stall_p50", stall}, {"demand_faults", faults}}};
  };
  bench::Limits limits;
  limits.Add("fill", 1, 4.0);
  std::map<std::string, Ratio> ratios =
      JudgeRuns({run("ramjet", 400e-6, 160), run("one-page", 20e-6, 16000)}, limits);
  EXPECT_EQ(
      ratios["fault p50, read-25: ramjet / one-page"].note,
      "A touch may bring 2 MiB, which take 0.52 ms at 4.00 GB/s: 160 demand faults instead of "
      "16000. ");
}

TEST(BenchRatios, ALoadThatMissesItsBarSaysWhatMemoryAllows) {
  const auto run = [](const char* contestant, double resume, double work, double resident) {
    return bench::Run{1,
                      {contestant, "qemu", "first-work", "warm"},
                      {{"to_resume", resume}, {"to_first_work", work}, {"to_resident", resident}}};
  };
  bench::Limits limits;
  limits.Add("fill", 1, 10.0);
  limits.Add("fill", 2, 16.0);
  std::map<std::string, Ratio> ratios =
      JudgeRuns({run("stock", 0.06, 0.09, 0.06), run("ramjet", 0.003, 0.05, 0.08),
                 run("ramjet-ws", 0.003, 0.05, 0.1)},
                limits);
  EXPECT_THAT(ratios["all resident: ramjet / stock"].note,
              AllOf(HasSubstr("fill (1 thread) 10.00 GB/s"), HasSubstr("1.25 times as long")));
  EXPECT_THAT(ratios["first work after resume: ramjet-ws / stock"].note,
              HasSubstr("each takes 1.25 times as long as one"));
}

TEST(BenchRatios, ALoadFromADiskThatMissesItsBarSaysWhatTheDiskAndMemoryAllow) {
  const auto run = [](const char* contestant, const char* where, const char* workload) {
    return bench::Run{1, {contestant, where, workload, "cold"}, {{"to_resident", 1.0}}};
  };
  bench::Limits limits;
  limits.Add("disk-direct", 8, 2.5);
  limits.Add("fill-direct", 2, 2.25);
  std::map<std::string, Ratio> ratios = JudgeRuns(
      {run("stock", "qemu", "first-work"),
       run("ramjet", "qemu", "first-work"),
       run("ramjet", "vm", "idle"),
       {1, {"stock", "qemu", "first-work", "cold"}, {{"to_resume", 0.2}, {"to_first_work", 0.25}}},
       {1,
        {"ramjet-ws", "qemu", "first-work", "cold"},
        {{"to_resume", 0.01}, {"to_first_work", 0.11}}}},
      limits);
  EXPECT_THAT(ratios["first work after resume: ramjet-ws / stock"].note,
              HasSubstr("disk-direct (8 threads) 2.50"));
  EXPECT_THAT(
      ratios["all resident: ramjet / stock"].note,
      AllOf(HasSubstr("disk-direct (8 threads) 2.50"), HasSubstr("fill-direct (2 threads)")));
  EXPECT_THAT(ratios["eager rate / O_DIRECT read"].note,
              HasSubstr("fill-direct (2 threads) 2.25 GB/s"));
}

TEST(BenchRatios, AWorkingSetWithFaultsSaysHowManyOnBothSides) {
  const auto run = [](const char* contestant, double faults) {
    return bench::Run{1, {contestant, "vm", "read-25", "warm"}, {{"demand_faults", faults}}};
  };
  std::map<std::string, Ratio> ratios =
      JudgeRuns({run("ramjet-ws", 13), run("ramjet", 160), run("one-page", 16000)}, {});
  EXPECT_THAT(ratios["demand faults, read-25: ramjet-ws / ramjet"].note,
              AllOf(StartsWith("13 demand faults and 160: "), HasSubstr("page by page: 16000")));
  EXPECT_TRUE(ratios["demand faults, read-25: ramjet-ws / one-page"].met);
}

TEST(BenchRatios, AResumeThatIsLaterThanAPlainHandlersSaysWhatItDoesMeanwhile) {
  const auto run = [](const char* contestant, double resume) {
    return bench::Run{1, {contestant, "vm", "zipf", "warm"}, {{"to_resume", resume}}};
  };
  bench::Limits limits;
  limits.Add("thread-start", 1, 25.0);
  std::map<std::string, Ratio> ratios =
      JudgeRuns({run("ramjet", 0.5e-3), run("one-page", 0.25e-3)}, limits);
  EXPECT_THAT(ratios["resume, zipf: ramjet / one-page"].note,
              AllOf(StartsWith("0.25 ms more"), HasSubstr("0.025 ms each")));
}

TEST(BenchRatios, AFaultThatIsSlowerThanInABareLoopSaysWhatWakingTakes) {
  bench::Limits limits;
  limits.Add("fault-loop-p50", 1, 8.0);
  limits.Add("thread-wake", 1, 3.0);
  limits.Add("thread-wake", 2, 12.5);
  std::map<std::string, Ratio> ratios =
      JudgeRuns({{1, {"ramjet-demand", "vm", "faults", "warm"}, {{"stall_p50", 16.0}}}}, limits);
  EXPECT_THAT(ratios["fault p50: ramjet / bare loop"].note,
              HasSubstr("3.0 us on the same processor, 12.5 on another"));
}

TEST(BenchRatios, ALargeMachineThatResumesLaterSaysWhatItsSizeCostsQemu) {
  const bench::Summary summary({});
  const std::vector<Ratio> ratios =
      bench::ComputeRatios({.summary = summary,
                            .limits = {},
                            .rounds = 1,
                            .sparse_1_gib = {.ramjet = {0.002}, .floor = {0.001}},
                            .sparse_64_gib = {.ramjet = {0.005}, .floor = {0.0025}}});
  ASSERT_EQ(ratios.size(), 2u);
  EXPECT_EQ(ratios[0].note, "The floors are 1.0 and 2.5 ms: 2.50. ");
  EXPECT_TRUE(ratios[1].met);
}

// A window takes longer than a page, so like is compared with like, too.
TEST(BenchRatios, StallsWhileLoadingAheadAreJudgedPageByPageToo) {
  const auto run = [](const char* contestant, double stall) {
    return bench::Run{1, {contestant, "vm", "faults", "warm"}, {{"stall_p99", stall}}};
  };
  std::map<std::string, Ratio> ratios =
      JudgeRuns({run("ramjet", 1e-3), run("ramjet-pages", 1e-4), run("ramjet-demand", 5e-5)}, {});
  EXPECT_FALSE(ratios["fault p99: while loading ahead / without"].met);
  EXPECT_TRUE(ratios["fault p99, page by page: while loading ahead / without"].met);
}

TEST(BenchRatios, AStallOfAPageThatIsLongerMeanwhileSaysWhatItSharesWithWhatLoadsAhead) {
  bench::Limits limits;
  limits.Add("disk-direct", 8, 2.0);
  limits.Add("fill", 1, 10.0);
  limits.Add("fill", 2, 16.0);
  const auto note = [&](const char* cache) {
    const auto run = [cache](const char* contestant, double p99) {
      return bench::Run{1, {contestant, "vm", "faults", cache}, {{"stall_p99", p99}}};
    };
    return JudgeRuns({run("ramjet-pages", 1e-3), run("ramjet-demand", 5e-5)},
                     limits)["fault p99, page by page: while loading ahead / without"]
        .note;
  };
  EXPECT_THAT(note("warm"), AllOf(HasSubstr("share "), HasSubstr("1.25 times")));
  EXPECT_THAT(note("cold"), HasSubstr("0.13 ms"));
}

TEST(BenchRatios, OfTwoRoundsAreInDoubt) {
  EXPECT_THAT(Judge({0.9, 0.9}, {0.001, 0.001}), Each(Field(&Ratio::reliable, false)));
}

}  // namespace
}  // namespace ramjet
