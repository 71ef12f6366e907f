#include "tools/bench/bench_result.h"

#include <unistd.h>

#include <set>
#include <utility>

#include "loader/ramjet.h"
#include "tools/bench/ratios.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

json ToJson(const Failure& failure) {
  json object = {{"round", failure.round},    {"contestant", failure.of.contestant},
                 {"where", failure.of.where}, {"workload", failure.of.workload},
                 {"cache", failure.of.cache}, {"error", failure.why}};
  if (!failure.of.build.empty()) object["build"] = failure.of.build;
  return object;
}

json ScalingJson(uint64_t ram_gib, const SparseResumes& resumes) {
  return {{"ram_bytes", ram_gib << 30},
          {"to_resume", resumes.ramjet},
          {"floor_to_resume", resumes.floor}};
}

}  // namespace

Summary Compare(const BenchResult& result) {
  std::set<Case> failed;
  for (const Failure& failure : result.failures) failed.insert(failure.of);
  std::vector<Run> runs;
  for (const Run& run : result.runs) {
    if (!failed.contains(run.of)) runs.push_back(run);
  }
  return Summary(runs);
}

std::vector<Figure> Figures(const BenchResult& result) {
  const auto of_all_builds = [](Case of) {
    of.build.clear();
    return of;
  };
  std::set<Case> failed;
  for (const Failure& failure : result.failures) failed.insert(of_all_builds(failure.of));
  std::vector<Run> runs;
  for (const Run& run : result.runs) {
    if (!failed.contains(of_all_builds(run.of))) runs.push_back(run);
  }
  return CompareBuilds(runs);
}

json ToJson(const BenchResult& result) {
  json runs = json::array();
  for (const Run& run : result.runs) runs.push_back(ToJson(run));
  json failures = json::array();
  for (const Failure& failure : result.failures) failures.push_back(ToJson(failure));
  json bench = {
      {"schema", result.builds ? "ramjet.bench-against/1" : "ramjet.bench/1"},
      {"version", ramjet_version()},
      {"started", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", result.started, absl::UTCTimeZone())},
      {"planned_rounds", result.planned_rounds},
      {"rounds", result.rounds},
      {"interrupted", result.interrupted.empty() ? json() : json(result.interrupted)},
      {"machine", result.machine},
      {"snapshot", result.snapshot.object},
      {"runs", std::move(runs)},
      {"failures", std::move(failures)}};
  if (result.builds) {
    bench["builds"] = {{"ours", result.builds->ours.AsJson()},
                       {"other", result.builds->other.AsJson()}};
    bench["figures"] = ToJson(Figures(result));
    return bench;
  }
  const Summary summary = Compare(result);
  const std::vector<Ratio> ratios =
      ComputeRatios({.summary = summary,
                     .limits = result.limits,
                     .nonzero_bytes = result.snapshot.nonzero_bytes,
                     .vm_nonzero_bytes = result.snapshot.largest_block_nonzero_bytes,
                     .pages = result.snapshot.pages,
                     .rounds = result.rounds,
                     .cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)),
                     .sparse_1_gib = result.sparse_1_gib,
                     .sparse_64_gib = result.sparse_64_gib});
  bench["limits"] = result.limits.AsJson();
  bench["summary"] = summary.AsJson();
  bench["ratios"] = ToJson(ratios);
  if (!result.sparse_64_gib.ramjet.empty()) {
    bench["scaling"] = {ScalingJson(1, result.sparse_1_gib), ScalingJson(64, result.sparse_64_gib)};
  }
  if (result.pictures) bench["pictures"] = *result.pictures;
  return bench;
}

}  // namespace ramjet::bench
