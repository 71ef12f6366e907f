// What `ramjet bench` has found so far: all that its output says.
#ifndef RAMJET_TOOLS_BENCH_BENCH_RESULT_H_
#define RAMJET_TOOLS_BENCH_BENCH_RESULT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tools/bench/comparison.h"
#include "tools/bench/conditions.h"
#include "tools/bench/limits.h"
#include "tools/bench/measurement.h"
#include "tools/bench/ramjet_build.h"

namespace ramjet::bench {

// Why somebody has no figures. He is not loaded again.
struct Failure {
  int round = 0;  // 0: in the preparation
  Case of;
  std::string why;  // one line
};

// Of `ramjet bench --against`.
struct ComparedBuilds {
  RamjetBuild ours;
  RamjetBuild other;
};

struct BenchResult {
  absl::Time started;
  int planned_rounds = 0;
  int rounds = 0;           // of them complete
  std::string interrupted;  // why no more came; empty: all did
  nlohmann::json machine;
  SnapshotSummary snapshot;
  Limits limits;
  std::vector<Run> runs;
  std::vector<Failure> failures;
  SparseResumes sparse_1_gib;
  SparseResumes sparse_64_gib;
  std::optional<nlohmann::json> pictures;  // nullopt: not wanted
  std::optional<ComparedBuilds> builds;    // nullopt: builds are not compared
};

// Of those who have not failed, for only they did as much as the others.
Summary Compare(const BenchResult& result);

// REQUIRES: builds. Leaves out the cases in which a build has failed.
std::vector<Figure> Figures(const BenchResult& result);

// An object of schema ramjet.bench/1; if builds are compared, of ramjet.bench-against/1.
nlohmann::json ToJson(const BenchResult& result);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_BENCH_RESULT_H_
