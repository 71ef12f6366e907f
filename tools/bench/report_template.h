// tools/bench/report.html, which the build turns into a string.
#ifndef RAMJET_TOOLS_BENCH_REPORT_TEMPLATE_H_
#define RAMJET_TOOLS_BENCH_REPORT_TEMPLATE_H_

namespace ramjet::bench {

// "@BENCH_JSON@" stands in it once, where the object of `ramjet bench --json` belongs.
extern const char kReportTemplate[];

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_REPORT_TEMPLATE_H_
