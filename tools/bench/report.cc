#include "tools/bench/report.h"

#include "absl/strings/str_replace.h"
#include "tools/bench/report_template.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

// JSON in which nothing can end the script element that it stands in, or begin a comment there.
// U+2028 and U+2029 end a line of a script, though not one of JSON.
std::string JsonForScript(const json& value) {
  return absl::StrReplaceAll(
      value.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace),
      {{"<", "\\u003c"}, {"\u2028", "\\u2028"}, {"\u2029", "\\u2029"}});
}

}  // namespace

std::string ReportHtml(const json& bench) {
  return absl::StrReplaceAll(kReportTemplate, {{"@BENCH_JSON@", JsonForScript(bench)}});
}

}  // namespace ramjet::bench
