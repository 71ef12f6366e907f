#include "tools/bench/report.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "tools/bench/report_pictures.h"
#include "tools/bench/report_style.h"
#include "tools/bench/report_text.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

// --- what there is ---

struct Column {
  const char* key;
  absl::string_view label;
  enum { kSeconds, kMicroseconds, kBytes, kCount } unit;
  enum { kNone, kLeast, kMost } best;
  absl::string_view meaning;
};

constexpr std::array<Column, 14> kColumns = {{
    {"to_resume", "to resume", Column::kSeconds, Column::kLeast,
     "from the start of the restore until the guest runs"},
    {"to_first_work", "to first work", Column::kSeconds, Column::kLeast,
     "until the guest has answered its first request"},
    {"to_workload", "to workload done", Column::kSeconds, Column::kLeast,
     "until the guest has done all of its work"},
    {"to_resident", "to all resident", Column::kSeconds, Column::kLeast,
     "until all memory is there, and nothing has to be waited for any more"},
    {"cpu", "CPU", Column::kSeconds, Column::kLeast,
     "CPU time of the load, all threads but the guest’s"},
    {"stall_count", "stalls", Column::kCount, Column::kNone,
     "accesses of the guest that had to wait for a page"},
    {"stall_p50", "stall p50", Column::kMicroseconds, Column::kNone,
     "a wait that half of all waits do not exceed; p99 and p99.9: 99 %, 99.9 % of them"},
    {"stall_p99", "p99", Column::kMicroseconds, Column::kNone, ""},
    {"stall_p999", "p99.9", Column::kMicroseconds, Column::kNone, ""},
    {"stall_max", "max", Column::kMicroseconds, Column::kNone, ""},
    {"demand_faults", "demand faults", Column::kCount, Column::kNone,
     "pages that had not come when the guest touched them"},
    {"read_bytes", "read", Column::kBytes, Column::kNone, "read from the disk"},
    {"peak_bytes", "extra memory", Column::kBytes, Column::kNone,
     "peak use beyond the guest’s own pages"},
    {"huge_bytes", "huge pages", Column::kBytes, Column::kNone,
     "guest memory in huge pages once all is resident: the guest runs faster on them"},
}};

// An element of one of the lists below is of one workload at one place.
struct Workload {
  std::string where;
  std::string name;
  bool Has(const json& element) const {
    return TextOf(Member(element, "where")) == where && TextOf(Member(element, "workload")) == name;
  }
};

// The members that are lists of what was done by whom.
constexpr const char* kCaseLists[] = {"summary", "failures", "pictures"};

std::vector<Workload> WorkloadsOf(const json& bench) {
  std::vector<Workload> workloads;
  for (const char* const key : kCaseLists) {
    for (const json& element : Member(bench, key)) {
      if (!element.is_object()) continue;
      const bool known = std::any_of(workloads.begin(), workloads.end(),
                                     [&](const Workload& one) { return one.Has(element); });
      if (known) continue;
      workloads.push_back({TextOf(Member(element, "where")), TextOf(Member(element, "workload"))});
    }
  }
  return workloads;
}

std::string TitleOf(const Workload& workload) {
  std::string title = workload.where == "qemu" ? "A Linux guest in QEMU"
                      : workload.where == "vm" ? "A guest in the demo VM"
                                               : workload.where;
  const std::string& name = workload.name;
  if (name == "first-work") return title + ": its first work";
  if (name == "touch-all") return title + ": touches all of its memory";
  if (name == "read-25") return title + ": reads a random 25 %";
  if (name == "write-25") return title + ": writes to a random 25 %";
  if (name == "zipf") return title + ": reads a few pages often, most seldom (zipf)";
  if (name == "idle") return title + ": idle";
  return name.empty() ? title : title + ": " + name;
}

// The elements of `list` of that workload and state of the cache.
std::vector<const json*> Select(const json& list, const Workload& workload,
                                absl::string_view cache) {
  std::vector<const json*> selected;
  for (const json& element : list) {
    if (workload.Has(element) && TextOf(Member(element, "cache")) == cache) {
      selected.push_back(&element);
    }
  }
  return selected;
}

