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
// that is a terminal. Returns the exit status: 0 also if bars were missed, 1 if anybody could not
// be measured to the end, 130 after Ctrl-C.
//
// Who fails is left out from then on and named with the reason; the others go on. Ctrl-C ends the
// rounds after the load in hand, a second one at once; the complete rounds are shown either way.
int RunBench(const BenchOptions& options);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_BENCH_H_
