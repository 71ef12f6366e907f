#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/bench/report.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

json Spread(double median) {
  return {{"median", median}, {"min", median * 0.9}, {"max", median * 1.5}};
}

json Summary(const char* contestant, const char* cache, json columns) {
  return {{"contestant", contestant},
          {"where", "vm"},
          {"workload", "read-25"},
          {"cache", cache},
          {"columns", std::move(columns)}};
}

json Picture(const char* contestant, const char* cache) {
  json cells;
  const auto add = [&](const char* why, const json& ms) {
    cells.push_back(json::array({why, ms}));
  };
  add("working-set", 1.5);
  add("working-set", 1.5);
  add("demand", 60.0);
  add("zero", nullptr);
  add("zero", nullptr);
  add("eager", 30.0);
  add("eager", 30.0);
  add("present", 0);
  return {{"contestant", contestant},
          {"where", "vm"},
          {"workload", "read-25"},
          {"cache", cache},
          {"resident", {{0.0, 0}, {0.05, 400 << 20}, {0.1, 800 << 20}}},
          {"stalls", {{1.0, 0.0}, {10.0, 0.5}, {100.0, 0.99}, {1000.0, 1.0}}},
          {"map", {{"columns", 4}, {"cells", cells}}}};
}

json Bench() {
  json bench = {
      {"schema", "ramjet.bench/1"},
      {"version", "0.1.0"},
      {"started", "2026-11-21T14:40:00Z"},
      {"rounds", 5},
      {"machine",
       {{"cpu", "Some CPU"},
        {"cpus", 2},
        {"memory_bytes", 8ull << 30},
        {"kernel", "6.18.5"},
        {"transparent_hugepages", "madvise"},
        {"filesystem", "ext4"},
        {"hypervisor", true},
        {"vcpu", "thread"}}},
      {"snapshot",
       {{"path", "/tmp/guest.mr"},
        {"file_bytes", 440 << 20},
        {"ram_bytes", 1 << 30},
        {"nonzero_bytes", 424 << 20},
        {"blocks", 5}}},
      {"limits", {{{"name", "disk-direct"}, {"threads", 1}, {"unit", "GB/s"}}}},
      {"ratios",
       {{{"name", "resume: full-read / ramjet"},
         {"cache", "warm"},
         {"value", 25.5},
         {"bar", ">= 30"},
         {"met", false},
         {"reliable", false},
         {"note", "the disk"}},
        {{"name", "demand faults"}, {"value", 0.012}, {"bar", "<= 0.02"}, {"met", true}},
        {{"name", "huge pages"}, {"value", nullptr}, {"bar", ">= 0.9"}, {"met", nullptr}}}},
  };
  bench["limits"][0].update(Spread(1.81));
  for (const char* const cache : {"warm", "cold"}) {
    bench["summary"].push_back(Summary("full-read", cache,
                                       {{"to_resume", Spread(0.21)},
                                        {"to_first_work", nullptr},
                                        {"stall_p50", nullptr},
                                        {"read_bytes", Spread(0)}}));
    bench["summary"].push_back(Summary("ramjet", cache,
                                       {{"to_resume", Spread(0.003)},
                                        {"to_first_work", nullptr},
                                        {"stall_p50", Spread(6.1)},
                                        {"read_bytes", Spread(0)}}));
    for (const char* const contestant : {"full-read", "ramjet"}) {
      bench["pictures"].push_back(Picture(contestant, cache));
    }
  }
  return bench;
}

// The text of all pages, before each of them "scripts=N\n": read by a parser that forgives nothing.
// "" if it refuses.
std::string ParsedText(const std::vector<std::string>& pages) {
  std::string command =
      "python3 -c 'import sys, xml.etree.ElementTree as e\n"
      "for path in sys.argv[1:]:\n"
      "  root = e.parse(path).getroot()\n"
      "  print(\"scripts=%d\" % len(list(root.iter(\"script\"))))\n"
      "  for x in [*root.iter(\"script\"), *root.iter(\"style\")]: x.text = \"\"\n"
      "  print(\"\".join(root.itertext()))'";
  for (size_t i = 0; i < pages.size(); ++i) {
    const std::string path = absl::StrCat(testing::TempDir(), "/report", i, ".html");
    std::ofstream(path) << pages[i];
    absl::StrAppend(&command, " '", path, "'");
  }
  FILE* const pipe = popen(command.c_str(), "r");
  std::string text;
  for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) text += static_cast<char>(c);
  return pclose(pipe) == 0 ? text : "";
}

size_t Count(absl::string_view text, absl::string_view what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++count;
  return count;
}

