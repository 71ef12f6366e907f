// Two builds of ramjet, compared round by round: `ramjet bench --against`.
//
// Each round loads with our build, with the other one, and with ours again. A paired ratio divides
// what our build took by what the other took in the same round, so what changes from round to round
// on the machine is in both. Ours divided by ours again shows how far two measurements of one build
// differ here.
#ifndef RAMJET_TOOLS_BENCH_COMPARISON_H_
#define RAMJET_TOOLS_BENCH_COMPARISON_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "tools/bench/measurement.h"

namespace ramjet::bench {

// Values of Case::build.
inline constexpr const char* kBuilds[] = {"ours", "other", "ours-again"};

enum class Verdict { kSame, kSlower, kFaster, kUnknown };

// Paired ratios of ours to the other build, and of ours to itself. Ours is slower if the median is
// above 1.05 and above the upper quartile of itself; faster if it is below 1 / 1.05 and below the
// lower quartile.
Verdict Judge(const Spread& to_other, const Spread& to_itself);

struct Figure {
  Case of;             // of all builds: its `build` is empty
  const char* column;  // Column::name
  bool judged;         // false: shown for information
  int pairs = 0;       // rounds that have the value of all three
  // What follows is absent if `pairs` is 0; `verdict` is then kUnknown.
  std::optional<Spread> ours = {};  // values
  std::optional<Spread> other = {};
  std::optional<Spread> to_other = {};  // ratios
  std::optional<Spread> to_itself = {};
  Verdict verdict = Verdict::kUnknown;
};

// The figures for which any run has a value, by case in the order in which the cases first ran. A
// run in which nobody had to wait counts as one whose stalls were of Toucher::kStallNs, which is
// the shortest that counts.
std::vector<Figure> CompareBuilds(absl::Span<const Run> runs);

// "figures" of ramjet.bench-against/1.
nlohmann::json ToJson(const std::vector<Figure>& figures);

// FailedPrecondition names each judged figure that is slower, or that cannot be compared.
absl::Status NothingIsSlower(const std::vector<Figure>& figures);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_COMPARISON_H_