// The distinct values of `key` in `list`, in order.
std::vector<std::string> ValuesOf(const std::vector<const json*>& list, const char* key) {
  std::vector<std::string> values;
  for (const json* element : list) {
    std::string value = TextOf(Member(*element, key));
    if (value.empty() || std::find(values.begin(), values.end(), value) != values.end()) continue;
    values.push_back(std::move(value));
  }
  return values;
}

std::vector<const json*> All(const json& bench) {
  std::vector<const json*> all;
  for (const char* const key : kCaseLists) {
    for (const json& element : Member(bench, key)) all.push_back(&element);
  }
  return all;
}

// {"median", "min", "max"}, or null.
const json& ColumnOf(const json& summary, const Column& column) {
  return Member(Member(summary, "columns"), column.key);
}

std::string Format(double value, const Column& column) {
  switch (column.unit) {
    case Column::kSeconds:
      return FormatSeconds(value);
    case Column::kMicroseconds:
      return FormatSeconds(value / 1e6);
    case Column::kBytes:
      return FormatBytes(value);
    case Column::kCount:
      return FormatCount(value);
  }
  return "";
}

// "3 – 4 ms", with the unit once where both have the same.
std::string FormatRange(double from, double to, const Column& column) {
  std::string low = Format(from, column);
  const std::string high = Format(to, column);
  const size_t unit = high.find(' ');
  if (unit != std::string::npos && absl::EndsWith(low, high.substr(unit))) {
    low.resize(low.size() - (high.size() - unit));
  }
  return absl::StrCat(low, "–", high);
}

// --- sections ---

std::string Cell(std::optional<double> number, std::string (*format)(double)) {
  if (!number.has_value()) return "<td class=\"number soft\">–</td>";
  return absl::StrCat("<td class=\"number\">", format(*number), "</td>");
}

// The contestant's name after a piece of its line.
std::string Label(const std::string& contestant) {
  return absl::StrCat("<svg class=\"swatch line ", ClassOf(contestant),
                      "\" viewBox=\"0 0 38 14\"><path d=\"M0 7h38\"/></svg> ", Escape(contestant));
}

std::string Legend(const std::vector<std::string>& contestants) {
  std::string html = "<ul class=\"legend\">";
  for (const std::string& contestant : contestants) {
    absl::StrAppend(&html, "<li class=\"", ClassOf(contestant), "\">", Label(contestant), "</li>");
  }
  return html + "</ul>\n";
}

std::string Facts(const json& bench) {
  std::vector<std::string> lines;
  const auto add = [&](std::vector<std::string> parts) {
    parts.erase(std::remove(parts.begin(), parts.end(), ""), parts.end());
    if (!parts.empty()) lines.push_back(absl::StrJoin(parts, " · "));
  };
  const auto number = [](const json& object, const char* key, auto format, absl::string_view what) {
    const std::optional<double> value = NumberOf(Member(object, key));
    return value.has_value() ? absl::StrCat(format(*value), what) : std::string();
  };
  const auto text = [](const json& object, const char* key, absl::string_view what = "") {
    const std::string value = TextOf(Member(object, key));
    return value.empty() ? value : absl::StrCat(what, Escape(value));
  };
  const json& machine = Member(bench, "machine");
  const json& virtual_machine = Member(machine, "hypervisor");
  add({text(machine, "cpu"), number(machine, "cpus", FormatCount, " CPUs"),
       number(machine, "memory_bytes", FormatBytes, ""),
       virtual_machine.is_boolean() && virtual_machine.get<bool>() ? "itself a virtual machine"
                                                                   : "",
       text(machine, "kernel", "Linux "), text(machine, "filesystem"),
       text(machine, "transparent_hugepages", "transparent huge pages: "),
       text(machine, "vcpu", "vCPUs of the demo VM: "), text(machine, "vcpu_note")});
  const json& snapshot = Member(bench, "snapshot");
  add({text(snapshot, "path", "Snapshot "),
       number(snapshot, "ram_bytes", FormatBytes, " of guest memory"),
       number(snapshot, "nonzero_bytes", FormatBytes, " of it not zero"),
       number(snapshot, "file_bytes", FormatBytes, " file"),
       number(snapshot, "blocks", FormatCount, " blocks")});
  const std::string interrupted = text(bench, "interrupted");
  if (!interrupted.empty()) {
    add({absl::StrCat("<b class=\"missed\">Interrupted</b>: ", interrupted),
         number(bench, "planned_rounds", FormatCount, " rounds were planned")});
  }
  add({number(bench, "rounds", FormatCount, " rounds, the contestants in turn"),
       text(bench, "started"), text(bench, "version", "ramjet ")});
  return absl::StrCat("<p class=\"soft\">", absl::StrJoin(lines, "<br/>\n"), "</p>\n");
}