// What is true of every page: it is well-formed, needs nothing, and says nothing that is no word.
void ExpectSound(const std::vector<std::string>& pages) {
  EXPECT_EQ(Count(ParsedText(pages), "scripts=1\n"), pages.size());
  for (const std::string& page : pages) {
    for (const char* const bad :
         {"nan", "null", "inf", "http:", "https:", "src=", "url(", "@import"}) {
      EXPECT_EQ(page.find(bad), page.npos) << bad << " in\n" << page;
    }
  }
}

TEST(BenchReport, SaysWhatWasMeasuredAndWhere) {
  const std::string page = ReportHtml(Bench());
  ExpectSound({page});
  const std::string text = ParsedText({page});
  for (const char* const expected :
       {"Some CPU", "2 CPUs", "8 GiB", "Linux 6.18.5", "ext4", "/tmp/guest.mr", "1 GiB of guest",
        "424 MiB of it not zero", "5 rounds", "full-read", "ramjet", "warm cache", "cold cache",
        "210 ms", "189–315 ms", "3.00 ms", "6.10 µs", "disk-direct", "1.81 GB/s"}) {
    EXPECT_THAT(text, HasSubstr(expected));
  }
}

TEST(BenchReport, JudgesEachRatio) {
  const std::string page = ReportHtml(Bench());
  EXPECT_THAT(page, HasSubstr("1 met, 1 missed; 1 of them unreliable"));
  EXPECT_THAT(page, ContainsRegex("full-read / ramjet.*25\\.5.*≥ 30.*✗ missed.*unreliable"));
  EXPECT_THAT(page, ContainsRegex("demand faults</td>.*0\\.012.*≤ 0\\.02.*✓ met</span></td>"));
  EXPECT_THAT(page, ContainsRegex("huge pages</td>.*–.*≥ 0\\.9.*not measured"));
}

TEST(BenchReport, LeavesOutAColumnThatAppliesToNobody) {
  const std::string text = ParsedText({ReportHtml(Bench())});
  const size_t table = text.find("Medians, warm cache");
  ASSERT_NE(table, text.npos);
  const std::string header = text.substr(table, 100);
  EXPECT_THAT(header, HasSubstr("to resumestall p50read"));  // first work is not there
}

TEST(BenchReport, DrawsALineForEachContestant) {
  const std::string page = ReportHtml(Bench());
  EXPECT_EQ(Count(page, "<g class=\"line k5\"><title>ramjet: 800 MiB resident after 100 ms"), 2u);
  EXPECT_EQ(Count(page, "<g class=\"line k2\"><title>full-read: 800 MiB resident"), 2u);
  EXPECT_EQ(Count(page, "<g class=\"line k5\"><title>ramjet: the longest stall is 1.00 ms"), 2u);
  // At 3 ms of 100, 24 MiB of 800, where the guest runs.
  EXPECT_EQ(Count(page, "<circle class=\"ring\" cx=\"73.8\""), 2u);
  EXPECT_THAT(page, HasSubstr(">10 µs</text>"));
  EXPECT_THAT(page, HasSubstr(">512 MiB</text>"));
}

TEST(BenchReport, CutsALineThatGoesOnForLong) {
  json bench = Bench();
  bench["pictures"][0]["resident"] = {{0.0, 0}, {10.0, 800 << 20}};
  const std::string page = ReportHtml(bench);
  ExpectSound({page});
  EXPECT_THAT(page, HasSubstr("warm cache; full-read ends at 10.0 s</figcaption>"));
  EXPECT_THAT(page, HasSubstr(">200 ms</text>"));
  EXPECT_THAT(page, Not(HasSubstr(">2 s</text>")));
}

TEST(BenchReport, MapsMemoryInAddressOrder) {
  const std::string page = ReportHtml(Bench());
  EXPECT_EQ(Count(page, "viewBox=\"0 0 4 2\""), 4u);
  // The later, the higher the level. A run ends with its row.
  EXPECT_EQ(Count(page, "<path class=\"working-set l0\" d=\"M0 0.5h2\"/>"), 4u);
  EXPECT_EQ(Count(page, "<path class=\"demand l5\" d=\"M2 0.5h1\"/>"), 4u);
  EXPECT_EQ(Count(page, "<path class=\"zero l0\" d=\"M3 0.5h1M0 1.5h1\"/>"), 4u);
  EXPECT_EQ(Count(page, "<path class=\"eager l3\" d=\"M1 1.5h2\"/>"), 4u);
  EXPECT_THAT(page, HasSubstr("data-cells=\"w1.5*2 d60.0 z*2 e30.0*2 p0.0\""));
  EXPECT_THAT(page, HasSubstr("data-cell-mib=\"128\""));
  EXPECT_THAT(page, HasSubstr("working set 25.0 %, demand 12.5 %, eager 25.0 %, present 12.5 %"));
}

