// `ramjet bench`: every way to load a snapshot, side by side, in one run.
#ifndef RAMJET_TOOLS_BENCH_BENCH_H_
#define RAMJET_TOOLS_BENCH_BENCH_H_

#include <string>
#include <vector>

#include "tools/bench/bench_options.h"

namespace ramjet::bench {

// What can be named in BenchOptions.
const std::vector<std::string>& ContestantNames();
const std::vector<std::string>& WorkloadNames();

// Tables, or one JSON object (schema ramjet.bench/1), on stdout; errors on stderr, and progress if
// that is a terminal. Returns the exit status: 0 also if bars were missed.
int RunBench(const BenchOptions& options);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_BENCH_H_
