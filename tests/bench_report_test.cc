#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/bench/report.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;
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

// A page as a browser has drawn it.
struct Drawn {
  std::string text;       // what a reader sees
  std::string html;       // the document afterwards, without its scripts and its style
  std::string hover;      // what is said of each cell of the first map, a line each
  std::string unchecked;  // what a reader sees without the contestant of the first box
  size_t scripts = 0;
  std::string errors;
};

// Draws pages in frames of one, which it leaves holding what came of them, as JSON in base 64.
constexpr char kDriver[] = R"html(<!DOCTYPE html><meta charset="utf-8"><body><script>
const pages = @PAGES@;
const errors = pages.map(() => '');
const frames = pages.map((page, i) => {
  const frame = document.createElement('iframe');
  frame.style.cssText = 'width: 1200px; height: 900px';
  frame.srcdoc = page.replace('<head>', () => '<head><script>onerror = (message) => { ' +
      'parent.errors[' + i + '] += message + "\\n"; };</' + 'script>');
  document.body.append(frame);
  return frame;
});
window.errors = errors;
onload = () => {
  const drawn = frames.map((frame, i) => {
    const page = frame.contentDocument, all = page.documentElement;
    const text = page.body.innerText;
    let hover = '';
    const map = page.querySelector('svg.map');
    if (map) {
      const box = map.getBoundingClientRect();
      const [, , columns, rows] = map.getAttribute('viewBox').split(' ').map(Number);
      for (let cell = 0; cell < Math.min(columns * rows, 64); ++cell) {
        map.dispatchEvent(new PointerEvent('pointermove', {
          clientX: box.left + (cell % columns + .5) * box.width / columns,
          clientY: box.top + (Math.floor(cell / columns) + .5) * box.height / rows }));
        const tip = page.getElementById('tip');
        hover += (tip.hidden ? '-' : tip.textContent) + '\n';
      }
      map.dispatchEvent(new PointerEvent('pointerleave'));
    }
    const box = page.querySelector('#filter input');
    if (box) box.click();
    const unchecked = page.querySelector('main').innerText;
    if (box) box.click();
    const scripts = [...page.scripts];
    for (const one of [...scripts, ...page.querySelectorAll('style, noscript')]) one.remove();
    // One of them is ours.
    return { text, hover, unchecked, html: all.outerHTML, scripts: scripts.length - 1,
      errors: errors[i] };
  });
  const bytes = new TextEncoder().encode(JSON.stringify(drawn));
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  document.body.textContent = 'DRAWN[' + btoa(binary) + ']';
};
</script></body>)html";

std::string WhyNoBrowser() {
  return access("/usr/bin/chromium", X_OK) == 0 ? "" : "there is no /usr/bin/chromium";
}

// The document of the page at `path` once a browser has loaded it. A browser in a sandbox of its
// own needs more rights than a test may have.
std::string DumpDom(const std::string& path) {
  const std::string home = testing::TempDir() + "/browser";
  const std::string command = absl::StrCat(
      "HOME='", home, "' timeout 120 /usr/bin/chromium --headless --no-sandbox --disable-gpu ",
      "--disable-dev-shm-usage --user-data-dir='", home, "' --dump-dom 'file://", path,
      "' 2>/dev/null");
  FILE* const pipe = popen(command.c_str(), "r");
  std::string dom;
  std::array<char, 65536> buffer;
  while (const size_t size = fread(buffer.data(), 1, buffer.size(), pipe)) {
    dom.append(buffer.data(), size);
  }
  EXPECT_EQ(pclose(pipe), 0);
  return dom;
}

// As many as there are pages, in any case.
std::vector<Drawn> Draw(const std::vector<json>& benches) {
  std::vector<Drawn> all(benches.size());
  json pages = json::array();
  for (const json& bench : benches) pages.push_back(ReportHtml(bench));
  const std::string path = testing::TempDir() + "/driver.html";
  std::ofstream(path) << absl::StrReplaceAll(
      kDriver, {{"@PAGES@", absl::StrReplaceAll(pages.dump(), {{"<", "\\u003c"}})}});
  const std::string dom = DumpDom(path);
  const size_t begin = dom.find("DRAWN[");
  const size_t end = dom.find(']', begin);
  std::string text;
  if (begin == dom.npos || end == dom.npos ||
      !absl::Base64Unescape(dom.substr(begin + 6, end - begin - 6), &text)) {
    ADD_FAILURE() << "the browser drew nothing: " << dom.substr(0, 1000);
    return all;
  }
  const json drawn = json::parse(text);
  for (size_t i = 0; i < all.size(); ++i) {
    all[i] = {drawn[i]["text"],      drawn[i]["html"],    drawn[i]["hover"],
              drawn[i]["unchecked"], drawn[i]["scripts"], drawn[i]["errors"]};
  }
  return all;
}

