// A QEMU that this program started, with its monitor and its serial line.
#ifndef RAMJET_TOOLS_QEMU_PROCESS_H_
#define RAMJET_TOOLS_QEMU_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tools/child_process.h"
#include "tools/fd.h"
#include "tools/qmp_client.h"
#include "tools/serial_console.h"

namespace ramjet {

struct QemuOptions {
  std::vector<std::string> launcher;  // what stands before the emulator: {"ramjet", "run", "--"}
  std::string emulator = "qemu-system-x86_64";
  // All but the monitor and the first serial port. Both are handed over as connected sockets: no
  // path in the file system, and nobody has to poll for it to appear.
  std::vector<std::string> args;
  std::vector<int> inherited_fds;
  std::string daemon_pidfile;  // not empty: adds -daemonize, and -pidfile with this path
};

// Killed by the destructor. Owned by one thread.
class QemuProcess {
 public:
  // Returns when the monitor answers. An error carries what QEMU said on standard error.
  static absl::StatusOr<std::unique_ptr<QemuProcess>> Start(const QemuOptions& options);
  ~QemuProcess();
  QemuProcess(const QemuProcess&) = delete;
  QemuProcess& operator=(const QemuProcess&) = delete;

  pid_t pid() const { return daemon_pid_.value_or(child_.pid()); }
  const SerialConsole& serial() const { return *serial_; }
  std::string Stderr() const { return child_.Stderr(); }

  // As QmpClient's, but errors also say whether QEMU has ended, and its last words.
  absl::StatusOr<nlohmann::json> Execute(
      absl::string_view command, const nlohmann::json& arguments = nlohmann::json::object());
  absl::StatusOr<QmpEvent> WaitForEvent(absl::string_view name, absl::Time deadline);

  // The exit status after QEMU has ended by itself (of the first process, if it is a daemon).
  absl::StatusOr<int> WaitForExit(absl::Time deadline) { return child_.Wait(deadline); }

 private:
  explicit QemuProcess(ChildProcess child) : child_(std::move(child)) {}

  absl::Status BecomeDaemon(const std::string& pidfile);
  absl::Status Explain(const absl::Status& status);

  ChildProcess child_;
  std::optional<pid_t> daemon_pid_;
  UniqueFd daemon_pidfd_;
  std::unique_ptr<QmpClient> qmp_;
  std::unique_ptr<SerialConsole> serial_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_QEMU_PROCESS_H_