TEST(BenchReport, SaysWhoFailedAndWhy) {
  json bench = Bench();
  const auto fail = [&](const char* contestant, const char* workload) {
    bench["failures"].push_back({{"round", 2},
                                 {"contestant", contestant},
                                 {"where", "vm"},
                                 {"workload", workload},
                                 {"cache", "cold"},
                                 {"error", "exit status 1: no memory"}});
  };
  fail("one-page", "read-25");
  fail("map-private", "zipf");  // where nobody else has anything to show
  const std::string page = ReportHtml(bench);
  ExpectSound({page});
  const std::string text = ParsedText({page});
  EXPECT_THAT(text, HasSubstr("one-page✗ failed exit status 1: no memory"));
  EXPECT_THAT(text, HasSubstr("map-private✗ failed exit status 1: no memory"));
  EXPECT_EQ(Count(page, "✗ failed"), 2u);
}

TEST(BenchReport, SaysThatItIsNotOfAllRounds) {
  json bench = Bench();
  bench["interrupted"] = nullptr;
  EXPECT_THAT(ReportHtml(bench), Not(HasSubstr("Interrupted")));
  bench["interrupted"] = "Ctrl-C";
  bench["planned_rounds"] = 7;
  const std::string text = ParsedText({ReportHtml(bench)});
  EXPECT_THAT(text, HasSubstr("Interrupted: Ctrl-C · 7 rounds were planned"));
}

TEST(BenchReport, WithoutPicturesNothingIsSaidOfThem) {
  json bench = Bench();
  bench.erase("pictures");
  const std::string page = ReportHtml(bench);
  ExpectSound({page});
  EXPECT_THAT(page, Not(HasSubstr("<figure")));
  EXPECT_THAT(page, Not(HasSubstr("Resident memory over time")));
  EXPECT_THAT(page, HasSubstr("3.00 ms"));
}

TEST(BenchReport, WithoutAnythingIsStillAPage) {
  for (const json& bench : {json(), json::object(), json{{"schema", "ramjet.bench/1"}}}) {
    const std::string page = ReportHtml(bench);
    ExpectSound({page});
    EXPECT_EQ(Count(page, "<h2"), 0u);
  }
}

TEST(BenchReport, LeavesOutWhatIsNotOfTheSchema) {
  const json bad[] = {json(),      json(true),       json("text"),  json(-1), json(std::nan("")),
                      json(1e300), json::array({1}), json::object()};
  std::vector<std::string> pages;
  for (const char* const key : {"machine", "snapshot", "limits", "summary", "failures", "ratios",
                                "pictures", "rounds", "interrupted"}) {
    for (const json& value : bad) {
      json bench = Bench();
      bench[key] = value;
      pages.push_back(ReportHtml(bench));
      bench[key] = json::array({value});
      pages.push_back(ReportHtml(bench));
    }
  }
  for (const char* const path :
       {"/pictures/0/resident", "/pictures/0/resident/1", "/pictures/0/resident/1/0",
        "/pictures/0/resident/1/1", "/pictures/0/stalls", "/pictures/0/stalls/1/0",
        "/pictures/0/stalls/1/1", "/pictures/0/map", "/pictures/0/map/columns",
        "/pictures/0/map/cells", "/pictures/0/map/cells/0", "/pictures/0/map/cells/0/0",
        "/pictures/0/map/cells/0/1", "/summary/0/columns", "/summary/0/columns/to_resume",
        "/summary/0/columns/to_resume/median", "/snapshot/ram_bytes", "/ratios/0/value",
        "/limits/0/median"}) {
    for (const json& value : bad) {
      json bench = Bench();
      bench[json::json_pointer(path)] = value;
      pages.push_back(ReportHtml(bench));
    }
  }
  ExpectSound(pages);
}

TEST(BenchReport, EscapesEveryString) {
  const std::string hostile = "</title></svg>\"'><script>alert(1)</script>&amp;\x01";
  json bench = Bench();
  const json flat = bench.flatten();
  for (const auto& [path, value] : flat.items()) {
    if (value.is_string() && path.find("/cells/") == path.npos) {
      bench[json::json_pointer(path)] = hostile;
    }
  }
  const std::string page = ReportHtml(bench);
  ExpectSound({page});
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(ParsedText({page}), HasSubstr("<script>alert(1)</script>&amp;"));
}

}  // namespace
}  // namespace ramjet::bench
