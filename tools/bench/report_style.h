// How the report looks, and what it does in a browser: its style sheet and its script.
//
// The classes are given by report.cc and report_pictures.cc.
#ifndef RAMJET_TOOLS_BENCH_REPORT_STYLE_H_
#define RAMJET_TOOLS_BENCH_REPORT_STYLE_H_

namespace ramjet::bench {

// Neither holds "<" or "&": the page is XML too, and they stand in it as they are.
extern const char kReportStyle[];
// Without it nothing is lost but the filter and the maps' hovering.
extern const char kReportScript[];

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_REPORT_STYLE_H_
