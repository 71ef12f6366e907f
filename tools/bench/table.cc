#include "tools/bench/table.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

constexpr int kCellWidth = 11;
// A spread, (max - min) / median, from which on a median alone says little.
constexpr double kWideSpread = 0.5;
// Fewer say too little of two builds.
constexpr int kRoundsOfAClaim = 20;

std::string InUnit(double value, Column::Unit unit) {
  switch (unit) {
    case Column::Unit::kSeconds:
      return value < 1 ? absl::StrFormat("%.1f ms", value * 1e3) : absl::StrFormat("%.2f s", value);
    case Column::Unit::kMicroseconds:
      return absl::StrFormat("%.*f us", value < 100 ? 1 : 0, value);
    case Column::Unit::kCount:
      return absl::StrFormat("%.0f", value);
    case Column::Unit::kBytes:
      return absl::StrFormat("%.1f MiB", value / (1 << 20));
  }
  return "";
}

double Gib(const json& bytes) { return bytes.get<double>() / (1 << 30); }

// `rest` says what was done in how many rounds.
std::string Conditions(const json& bench, const std::string& rest) {
  const json& machine = bench["machine"];
  const json& snapshot = bench["snapshot"];
  const json& note = machine["vcpu_note"];
  const std::string vcpus = machine["vcpu"] == "kvm"
                                ? absl::StrCat("KVM's", note.is_null() ? "" : ", but ",
                                               note.is_null() ? "" : note.get<std::string>())
                                : "threads";
  const std::string interrupted =
      bench["interrupted"].is_null()
          ? ""
          : absl::StrFormat("INTERRUPTED (%s): %d of %d rounds are complete.\n",
                            bench["interrupted"].get<std::string>(), bench["rounds"].get<int>(),
                            bench["planned_rounds"].get<int>());
  return interrupted +
         absl::StrFormat(
             "%s, %d CPUs%s, %.1f GiB; Linux %s, huge pages: %s; %s\n"
             "%s: %.2f GiB of RAM, %.2f GiB of content. %s\n"
             "Warm: the file is in the page cache; cold: none of it is. VM: vCPUs are %s.\n",
             machine["cpu"].get<std::string>(), machine["cpus"].get<int>(),
             machine["hypervisor"].get<bool>() ? " (virtual)" : "", Gib(machine["memory_bytes"]),
             machine["kernel"].get<std::string>(),
             machine["transparent_hugepages"].get<std::string>(),
             machine["filesystem"].get<std::string>(), snapshot["path"].get<std::string>(),
             Gib(snapshot["ram_bytes"]), Gib(snapshot["nonzero_bytes"]), rest, vcpus);
}

std::string Rounds(const json& bench) {
  const int rounds = bench["rounds"].get<int>();
  return absl::StrCat(rounds, rounds == 1 ? " round" : " rounds");
}

// Two lines, medians and spreads; one, if there is no spread.
std::string CaseRows(const Summary& summary, const Case& of, bool spread_known) {
  std::string medians = absl::StrFormat("%-14s", of.contestant);
  std::string spreads = absl::StrFormat("%-14s", "");
  for (const Column& column : Columns()) {
    if (column.title == nullptr) continue;
    const std::optional<Spread> spread = summary.Find(of, column.name);
    absl::StrAppendFormat(&medians, "%*s", kCellWidth,
                          spread ? InUnit(spread->median, column.unit) : "-");
    absl::StrAppendFormat(
        &spreads, "%*s", kCellWidth,
        spread && spread->median > 0 ? absl::StrFormat("%.0f%%", 100 * spread->Relative()) : "");
  }
  return spread_known ? absl::StrCat(medians, "\n", spreads, "\n") : medians + "\n";
}

std::string InWords(const json& failure) {
  const int round = failure["round"].get<int>();
  return absl::StrCat("FAILED ",
                      round == 0 ? "in the preparation" : absl::StrCat("in round ", round), ": ",
                      failure["error"].get<std::string>());
}

