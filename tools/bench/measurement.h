// One timed load, what was measured of it, and what several of them have in common.
//
// A value that does not apply to a contestant is absent, and null in JSON.
#ifndef RAMJET_TOOLS_BENCH_MEASUREMENT_H_
#define RAMJET_TOOLS_BENCH_MEASUREMENT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"

namespace ramjet::bench {

// A column of the tables, and where "ramjet.bench/1" has it.
struct Column {
  enum class Unit { kSeconds, kMicroseconds, kCount, kBytes };
  const char* name;   // unique: "to_resume", "stall_p50"
  const char* group;  // "seconds", "stall_us", or nullptr
  const char* key;    // within the group
  const char* title;  // of the table; nullptr: not shown
  Unit unit;
};
absl::Span<const Column> Columns();

// Who does what, from which cache: what is repeated from round to round.
struct Case {
  std::string contestant;  // "stock", "ramjet", ...
  std::string where;       // "qemu", "vm"
  std::string workload;    // "first-work", "touch-all", ...
  std::string cache;       // "warm", "cold"
  std::string build = {};  // of comparison.h's kBuilds; empty: builds are not compared

  std::string ToString() const {
    return where + ", " + workload + ", " + cache + ": " + contestant +
           (build.empty() ? "" : ", " + build);
  }
  friend auto operator<=>(const Case&, const Case&) = default;
};

struct Run {
  int round = 0;  // from 1
  Case of;
  std::map<std::string, double> values;  // by Column::name
};

// A run, and what was seen while it was watched: one of "pictures"; null if it was not.
struct WatchedRun {
  Run run;
  nlohmann::json picture;
};

nlohmann::json ToJson(const Run& run);
// InvalidArgument if it is no run.
absl::StatusOr<Run> RunFromJson(const nlohmann::json& object);

// How much of the host's memory to touch before a timed load: what it needs, be it for the page
// cache, for the guest or for huge pages of which only a part has content, and some more.
constexpr uint64_t BytesToWarm(uint64_t nonzero_bytes) { return 2 * nonzero_bytes + (256 << 20); }

// REQUIRES, for both: `values` is not empty. `fraction` of them, which get sorted, are at most
// that.
double Quantile(std::vector<double>& values, double fraction);
struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
  double low = 0;  // the quartiles; of fewer than four values, the extremes
  double high = 0;

  double Relative() const { return median > 0 ? (max - min) / median : 0; }
};
Spread SpreadOf(std::vector<double> values);
nlohmann::json ToJson(const Spread& spread);  // median, min, max

// Seconds until a sparse machine could resume, under ramjet and at best (QEMU's own load of it
// without content), one of each a round; empty: not measured.
struct SparseResumes {
  std::vector<double> ramjet;
  std::vector<double> floor;
};

// A column of Summary alone: of each run to_first_work - to_resume.
inline constexpr char kWorkAfterResume[] = "work_after_resume";

// All runs by case, each in the order in which it first ran.
class Summary {
 public:
  explicit Summary(absl::Span<const Run> runs);

  // nullopt: not run, or the column does not apply.
  std::optional<Spread> Find(const Case& of, const std::string& column) const;
  const std::vector<Case>& cases() const { return cases_; }
  nlohmann::json AsJson() const;

 private:
  std::vector<Case> cases_;
  std::map<Case, std::map<std::string, std::vector<double>>> values_;
};

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_MEASUREMENT_H_
