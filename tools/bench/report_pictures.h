// The pictures of the report, as SVG. Their colours are classes, which the page's style defines.
#ifndef RAMJET_TOOLS_BENCH_REPORT_PICTURES_H_
#define RAMJET_TOOLS_BENCH_REPORT_PICTURES_H_

#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace ramjet::bench {

// Elements of "pictures", all of them of one workload and one state of the cache.
using Pictures = std::vector<const nlohmann::json*>;

// Each is empty if there is nothing to draw.
// `resumed`: by contestant, seconds after which the guest runs.
std::string ResidentChart(const Pictures& pictures, const std::map<std::string, double>& resumed,
                          const std::string& caption);
std::string StallChart(const Pictures& pictures, const std::string& caption);
// Each contestant's, in a row.
std::string MemoryMaps(const Pictures& pictures, double ram_bytes);

// What the maps' colours mean.
std::string MemoryMapLegend();

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_REPORT_PICTURES_H_
