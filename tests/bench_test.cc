// `ramjet bench`, as scripts see it. Nothing here depends on how fast anything is.
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/qemu_testing.h"
#include "tests/snapshot_content.h"
#include "tools/bench/limits.h"
#include "tools/bench/measurement.h"
#include "tools/bench/ratios.h"
#include "tools/child_process.h"

namespace ramjet {
namespace {

using bench::Ratio;
using bench::Run;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::UnorderedElementsAre;

CommandResult RunBenchCommand(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {RamjetCommand(), "bench"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  absl::StatusOr<CommandResult> result = RunCommand(argv, absl::Now() + absl::Minutes(10));
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : CommandResult{-1, "", ""};
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
              UnorderedElementsAre("ramjet", "ramjet-demand"));
  for (const json& run : bench["runs"]) ExpectPlausible(run);

  std::vector<std::string> limits;
  for (const json& limit : bench["limits"]) {
    EXPECT_GT(limit["median"], 0) << limit;
    EXPECT_LE(limit["min"], limit["max"]) << limit;
    limits.push_back(limit["name"]);
  }
  EXPECT_THAT(limits,
              IsSupersetOf({"memcpy", "pread", "uffdio-copy", "fault-loop-p50", "fault-loop-p99"}));
  EXPECT_EQ(bench["summary"].size(), bench["runs"].size());  // of one round
  EXPECT_GT(bench["ratios"].size(), 20u);
  for (const json& ratio : bench["ratios"]) EXPECT_EQ(ratio["reliable"], false) << ratio;
}

TEST(Bench, SnapshotWithoutQemuArgumentsIsLoadedIntoOurOwnVm) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string path = testing::TempDir() + "/bench_test.mr";
  constexpr uint64_t kPages = 4096;
  SnapshotContent content;
  content.blocks.push_back({.idstr = "small",
                            .used_length = uint64_t{16} * 4096,
                            .page_size = 4096,
                            .nonzero = {{0, 16}}});
  content.blocks.push_back(
      {.idstr = "ram", .used_length = kPages * 4096, .page_size = 4096, .nonzero = {{7, 2000}}});
  ASSERT_TRUE(WriteSnapshot(content, path).ok());
  const CommandResult result =
      RunBenchCommand({path, "--quick", "--cache", "both", "--workload", "touch-all", "--vcpus",
                       "2", "--pictures", "--json"});
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
  ExpectPictures(bench, kPages);
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

TEST(Bench, WhatIsNotABenchIsRefusedInOneLine) {
  EXPECT_EQ(RunBenchCommand({"--contestant", "nobody"}).exit_status, 2);
  EXPECT_EQ(RunBenchCommand({"--rounds", "0"}).exit_status, 2);
  EXPECT_EQ(RunBenchCommand({"--", "qemu-system-x86_64"}).exit_status, 2);
  const CommandResult result = RunBenchCommand({"/no/such/file"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("/no/such/file"));
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

TEST(BenchRatios, OfTwoRoundsAreInDoubt) {
  EXPECT_THAT(Judge({0.9, 0.9}, {0.001, 0.001}), Each(Field(&Ratio::reliable, false)));
}

}  // namespace
}  // namespace ramjet
