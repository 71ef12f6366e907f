// Restores of the embedded VM (tools/demo_vm), timed like those of QEMU (restore_timing.h) on
// machines that have none.
//
// Who competes: "stock" reads the whole file before the guest runs, as VMMs do without ramjet;
// "ramjet" loads it lazily, with eager threads. From the moment when the file is opened run
//   to_resume      until the guest has executed its first instruction;
//   to_first_work  until it has read a word of 1 % of its pages, chosen at random;
//   to_resident    until all memory is there: for stock when it has been read, for ramjet when the
//                  load is complete and ramjet out of the way.
// After each restore the guest sums up all of its memory, which is not timed.
#ifndef RAMJET_TOOLS_EMBEDDED_RESTORE_H_
#define RAMJET_TOOLS_EMBEDDED_RESTORE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/restore_timing.h"

namespace ramjet {

struct EmbeddedRestores {
  std::string backend;         // "kvm", "thread"
  std::string backend_reason;  // why not KVM; else empty
  std::vector<Restore> restores;
  bool equal_memory = false;  // each restored guest has found the sum that it had when it was saved
};

// Makes a guest whose memory is full of random numbers, saves it as `snapshot`, and restores it
// `rounds` times in each way from each cache state. Who comes first changes from round to round.
absl::StatusOr<EmbeddedRestores> TimeEmbeddedRestores(uint64_t memory_mib, int vcpus, int rounds,
                                                      const std::string& snapshot,
                                                      const ShowStep& show_step);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_EMBEDDED_RESTORE_H_