std::string RatiosTable(const json& ratios) {
  if (!ratios.is_array() || ratios.empty()) return "";
  int met = 0;
  int missed = 0;
  int unreliable = 0;
  std::string rows;
  for (const json& ratio : ratios) {
    const std::optional<double> value = NumberOf(Member(ratio, "value"));
    const json& is_met = Member(ratio, "met");
    const json& is_reliable = Member(ratio, "reliable");
    std::string verdict = "<td class=\"soft\">not measured</td>";
    if (value.has_value() && is_met.is_boolean()) {
      verdict = is_met.get<bool>() ? "<td><span class=\"met\">✓ met</span>"
                                   : "<td><span class=\"missed\">✗ missed</span>";
      ++(is_met.get<bool>() ? met : missed);
      if (is_reliable.is_boolean() && !is_reliable.get<bool>()) {
        ++unreliable;
        verdict += "<br/><span class=\"unreliable\">⚠ unreliable</span>";
      }
      verdict += "</td>";
    }
    absl::StrAppend(
        &rows, "<tr><td>", Escape(TextOf(Member(ratio, "name"))), "</td><td>",
        Escape(TextOf(Member(ratio, "cache"))), "</td>", Cell(value, FormatDigits),
        "<td class=\"number\">",
        Escape(absl::StrReplaceAll(TextOf(Member(ratio, "bar")), {{">=", "≥"}, {"<=", "≤"}})),
        "</td>", verdict, "<td>", Escape(TextOf(Member(ratio, "note"))), "</td></tr>\n");
  }
  return absl::StrCat(
      "<h2 id=\"ratios\">Ratios and their bars</h2>\n<p>", met, " met, ", missed, " missed",
      unreliable > 0 ? absl::StrCat("; ", unreliable,
                                    " of them unreliable: the rounds differ so "
                                    "much that the ratio means little")
                     : "",
      ". Both sides of a ratio were measured in this run, so that any machine can repeat it.</p>\n"
      "<div class=\"wide\"><table><thead><tr><th>ratio</th><th>cache</th><th class=\"number\">"
      "measured</th><th class=\"number\">bar</th><th>verdict</th><th>what stands in the way</th>"
      "</tr></thead><tbody>\n",
      rows, "</tbody></table></div>\n");
}

