// `ramjet demo`: the whole story on this machine, side by side with QEMU's own load, or, without
// QEMU, with that of a small VM of our own.
#ifndef RAMJET_TOOLS_DEMO_H_
#define RAMJET_TOOLS_DEMO_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tools/demo_report.h"

namespace ramjet {

struct DemoOptions {
  bool json = false;
  // Not with QEMU but with a VM of our own (tools/demo_vm), all of whose memory is random.
  bool embedded = false;
  // Of the guest; with QEMU about two fifths of it are filled with random bytes. 0: 1024, embedded
  // 256.
  uint64_t memory_mib = 0;
  int vcpus = 1;  // of the embedded VM
  int rounds = 3;
  bool keep = false;  // leave the snapshot and the last statistics behind, and say where
  // Not KVM unless asked for: where it is emulated, a Linux guest does not boot in minutes.
  std::string accel = "tcg";
};

// Boots a guest, saves it, and restores it in turn with and without ramjet. Progress goes to stderr
// if that is a terminal. FailedPrecondition with one line for each thing that this machine lacks.
absl::StatusOr<DemoResult> MeasureDemo(const DemoOptions& options);

// MeasureDemo() for a command line: one table (or one JSON object, schema ramjet.demo/1) on stdout,
// errors on stderr. Returns the exit status: 0 only if the restored memory was equal.
int RunDemo(const DemoOptions& options);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_DEMO_H_