Drawn Draw(const json& bench) { return Draw(std::vector<json>{bench})[0]; }

size_t Count(absl::string_view text, absl::string_view what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++count;
  return count;
}

// What is true of every page: its script comes to its end, adds no script, and says nothing that is
// no word.
void ExpectSound(const std::vector<Drawn>& pages) {
  for (const Drawn& page : pages) {
    EXPECT_EQ(page.errors, "");
    EXPECT_EQ(page.scripts, 2u);
    EXPECT_THAT(page.text, HasSubstr("Restoring a virtual machine"));
    for (const char* const bad : {"NaN", "null", "undefined", "Infinity", "[object"}) {
      EXPECT_EQ(page.html.find(bad), page.html.npos) << bad << " in\n" << page.html;
    }
  }
}

// Has nothing to do with a browser.
TEST(BenchReport, HoldsTheFiguresInOneFileThatNeedsNothingElse) {
  json bench = Bench();
  bench["snapshot"]["path"] = "</script><!--@BENCH_JSON@\u2028\u2029";
  const std::string page = ReportHtml(bench);
  EXPECT_EQ(page.substr(0, 15), "<!DOCTYPE html>");
  // The name of a namespace, which nobody asks for.
  constexpr char kSvgNamespace[] = "http://www.w3.org/2000/svg";
  for (const char* const bad : {"http:", "https:", "src=", "url(", "@import", "innerHTML"}) {
    EXPECT_EQ(Count(absl::StrReplaceAll(page, {{kSvgNamespace, ""}}), bad), 0u) << bad;
  }
  EXPECT_EQ(Count(page, "<noscript><p>This page draws its tables and pictures by a script"), 1u);
  EXPECT_EQ(Count(page, "</script>"), 2u);
  EXPECT_EQ(Count(page, "\u2028") + Count(page, "\u2029"), 0u);
  const std::string before = "id=\"bench\">";
  const size_t begin = page.find(before) + before.size();
  const std::string text = page.substr(begin, page.find("</script>") - begin);
  EXPECT_EQ(text.find('<'), text.npos);
  EXPECT_EQ(json::parse(text), bench);
}

TEST(BenchReport, ReplacesWhatIsNotUtf8) {
  json bench = Bench();
  bench["snapshot"]["path"] = "/tmp/\xff";
  EXPECT_THAT(ReportHtml(bench), HasSubstr("\"path\":\"/tmp/\ufffd\""));
}

// What a reader sees of each page. Skipped where nobody can look.
class BenchReportDrawn : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNoBrowser().empty()) GTEST_SKIP() << WhyNoBrowser();
  }
};

TEST_F(BenchReportDrawn, OpensAsAFile) {
  const std::string path = testing::TempDir() + "/index.html";
  std::ofstream(path) << ReportHtml(Bench());
  const std::string dom = DumpDom(path);
  EXPECT_THAT(dom, HasSubstr("<h2 id=\"ratios\">Ratios and their bars</h2>"));
  EXPECT_EQ(Count(dom, "<svg class=\"map\""), 4u);
}

// Every contestant, ratio and limit of a run of `ramjet bench --quick --json --pictures`.
TEST_F(BenchReportDrawn, ShowsEveryRowOfARealRun) {
  const json bench = json::parse(std::ifstream("tests/corpus/bench.json"));
  const Drawn page = Draw(bench);
  ExpectSound({page});
  size_t missed = 0;
  for (const json& ratio : bench["ratios"]) {
    const std::string name = ratio["name"];
    const std::string bar =
        absl::StrReplaceAll(std::string(ratio["bar"]), {{">=", "≥"}, {"<=", "≤"}});
    const bool measured = ratio["met"].is_boolean();
    const bool met = measured && ratio["met"].get<bool>();
    missed += measured && !met ? 1 : 0;
    const size_t row = page.text.find("\n" + name + "\t");
    ASSERT_NE(row, page.text.npos) << name;
    const std::string shown = page.text.substr(row, 400);
    EXPECT_THAT(shown, HasSubstr(bar));
    EXPECT_THAT(shown, HasSubstr(!measured ? "not measured" : met ? "✓ met" : "✗ missed"));
  }
  EXPECT_EQ(Count(page.text, "✗ missed"), missed);
  for (const json& limit : bench["limits"]) {
    EXPECT_THAT(page.text, HasSubstr(absl::StrCat("\n", std::string(limit["name"]), "\t",
                                                  limit["threads"].get<int>(), "\t")));
  }
  EXPECT_FALSE(bench["summary"].empty());
  for (const json& summary : bench["summary"]) {
    EXPECT_THAT(page.text, HasSubstr("\n" + std::string(summary["contestant"]) + "\t"));
  }
  EXPECT_FALSE(bench["pictures"].empty());
  EXPECT_EQ(Count(page.html, "<svg class=\"map\""), bench["pictures"].size());
  EXPECT_EQ(Count(page.html, " resident after "), bench["pictures"].size());
}