std::string LimitsTable(const json& limits) {
  if (!limits.is_array() || limits.empty()) return "";
  constexpr std::array<std::array<absl::string_view, 2>, 11> kMeanings = {{
      {"memcpy", "copying memory to memory"},
      {"pread", "reading the cached file into memory that is present"},
      {"fill", "the same into fresh huge pages: a load from the page cache, by a bare loop"},
      {"uffdio-copy", "giving copied pages to registered, empty memory, in a bare loop"},
      {"uffdio-move", "the same by moving huge pages instead of copying"},
      {"disk-direct", "reading the snapshot past the page cache (O_DIRECT, 2 MiB a read)"},
      {"fill-direct", "the same into fresh huge pages: a load from a disk, by a bare loop"},
      {"thread-start", "until who starts a thread goes on"},
      {"thread-wake", "until who sleeps on the same processor goes on, or on another (2)"},
      {"fault-loop-p50", "one fault of 4 KiB served by a bare loop, the median"},
      {"fault-loop-p99", "the same, of which 99 % are faster"},
  }};
  std::string rows;
  for (const json& limit : limits) {
    const std::optional<double> median = NumberOf(Member(limit, "median"));
    if (!median.has_value()) continue;
    const std::string name = TextOf(Member(limit, "name"));
    absl::string_view meaning;
    for (const auto& [known, text] : kMeanings) {
      if (known == name) meaning = text;
    }
    const std::optional<double> threads = NumberOf(Member(limit, "threads"));
    const std::optional<double> min = NumberOf(Member(limit, "min"));
    const std::optional<double> max = NumberOf(Member(limit, "max"));
    absl::StrAppend(&rows, "<tr><th>", Escape(name), "</th>", Cell(threads, FormatCount),
                    "<td class=\"number\">", FormatDigits(*median), " ",
                    Escape(absl::StrReplaceAll(TextOf(Member(limit, "unit")), {{"us", "µs"}})));
    if (min.has_value() && max.has_value()) {
      absl::StrAppend(&rows, "<small>", FormatDigits(*min), "–", FormatDigits(*max), "</small>");
    }
    absl::StrAppend(&rows, "</td><td>", meaning, "</td></tr>\n");
  }
  return absl::StrCat(
      "<h2 id=\"limits\">The machine’s limits</h2>\n<p>What this machine can do at all, measured "
      "in "
      "the same run. No loader can be faster than the slowest step that it needs.</p>\n"
      "<div class=\"wide\"><table><thead><tr><th>limit</th><th class=\"number\">threads</th>"
      "<th class=\"number\">median<br/><small>least–most</small></th><th>what it is</th></tr>"
      "</thead><tbody>\n",
      rows, "</tbody></table></div>\n");
}

