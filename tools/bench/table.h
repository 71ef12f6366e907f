// What `ramjet bench` prints on a terminal.
#ifndef RAMJET_TOOLS_BENCH_TABLE_H_
#define RAMJET_TOOLS_BENCH_TABLE_H_

#include <string>

#include "nlohmann/json.hpp"
#include "tools/bench/measurement.h"

namespace ramjet::bench {

// Conditions, a table for each workload and cache state, limits, ratios and warnings. `bench` is of
// schema ramjet.bench/1, `summary` that of its runs.
std::string BenchTable(const nlohmann::json& bench, const Summary& summary);

// Conditions, a row for each figure, and what they come to. `bench` is of schema
// ramjet.bench-against/1.
std::string AgainstTable(const nlohmann::json& bench);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_TABLE_H_
