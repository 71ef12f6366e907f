// Loads into a real QEMU, a fresh one each.
//
//   stock          QEMU's own load
//   stock-multifd  the same with multifd, 2 channels
//   ramjet         under `ramjet run`
//   ramjet-ws      the same with a working set that was recorded once
//   floor          stock's load of a copy without content, of a guest that stays paused
//
// Times are those of restore_timing.h. Processor time is that of all threads but the vCPUs', until
// everything is there.
#ifndef RAMJET_TOOLS_BENCH_QEMU_BENCH_H_
#define RAMJET_TOOLS_BENCH_QEMU_BENCH_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/bench/measurement.h"
#include "tools/qemu_process.h"

namespace ramjet::bench {

struct QemuGuest {
  std::string snapshot;
  std::string uri_options = {};  // behind file:PATH: ",offset=N"
  std::string emulator = "qemu-system-x86_64";
  std::vector<std::string> args = {};  // of the machine
  uint64_t ram_bytes = 0;              // of its largest block
  uint64_t nonzero_bytes = 0;
  // Of the test guest: the last tick before it was saved. Of others nullopt: their first work is
  // the first line on the serial port, if one comes soon.
  std::optional<uint64_t> last_tick = {};
};

// Owned by one thread.
class QemuBench {
 public:
  // `directory` takes what has to be made; `ramjet` is the path of the command.
  QemuBench(QemuGuest guest, const std::string& directory, std::string ramjet);

  // Makes what `contestant` needs, once.
  absl::Status Prepare(const std::string& contestant);
  // REQUIRES: prepared.
  absl::StatusOr<WatchedRun> Time(const Case& of, bool picture);

 private:
  QemuOptions OptionsFor(const std::string& contestant) const;
  absl::Status RecordWorkingSet() const;
  std::optional<absl::Time> WaitForFirstWork(const SerialConsole& serial);

  const QemuGuest guest_;
  const std::string stats_path_;
  const std::string cleared_copy_;
  const std::string working_set_;
  const std::string ramjet_;
  bool guest_is_silent_ = false;
};

// A machine that was never booted and has 64 MiB of content, however large it is.
struct SparseMachine {
  uint64_t memory_mib = 0;
  std::string snapshot;  // of it

  // Makes the snapshot and a copy without content; `directory` takes files for the time of the
  // call.
  absl::Status Save(const std::string& directory) const;
  // Seconds until it could resume, paused, under `ramjet`, from a warm cache.
  absl::StatusOr<double> TimeResume(const std::string& ramjet) const;
  // The same of QEMU's own load of the copy.
  absl::StatusOr<double> TimeFloor() const;
};

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_QEMU_BENCH_H_
