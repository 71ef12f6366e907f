#include "tools/bench/measurement.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;
using enum Column::Unit;

constexpr Column kColumns[] = {
    {"to_resume", "seconds", "to_resume", "resume", kSeconds},
    {"to_first_work", "seconds", "to_first_work", "first work", kSeconds},
    {"to_workload", "seconds", "to_workload", "workload", kSeconds},
    {"to_resident", "seconds", "to_resident", "resident", kSeconds},
    {"cpu", "seconds", "cpu", "CPU", kSeconds},
    {"stall_count", "stall_us", "count", nullptr, kCount},
    {"stall_p50", "stall_us", "p50", "stall p50", kMicroseconds},
    {"stall_p99", "stall_us", "p99", "p99", kMicroseconds},
    {"stall_p999", "stall_us", "p999", "p999", kMicroseconds},
    {"stall_max", "stall_us", "max", "max", kMicroseconds},
    {"demand_faults", nullptr, "demand_faults", "faults", kCount},
    {"read_bytes", nullptr, "read_bytes", "read", kBytes},
    {"peak_bytes", nullptr, "peak_bytes", "peak", kBytes},
    {"huge_bytes", nullptr, "huge_bytes", "huge", kBytes},
};

}  // namespace

absl::Span<const Column> Columns() { return kColumns; }

json ToJson(const Run& run) {
  json object = {{"round", run.round},
                 {"contestant", run.of.contestant},
                 {"where", run.of.where},
                 {"workload", run.of.workload},
                 {"cache", run.of.cache}};
  if (!run.of.build.empty()) object["build"] = run.of.build;
  for (const Column& column : kColumns) {
    const auto value = run.values.find(column.name);
    json& place = column.group != nullptr ? object[column.group][column.key] : object[column.key];
    if (value == run.values.end()) continue;
    if (column.unit == kCount || column.unit == kBytes) {
      place = std::llround(value->second);
    } else {
      place = value->second;
    }
  }
  return object;
}

absl::StatusOr<Run> RunFromJson(const json& object) {
  const auto word = [&](const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : "";
  };
  if (!object.is_object() || word("contestant").empty()) {
    return absl::InvalidArgumentError(absl::StrCat("not a measurement: ", object.dump()));
  }
  Run run;
  run.of = {word("contestant"), word("where"), word("workload"), word("cache")};
  for (const Column& column : kColumns) {
    const json::json_pointer place(column.group != nullptr
                                       ? absl::StrCat("/", column.group, "/", column.key)
                                       : absl::StrCat("/", column.key));
    if (object.contains(place) && object[place].is_number()) {
      run.values[column.name] = object[place].get<double>();
    }
  }
  return run;
}

double Quantile(std::vector<double>& values, double fraction) {
  std::sort(values.begin(), values.end());
  const double at = fraction * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (at - static_cast<double>(below));
}

Spread SpreadOf(std::vector<double> values) {
  const bool few = values.size() < 4;
  return {Quantile(values, 0.5), Quantile(values, 0), Quantile(values, 1),
          Quantile(values, few ? 0 : 0.25), Quantile(values, few ? 1 : 0.75)};
}

json ToJson(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

Summary::Summary(absl::Span<const Run> runs) {
  for (const Run& run : runs) {
    const auto [place, added] = values_.try_emplace(run.of);
    if (added) cases_.push_back(run.of);
    for (const auto& [column, value] : run.values) place->second[column].push_back(value);
    const auto resume = run.values.find("to_resume");
    const auto work = run.values.find("to_first_work");
    if (resume != run.values.end() && work != run.values.end()) {
      place->second[kWorkAfterResume].push_back(work->second - resume->second);
    }
  }
}

std::optional<Spread> Summary::Find(const Case& of, const std::string& column) const {
  const auto columns = values_.find(of);
  if (columns == values_.end()) return std::nullopt;
  const auto values = columns->second.find(column);
  if (values == columns->second.end()) return std::nullopt;
  return SpreadOf(values->second);
}

json Summary::AsJson() const {
  json summary = json::array();
  for (const Case& of : cases_) {
    json columns = json::object();
    for (const Column& column : kColumns) {
      const std::optional<Spread> spread = Find(of, column.name);
      columns[column.name] = spread ? ToJson(*spread) : json();
    }
    summary.push_back({{"contestant", of.contestant},
                       {"where", of.where},
                       {"workload", of.workload},
                       {"cache", of.cache},
                       {"columns", std::move(columns)}});
  }
  return summary;
}

}  // namespace ramjet::bench