// Medians and spreads, one row for each contestant; without the columns that apply to nobody.
std::string SummaryTable(const std::vector<const json*>& summaries,
                         const std::vector<const json*>& failures, absl::string_view cache) {
  struct Shown {
    const Column* column;
    std::optional<double> best;
  };
  std::vector<Shown> columns;
  for (const Column& column : kColumns) {
    std::vector<double> medians;  // of those who compete: the floor loads nothing
    bool any = false;
    for (const json* summary : summaries) {
      const std::optional<double> median = NumberOf(Member(ColumnOf(*summary, column), "median"));
      any = any || median.has_value();
      if (median.has_value() && TextOf(Member(*summary, "contestant")) != "floor") {
        medians.push_back(*median);
      }
    }
    if (!any) continue;
    Shown shown = {&column, std::nullopt};
    if (column.best != Column::kNone && medians.size() > 1) {
      shown.best = *std::min_element(medians.begin(), medians.end());
    }
    columns.push_back(shown);
  }
  if (columns.empty() && failures.empty()) return "";
  std::string html = absl::StrCat("<h3>Medians, ", Escape(cache),
                                  " cache</h3>\n<div class=\"wide\"><table><thead><tr><th></th>");
  for (const Shown& shown : columns) {
    absl::StrAppend(&html, "<th class=\"number\">", shown.column->label, "</th>");
  }
  html += "</tr></thead><tbody>\n";
  for (const json* summary : summaries) {
    const std::string contestant = TextOf(Member(*summary, "contestant"));
    absl::StrAppend(&html, "<tr class=\"", ClassOf(contestant), "\"><th>", Escape(contestant),
                    "</th>");
    for (const Shown& shown : columns) {
      const json& value = ColumnOf(*summary, *shown.column);
      const std::optional<double> median = NumberOf(Member(value, "median"));
      const std::optional<double> min = NumberOf(Member(value, "min"));
      const std::optional<double> max = NumberOf(Member(value, "max"));
      if (!median.has_value()) {
        html += Cell(median, FormatDigits);
        continue;
      }
      absl::StrAppend(&html, "<td class=\"number\"><span",
                      median == shown.best ? " class=\"best\">" : ">",
                      Format(*median, *shown.column), "</span>");
      if (min.has_value() && max.has_value() && *min != *max) {
        absl::StrAppend(&html, "<small>", FormatRange(*min, *max, *shown.column), "</small>");
      }
      html += "</td>";
    }
    html += "</tr>\n";
  }
  for (const json* failure : failures) {
    const std::string contestant = TextOf(Member(*failure, "contestant"));
    absl::StrAppend(&html, "<tr class=\"", ClassOf(contestant), "\"><th>", Escape(contestant),
                    "</th><td colspan=\"", std::max<size_t>(columns.size(), 1),
                    "\"><span class=\"missed\">✗ failed</span> ",
                    Escape(TextOf(Member(*failure, "error"))), "</td></tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

// Warm and cold side by side, above them whose `key` is drawn.
std::string Pair(absl::string_view title, absl::string_view how_to_read, Pictures pictures,
                 const char* key, const std::string& charts) {
  if (charts.empty()) return "";
  std::erase_if(pictures, [&](const json* picture) { return Member(*picture, key).empty(); });
  return absl::StrCat("<h3>", title, "</h3>\n<p class=\"soft\">", how_to_read, "</p>\n",
                      Legend(ValuesOf(pictures, "contestant")), "<div class=\"pair\">\n", charts,
                      "</div>\n");
}

std::map<std::string, double> ResumedBy(const std::vector<const json*>& summaries) {
  std::map<std::string, double> resumed;
  for (const json* summary : summaries) {
    const std::optional<double> median =
        NumberOf(Member(ColumnOf(*summary, kColumns[0]), "median"));
    if (median.has_value()) resumed[TextOf(Member(*summary, "contestant"))] = *median;
  }
  return resumed;
}

std::string WorkloadSection(const json& bench, const Workload& workload, size_t number) {
  std::vector<const json*> all = All(bench);
  std::erase_if(all, [&](const json* element) { return !workload.Has(*element); });
  Pictures drawn;
  for (const json& picture : Member(bench, "pictures")) {
    if (workload.Has(picture)) drawn.push_back(&picture);
  }
  std::string tables;
  std::string resident;
  std::string stalls;
  std::string maps;
  const double ram_bytes = NumberOf(Member(Member(bench, "snapshot"), "ram_bytes")).value_or(0);
  std::vector<std::string> caches = ValuesOf(all, "cache");
  std::stable_sort(caches.begin(), caches.end(), [](const std::string& a, const std::string& b) {
    return (a == "warm") > (b == "warm");
  });
  for (const std::string& cache : caches) {
    const std::vector<const json*> summaries = Select(Member(bench, "summary"), workload, cache);
    tables += SummaryTable(summaries, Select(Member(bench, "failures"), workload, cache), cache);
    const Pictures pictures = Select(Member(bench, "pictures"), workload, cache);
    resident += ResidentChart(pictures, ResumedBy(summaries), cache + " cache");
    stalls += StallChart(pictures, cache + " cache");
    const std::string some = MemoryMaps(pictures, ram_bytes);
    if (some.empty()) continue;
    if (maps.empty()) {
      absl::StrAppend(&maps, "<h3>Maps of guest memory</h3>\n", MemoryMapLegend());
    }
    absl::StrAppend(&maps, "<p>", Escape(cache), " cache</p>\n<div class=\"maps\">\n", some,
                    "</div>\n");
  }
  return absl::StrCat(
      "<h2 id=\"w", number, "\">", Escape(TitleOf(workload)), "</h2>\n", tables,
      Pair("Resident memory over time",
           "How much of the guest’s memory is there. The guest runs from the ring on (median of "
           "the rounds); at the dot no more comes.",
           drawn, "resident", resident),
      Pair(
          "How long the guest waits for pages",
          "Further left is better: the height of a line tells how many of the waits were no longer "
          "than the time below it. The upward scale is stretched towards the slowest few.",
          drawn, "stalls", stalls),
      maps);
}

std::string Explanations(const json& bench) {
  const std::vector<const json*> all = All(bench);
  std::string html;
  for (const std::string& contestant : ValuesOf(all, "contestant")) {
    const absl::string_view explanation = ExplanationOf(contestant);
    if (explanation.empty()) continue;
    absl::StrAppend(&html, "<dt>", Escape(contestant), "</dt><dd>", explanation, "</dd>\n");
  }
  if (html.empty()) return "";
  std::string columns;
  for (const Column& column : kColumns) {
    if (column.meaning.empty()) continue;
    absl::StrAppend(&columns, "<dt>", column.label, "</dt><dd>", column.meaning, "</dd>\n");
  }
  return absl::StrCat(
      "<h2 id=\"reading\">How to read this page</h2>\n"
      "<p>A virtual machine was saved to a file, its memory with it. Restoring it means to bring "
      "that "
      "memory back. The plain way reads all of it first; the guest waits. ramjet lets the guest "
      "run at "
      "once and brings each page when it is touched, and all others in the background "
      "(userfaultfd).</p>\n"
      "<h3>Who takes part</h3>\n<dl>\n",
      html,
      "</dl>\n<h3>What is measured</h3>\n"
      "<p>Each figure is the median of the rounds, with the least and the most below it; bold is "
      "the "
      "best. Warm: the file is in the page cache. Cold: it was dropped from there before each "
      "restore, "
      "so it comes from the disk. The pictures are of one more restore each, that was not "
      "timed.</p>\n<dl>\n",
      columns,
      "</dl>\n<h3>The map of guest memory</h3>\n"
      "<p>Each cell is a piece of guest memory, in the order of addresses, row by row. Its colour "
      "tells "
      "why it came; the stronger the colour, the earlier, from the beginning of the restore to the "
      "last "
      "page of that map. Point at a cell to read it.</p>\n",
      MemoryMapLegend());
}

}  // namespace

std::string ReportHtml(const json& bench) {
  const std::vector<Workload> workloads = WorkloadsOf(bench);
  std::string contents;
  std::string sections;
  for (size_t i = 0; i < workloads.size(); ++i) {
    absl::StrAppend(&contents, "<a href=\"#w", i, "\">", Escape(TitleOf(workloads[i])), "</a>\n");
    sections += WorkloadSection(bench, workloads[i], i);
  }
  const std::string ratios = RatiosTable(Member(bench, "ratios"));
  const std::string limits = LimitsTable(Member(bench, "limits"));
  const std::string reading = Explanations(bench);
  std::string filter = "<ul class=\"legend\" id=\"filter\" hidden=\"hidden\"><li>Show:</li>";
  for (const std::string& contestant : ValuesOf(All(bench), "contestant")) {
    absl::StrAppend(&filter, "<li><label><input type=\"checkbox\" checked=\"checked\" value=\"",
                    ClassOf(contestant), "\"/> ", Label(contestant), "</label></li>");
  }
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>ramjet bench</title>\n<style>",
      kReportStyle,
      "</style></head>\n<body>\n"
      "<h1>Restoring a virtual machine: who is how fast</h1>\n",
      Facts(bench), "<nav>", ratios.empty() ? "" : "<a href=\"#ratios\">Ratios</a>\n", contents,
      limits.empty() ? "" : "<a href=\"#limits\">Limits</a>\n",
      reading.empty() ? "" : "<a href=\"#reading\">How to read this page</a>\n", "</nav>\n", filter,
      "</ul>\n<main>\n", ratios, reading, sections, limits,
      "</main>\n<div id=\"tip\" hidden=\"hidden\"></div>\n<script>", kReportScript,
      "</script>\n</body></html>\n");
}

}  // namespace ramjet::bench
