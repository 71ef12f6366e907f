#include "tools/bench/comparison.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "tools/bench/workload.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

// A paired median up to this is not slower, whatever the spread.
constexpr double kBar = 1.05;

struct Kind {
  const char* where;
  const char* column;
  bool judged;
};
constexpr Kind kKinds[] = {
    {"qemu", "to_resume", false}, {"qemu", "to_first_work", true}, {"qemu", "to_resident", true},
    {"vm", "stall_p50", true},    {"vm", "stall_p99", true},       {"vm", "stall_max", true},
    {"vm", "to_workload", false},
};

// By build, in the order of kBuilds.
using Round = std::array<std::optional<double>, std::size(kBuilds)>;

std::optional<double> ValueOf(const Run& run, const char* column) {
  const auto value = run.values.find(column);
  if (value != run.values.end()) return value->second;
  const auto count = run.values.find("stall_count");
  const bool no_stall = count != run.values.end() && count->second == 0;
  if (no_stall && absl::string_view(column).substr(0, 6) == "stall_") {
    return static_cast<double>(Toucher::kStallNs) / 1e3;
  }
  return std::nullopt;
}

Figure Compare(const Case& of, const Kind& kind, const std::map<int, Round>& rounds) {
  Figure figure = {.of = of, .column = kind.column, .judged = kind.judged};
  std::vector<double> ours, other, to_other, to_itself;
  for (const auto& [number, round] : rounds) {
    const bool whole = std::all_of(round.begin(), round.end(),
                                   [](const auto& value) { return value.value_or(0) > 0; });
    if (!whole) continue;
    ours.push_back(*round[0]);
    other.push_back(*round[1]);
    to_other.push_back(*round[0] / *round[1]);
    to_itself.push_back(*round[0] / *round[2]);
  }
  figure.pairs = static_cast<int>(ours.size());
  if (ours.empty()) return figure;
  figure.ours = SpreadOf(std::move(ours));
  figure.other = SpreadOf(std::move(other));
  figure.to_other = SpreadOf(std::move(to_other));
  figure.to_itself = SpreadOf(std::move(to_itself));
  figure.verdict = Judge(*figure.to_other, *figure.to_itself);
  return figure;
}

const char* Word(Verdict verdict) {
  switch (verdict) {
    case Verdict::kSame:
      return "same";
    case Verdict::kSlower:
      return "slower";
    case Verdict::kFaster:
      return "faster";
    case Verdict::kUnknown:
      return "unknown";
  }
  return "";
}

json ValuesJson(const std::optional<Spread>& spread) { return spread ? ToJson(*spread) : json(); }

json RatiosJson(const std::optional<Spread>& spread) {
  json object = ValuesJson(spread);
  if (spread) object.update({{"lower_quartile", spread->low}, {"upper_quartile", spread->high}});
  return object;
}

}  // namespace

Verdict Judge(const Spread& to_other, const Spread& to_itself) {
  if (to_other.median > kBar && to_other.median > to_itself.high) return Verdict::kSlower;
  if (to_other.median < 1 / kBar && to_other.median < to_itself.low) return Verdict::kFaster;
  return Verdict::kSame;
}

std::vector<Figure> CompareBuilds(absl::Span<const Run> runs) {
  std::vector<Case> cases;
  std::map<Case, std::map<int, std::array<const Run*, std::size(kBuilds)>>> by_case;
  for (const Run& run : runs) {
    Case of = run.of;
    of.build.clear();
    const auto [place, added] = by_case.try_emplace(of);
    if (added) cases.push_back(of);
    const auto* const build = std::find(std::begin(kBuilds), std::end(kBuilds), run.of.build);
    if (build != std::end(kBuilds)) place->second[run.round][build - kBuilds] = &run;
  }
  std::vector<Figure> figures;
  for (const Case& of : cases) {
    for (const Kind& kind : kKinds) {
      if (of.where != kind.where) continue;
      std::map<int, Round> rounds;
      bool any = false;
      for (const auto& [number, of_round] : by_case[of]) {
        for (size_t build = 0; build < of_round.size(); ++build) {
          if (of_round[build] == nullptr) continue;
          rounds[number][build] = ValueOf(*of_round[build], kind.column);
          any = any || rounds[number][build];
        }
      }
      if (any) figures.push_back(Compare(of, kind, rounds));
    }
  }
  return figures;
}

json ToJson(const std::vector<Figure>& figures) {
  json objects = json::array();
  for (const Figure& figure : figures) {
    objects.push_back({{"where", figure.of.where},
                       {"workload", figure.of.workload},
                       {"cache", figure.of.cache},
                       {"contestant", figure.of.contestant},
                       {"figure", figure.column},
                       {"judged", figure.judged},
                       {"pairs", figure.pairs},
                       {"ours", ValuesJson(figure.ours)},
                       {"other", ValuesJson(figure.other)},
                       {"to_other", RatiosJson(figure.to_other)},
                       {"to_itself", RatiosJson(figure.to_itself)},
                       {"verdict", Word(figure.verdict)}});
  }
  return objects;
}

absl::Status NothingIsSlower(const std::vector<Figure>& figures) {
  std::vector<std::string> slower;
  std::vector<std::string> unknown;
  for (const Figure& figure : figures) {
    if (!figure.judged) continue;
    const std::string name = absl::StrCat(figure.of.ToString(), ", ", figure.column);
    if (figure.verdict == Verdict::kUnknown) unknown.push_back(name);
    if (figure.verdict != Verdict::kSlower) continue;
    slower.push_back(absl::StrFormat("%s (%.2f; to itself up to %.2f)", name,
                                     figure.to_other->median, figure.to_itself->high));
  }
  std::vector<std::string> words;
  if (!slower.empty()) {
    words.push_back("slower than the other build: " + absl::StrJoin(slower, "; "));
  }
  if (!unknown.empty()) {
    words.push_back("no round has these of both builds: " + absl::StrJoin(unknown, "; "));
  }
  if (words.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrJoin(words, ". "));
}

}  // namespace ramjet::bench
