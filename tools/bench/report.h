// The result of `ramjet bench`, for a reader with a browser.
#ifndef RAMJET_TOOLS_BENCH_REPORT_H_
#define RAMJET_TOOLS_BENCH_REPORT_H_

#include <string>

#include "nlohmann/json.hpp"

namespace ramjet::bench {

// One page of HTML that needs nothing else: tables, pictures, and what they mean. The page holds
// all of `bench`, and its script draws it: `bench` is of schema ramjet.bench/1; what is missing in
// it, or is not what the schema says, is left out. No string of `bench` can become markup.
std::string ReportHtml(const nlohmann::json& bench);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_REPORT_H_