TEST_F(BenchReportDrawn, SaysWhatWasMeasuredAndWhere) {
  const Drawn page = Draw(Bench());
  ExpectSound({page});
  for (const char* const expected :
       {"Some CPU", "2 CPUs", "8 GiB", "Linux 6.18.5", "ext4", "/tmp/guest.mr", "1 GiB of guest",
        "424 MiB of it not zero", "5 rounds", "full-read", "ramjet", "warm cache", "cold cache",
        "210 ms", "189–315 ms", "3.00 ms", "6.10 µs", "disk-direct", "1.81 GB/s"}) {
    EXPECT_THAT(page.text, HasSubstr(expected));
  }
  EXPECT_THAT(page.text, HasSubstr("A guest in our own VM: reads a random 25 %"));
  EXPECT_THAT(page.text, HasSubstr("first line of output; in our own VM, until 100 touches"));
}

TEST_F(BenchReportDrawn, JudgesEachRatio) {
  const std::string text = Draw(Bench()).text;
  EXPECT_THAT(text, HasSubstr("1 met, 1 missed; 1 of them unreliable"));
  EXPECT_THAT(text, HasSubstr("resume: full-read / ramjet\twarm\t25.5\t≥ 30\t✗ missed\n"
                              "⚠ unreliable\n\tthe disk\n"));
  EXPECT_THAT(text, HasSubstr("demand faults\t\t0.012\t≤ 0.02\t✓ met\t\n"));
  EXPECT_THAT(text, HasSubstr("huge pages\t\t–\t≥ 0.9\tnot measured\t\n"));
}

TEST_F(BenchReportDrawn, LeavesOutAColumnThatAppliesToNobody) {
  const std::string text = Draw(Bench()).text;
  const size_t table = text.find("Medians, warm cache");
  ASSERT_NE(table, text.npos);
  const std::string header = text.substr(table, 100);
  EXPECT_THAT(header, HasSubstr("to resume\tstall p50\tread"));  // first work is not there
}

TEST_F(BenchReportDrawn, DrawsALineForEachContestant) {
  const std::string page = Draw(Bench()).html;
  EXPECT_EQ(Count(page, "<g class=\"line k5\"><title>ramjet: 800 MiB resident after 100 ms"), 2u);
  EXPECT_EQ(Count(page, "<g class=\"line k2\"><title>full-read: 800 MiB resident"), 2u);
  EXPECT_EQ(Count(page, "<g class=\"line k5\"><title>ramjet: the longest stall is 1.00 ms"), 2u);
  // At 3 ms of 100, 24 MiB of 800, where the guest runs.
  EXPECT_EQ(Count(page, "<circle class=\"ring\" r=\"5\" cx=\"73.8\""), 2u);
  EXPECT_THAT(page, HasSubstr(">10 µs</text>"));
  EXPECT_THAT(page, HasSubstr(">512 MiB</text>"));
}

TEST_F(BenchReportDrawn, CutsALineThatGoesOnForLong) {
  json bench = Bench();
  bench["pictures"][0]["resident"] = {{0.0, 0}, {10.0, 800 << 20}};
  const Drawn drawn = Draw(bench);
  ExpectSound({drawn});
  const std::string& page = drawn.html;
  EXPECT_THAT(page, HasSubstr("warm cache; full-read ends at 10.0 s</figcaption>"));
  EXPECT_THAT(page, HasSubstr(">200 ms</text>"));
  EXPECT_THAT(page, Not(HasSubstr(">2 s</text>")));
}