// The rows of those who have failed at what `of` names.
std::string FailureRows(const json& failures, const Case& of) {
  std::string rows;
  for (const json& failure : failures) {
    if (failure["where"] != of.where || failure["workload"] != of.workload ||
        failure["cache"] != of.cache) {
      continue;
    }
    absl::StrAppendFormat(&rows, "%-14s %s\n", failure["contestant"].get<std::string>(),
                          InWords(failure));
  }
  return rows;
}

std::string CaseTables(const json& bench, const Summary& summary) {
  std::vector<Case> cases = summary.cases();
  for (const json& failure : bench["failures"]) {
    cases.push_back(
        {failure["contestant"], failure["where"], failure["workload"], failure["cache"]});
  }
  std::string tables;
  std::set<std::tuple<std::string, std::string, std::string>> shown;
  for (const Case& first : cases) {
    if (!shown.insert({first.where, first.workload, first.cache}).second) continue;
    const std::string title = absl::StrCat(first.where, ", ", first.workload, ", ", first.cache);
    absl::StrAppendFormat(&tables, "\n%s\n%-14s", title, "");
    for (const Column& column : Columns()) {
      if (column.title != nullptr) absl::StrAppendFormat(&tables, "%*s", kCellWidth, column.title);
    }
    tables += "\n";
    for (const Case& of : summary.cases()) {
      if (std::tie(of.where, of.workload, of.cache) ==
          std::tie(first.where, first.workload, first.cache)) {
        tables += CaseRows(summary, of, bench["rounds"] > 1);
      }
    }
    tables += FailureRows(bench["failures"], first);
  }
  return tables;
}

std::string LimitRows(const json& limits) {
  std::string rows = "\nlimits of this machine\n";
  for (const json& limit : limits) {
    absl::StrAppendFormat(&rows, "%-16s%2d thread%-2s%9.2f %-5s (%.2f to %.2f)\n",
                          limit["name"].get<std::string>(), limit["threads"].get<int>(),
                          limit["threads"] == 1 ? "" : "s", limit["median"].get<double>(),
                          limit["unit"].get<std::string>(), limit["min"].get<double>(),
                          limit["max"].get<double>());
  }
  return rows;
}

std::string RatioRows(const json& ratios) {
  std::string rows = "\nratios\n";
  for (const json& ratio : ratios) {
    absl::StrAppendFormat(&rows, "%-6s%-48s%10.3g  %-14s%s%s\n", ratio["cache"].get<std::string>(),
                          ratio["name"].get<std::string>(), ratio["value"].get<double>(),
                          ratio["bar"].get<std::string>(), ratio["met"] == true ? "met" : "MISSED",
                          ratio["reliable"] == true ? "" : ", but in doubt: see the spread");
    const std::string note = ratio["note"].get<std::string>();
    if (!note.empty()) absl::StrAppendFormat(&rows, "      %s\n", note);
  }
  return rows;
}

std::string Warnings(const json& bench, const Summary& summary) {
  std::string warnings;
  if (bench["rounds"].get<int>() < 3) {
    warnings += "warning: fewer than 3 rounds: the spread is not known, and no ratio is sure\n";
  }
  for (const Case& of : summary.cases()) {
    for (const char* const column : {"to_resume", "to_first_work", "to_workload", "to_resident"}) {
      const std::optional<Spread> spread = summary.Find(of, column);
      if (spread && spread->Relative() > kWideSpread) {
        absl::StrAppendFormat(&warnings, "warning: %s: %s went from %s to %s\n", of.ToString(),
                              column, InUnit(spread->min, Column::Unit::kSeconds),
                              InUnit(spread->max, Column::Unit::kSeconds));
      }
    }
  }
  return warnings.empty() ? "" : "\n" + warnings;
}

// The median of paired ratios, their quartiles and their extremes.
std::string RatioCells(const json& ratios) {
  if (ratios.is_null()) return absl::StrFormat("%9s%13s%13s", "-", "", "");
  const auto range = [&](const char* low, const char* high) {
    return absl::StrFormat("%.2f-%.2f", ratios[low].get<double>(), ratios[high].get<double>());
  };
  return absl::StrFormat("%9.3f%13s%13s", ratios["median"].get<double>(),
                         range("lower_quartile", "upper_quartile"), range("min", "max"));
}

