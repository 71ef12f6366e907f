// The vCPUs of the benchmark's own VM as KVM's (tools/demo_vm): the same touches, by a guest.
//
// Beside the snapshot's memory the guest has some of its own, behind it: the code, which pages to
// touch, and for each touch the time-stamp counter after it. So what is timed is what the guest
// sees, and nothing but the touched pages is needed of the snapshot.
#ifndef RAMJET_TOOLS_BENCH_KVM_TOUCHER_H_
#define RAMJET_TOOLS_BENCH_KVM_TOUCHER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tools/bench/workload.h"

namespace ramjet::bench {

// OK, or why there cannot be such vCPUs here.
absl::Status KvmIsHere();
// What makes times of them doubtful here: KVM runs the guest instruction by instruction. Empty:
// nothing.
std::string DoubtsAboutKvm();

// One for each vCPU of `workload`, which outlives them, as does `memory`. InvalidArgument: more
// memory than a 32-bit guest has.
absl::StatusOr<std::vector<std::unique_ptr<Toucher>>> MakeKvmTouchers(const Workload& workload,
                                                                      absl::Span<uint8_t> memory,
                                                                      uint64_t page_size);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_KVM_TOUCHER_H_
