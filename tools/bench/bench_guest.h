// The guest whose snapshot is loaded over and over: the user's, or one made for the purpose.
#ifndef RAMJET_TOOLS_BENCH_BENCH_GUEST_H_
#define RAMJET_TOOLS_BENCH_BENCH_GUEST_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "tools/bench/bench_options.h"
#include "tools/bench/conditions.h"
#include "tools/bench/qemu_bench.h"
#include "tools/restore_timing.h"

namespace ramjet::bench {

struct BenchGuest {
  std::string snapshot;
  SnapshotSummary summary;
  std::optional<QemuGuest> qemu;  // nullopt: nobody has said which QEMU it is of
};

// The snapshot that `options` names; without one, a test guest is booted, filled and saved into
// `directory`. FailedPrecondition has a line for each thing that this machine lacks for it.
absl::StatusOr<BenchGuest> FindGuest(const BenchOptions& options, const std::string& directory,
                                     const std::string& ramjet, const ShowStep& show_step);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_BENCH_GUEST_H_