std::string FigureRow(const json& figure) {
  const absl::Span<const Column> columns = Columns();
  const auto column = std::find_if(columns.begin(), columns.end(), [&](const Column& one) {
    return one.name == figure["figure"].get<std::string>();
  });
  const auto median = [&](const char* build) {
    const json& values = figure[build];
    return values.is_null() ? "-" : InUnit(values["median"].get<double>(), column->unit);
  };
  // "to_first_work", "stall_p99"
  const std::string title =
      absl::StrReplaceAll(absl::StripPrefix(column->name, "to_"), {{"_", " "}});
  const std::string verdict = figure["verdict"];
  return absl::StrFormat("  %-12s%10s%10s%s%s  %s%s\n", title, median("ours"), median("other"),
                         RatioCells(figure["to_other"]), RatioCells(figure["to_itself"]),
                         verdict == "slower" ? "SLOWER" : verdict,
                         figure["judged"] == true ? "" : " (not judged)");
}

std::string FigureRows(const json& figures) {
  std::string rows =
      absl::StrFormat("\n%-14s%10s%10s%9s%13s%13s%9s%13s%13s\n", "", "ours", "other", "ours",
                      "quartiles", "extremes", "ours", "quartiles", "extremes");
  absl::StrAppendFormat(&rows, "%-14s%10s%10s%9s%13s%13s%9s\n", "", "", "", "/ other", "", "",
                        "/ itself");
  std::string last;
  for (const json& figure : figures) {
    const std::string of =
        Case{figure["contestant"], figure["where"], figure["workload"], figure["cache"]}.ToString();
    if (of != last) absl::StrAppend(&rows, of, "\n");
    last = of;
    rows += FigureRow(figure);
  }
  return rows;
}

// How many judged figures are what, and what that is worth.
std::string Outcome(const json& bench) {
  std::map<std::string, int> counts;
  int judged = 0;
  std::string again;
  for (const json& figure : bench["figures"]) {
    if (figure["judged"] != true) continue;
    ++judged;
    ++counts[figure["verdict"]];
    if (figure["verdict"] != "slower") continue;
    const std::string options = absl::StrCat("  --workload ", figure["workload"].get<std::string>(),
                                             " --cache ", figure["cache"].get<std::string>(), "\n");
    if (!absl::StrContains(again, options)) again += options;
  }
  std::string words = absl::StrFormat(
      "\nOf %d figures that are judged, %d are slower, %d faster, %d the same and %d unknown.\n",
      judged, counts["slower"], counts["faster"], counts["same"], counts["unknown"]);
  if (!again.empty()) {
    words +=
        "By chance this happens to equal builds, too: to about one figure in 40 of those that vary "
        "much.\nTo measure it again, add\n" +
        again;
  }
  if (bench["rounds"].get<int>() < kRoundsOfAClaim) {
    absl::StrAppendFormat(&words, "warning: %s: the spread is not well known; a claim needs %d\n",
                          Rounds(bench), kRoundsOfAClaim);
  }
  return words;
}

}  // namespace

std::string AgainstTable(const json& bench) {
  const json& builds = bench["builds"];
  std::string words = Conditions(bench, absl::StrCat(Rounds(bench), "."));
  for (const char* const build : {"ours", "other"}) {
    absl::StrAppendFormat(&words, "%s: %s (%s)\n", build, builds[build]["path"].get<std::string>(),
                          builds[build]["version"].get<std::string>());
  }
  words += FigureRows(bench["figures"]);
  for (const json& failure : bench["failures"]) {
    const Case of = {failure["contestant"], failure["where"], failure["workload"], failure["cache"],
                     failure["build"]};
    absl::StrAppend(&words, of.ToString(), " ", InWords(failure), "\n");
  }
  return words + Outcome(bench);
}

std::string BenchTable(const json& bench, const Summary& summary) {
  const std::string medians =
      absl::StrCat("Medians of ", Rounds(bench), ", (max - min) / median below.");
  return absl::StrCat(Conditions(bench, medians), CaseTables(bench, summary),
                      LimitRows(bench["limits"]), RatioRows(bench["ratios"]),
                      Warnings(bench, summary));
}

}  // namespace ramjet::bench
