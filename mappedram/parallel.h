// Does one piece of work on several threads.
#ifndef RAMJET_MAPPEDRAM_PARALLEL_H_
#define RAMJET_MAPPEDRAM_PARALLEL_H_

#include "absl/functional/function_ref.h"

namespace ramjet {

// As many as suit the machine, if `wanted` is 0; never more than 64.
unsigned ThreadCount(unsigned wanted);

// Calls `work` on that many threads at once, of which the caller is one, and returns when all of
// them have. Where a thread cannot be started, there are fewer. Signals are left to the program's
// own threads.
void RunOnThreads(unsigned threads, absl::FunctionRef<void()> work);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_PARALLEL_H_