TEST_F(BenchReportDrawn, MapsMemoryInAddressOrder) {
  const Drawn drawn = Draw(Bench());
  const std::string& page = drawn.html;
  EXPECT_EQ(Count(page, "viewBox=\"0 0 4 2\""), 4u);
  // The later, the higher the level. A run ends with its row.
  EXPECT_EQ(Count(page, "<path class=\"working-set l0\" d=\"M0 0.5h2\"></path>"), 4u);
  EXPECT_EQ(Count(page, "<path class=\"demand l5\" d=\"M2 0.5h1\"></path>"), 4u);
  EXPECT_EQ(Count(page, "<path class=\"zero l0\" d=\"M3 0.5h1M0 1.5h1\"></path>"), 4u);
  EXPECT_EQ(Count(page, "<path class=\"eager l3\" d=\"M1 1.5h2\"></path>"), 4u);
  EXPECT_EQ(drawn.hover,
            "at 0.00 MiB: working set, after 1.5 ms\nat 128.00 MiB: working set, after 1.5 ms\n"
            "at 256.00 MiB: on demand, after 60.0 ms\nat 384.00 MiB: zero\nat 512.00 MiB: zero\n"
            "at 640.00 MiB: eager, after 30.0 ms\nat 768.00 MiB: eager, after 30.0 ms\n"
            "at 896.00 MiB: present, after 0.0 ms\n");
  EXPECT_THAT(page, HasSubstr("working set 25.0 %, demand 12.5 %, eager 25.0 %, present 12.5 %"));
}

TEST_F(BenchReportDrawn, SaysWhoFailedAndWhy) {
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
  const Drawn page = Draw(bench);
  ExpectSound({page});
  EXPECT_THAT(page.text, HasSubstr("one-page\t✗ failed exit status 1: no memory"));
  EXPECT_THAT(page.text, HasSubstr("map-private\t✗ failed exit status 1: no memory"));
  EXPECT_EQ(Count(page.html, "✗ failed"), 2u);
}

TEST_F(BenchReportDrawn, SaysThatItIsNotOfAllRounds) {
  json bench = Bench();
  bench["interrupted"] = nullptr;
  EXPECT_THAT(Draw(bench).text, Not(HasSubstr("Interrupted")));
  bench["interrupted"] = "Ctrl-C";
  bench["planned_rounds"] = 7;
  const std::string text = Draw(bench).text;
  EXPECT_THAT(text, HasSubstr("Interrupted: Ctrl-C · 7 rounds were planned"));
}

TEST_F(BenchReportDrawn, WithoutPicturesNothingIsSaidOfThem) {
  json bench = Bench();
  bench.erase("pictures");
  const Drawn page = Draw(bench);
  ExpectSound({page});
  EXPECT_THAT(page.html, Not(HasSubstr("<figure")));
  EXPECT_THAT(page.text, Not(HasSubstr("Resident memory over time")));
  EXPECT_THAT(page.text, HasSubstr("3.00 ms"));
}

TEST_F(BenchReportDrawn, WithoutAnythingIsStillAPage) {
  const std::vector<Drawn> pages =
      Draw(std::vector<json>{json(), json::object(), {{"schema", "ramjet.bench/1"}}});
  ExpectSound(pages);
  for (const Drawn& page : pages) EXPECT_EQ(Count(page.html, "<h2"), 0u);
}

TEST_F(BenchReportDrawn, LeavesOutWhatIsNotOfTheSchema) {
  const json bad[] = {json(),      json(true),       json("text"),  json(-1), json(std::nan("")),
                      json(1e300), json::array({1}), json::object()};
  std::vector<json> benches;
  for (const char* const key : {"machine", "snapshot", "limits", "summary", "failures", "ratios",
                                "pictures", "rounds", "interrupted"}) {
    for (const json& value : bad) {
      json bench = Bench();
      bench[key] = value;
      benches.push_back(bench);
      bench[key] = json::array({value});
      benches.push_back(bench);
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
      benches.push_back(bench);
    }
  }
  ExpectSound(Draw(benches));
}

TEST_F(BenchReportDrawn, HidesWhomTheReaderUnchecks) {
  const std::string text = Draw(Bench()).unchecked;  // without full-read
  EXPECT_THAT(text, Not(HasSubstr("\nfull-read\t")));
  EXPECT_THAT(text, HasSubstr("\nramjet\t"));
}

TEST_F(BenchReportDrawn, EscapesEveryString) {
  const std::string hostile = "</title></svg>\"'><script>alert(1)</script>&amp;\x01";
  json bench = Bench();
  const json flat = bench.flatten();
  for (const auto& [path, value] : flat.items()) {
    if (value.is_string() && path.find("/cells/") == path.npos) {
      bench[json::json_pointer(path)] = hostile;
    }
  }
  EXPECT_THAT(ReportHtml(bench), Not(HasSubstr("<script>alert")));
  const Drawn page = Draw(bench);
  ExpectSound({page});
  EXPECT_EQ(Count(page.html, "<script"), 0u);
  EXPECT_THAT(page.text, HasSubstr("Snapshot </title></svg>\"'><script>alert(1)</script>&amp;"));
}

}  // namespace
}  // namespace ramjet::bench
