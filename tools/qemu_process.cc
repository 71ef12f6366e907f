#include "tools/qemu_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace ramjet {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);
// QEMU closes its sockets a little before it is gone.
constexpr absl::Duration kExitGrace = absl::Seconds(5);

struct SocketPair {
  UniqueFd ours;
  UniqueFd theirs;
};

absl::StatusOr<SocketPair> MakeSocketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  return SocketPair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// A guest whose serial line is full waits, or drops what it says. A socket counts hundreds of bytes
// for each byte that is sent alone.
void MakeRoom(int socket) {
  const int bytes = 16 << 20;
  if (setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) == 0) return;
  setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));  // as much as we may
}

void Append(std::vector<std::string>& to, std::vector<std::string> words) {
  for (std::string& word : words) to.push_back(std::move(word));
}

}  // namespace

absl::StatusOr<std::unique_ptr<QemuProcess>> QemuProcess::Start(const QemuOptions& options) {
  absl::StatusOr<SocketPair> monitor = MakeSocketPair();
  if (!monitor.ok()) return monitor.status();
  absl::StatusOr<SocketPair> serial = MakeSocketPair();
  if (!serial.ok()) return serial.status();
  MakeRoom(serial->theirs.get());

  std::vector<std::string> argv = options.launcher;
  argv.push_back(options.emulator);
  Append(argv, options.args);
  Append(argv, {"-chardev", absl::StrCat("socket,id=ramjet-monitor,fd=", monitor->theirs.get()),
                "-mon", "chardev=ramjet-monitor,mode=control", "-chardev",
                absl::StrCat("socket,id=ramjet-serial,fd=", serial->theirs.get()), "-serial",
                "chardev:ramjet-serial"});
  if (!options.daemon_pidfile.empty()) {
    Append(argv, {"-daemonize", "-pidfile", options.daemon_pidfile});
  }
  std::vector<int> inherited_fds = options.inherited_fds;
  inherited_fds.push_back(monitor->theirs.get());
  inherited_fds.push_back(serial->theirs.get());

  absl::StatusOr<ChildProcess> child = ChildProcess::Start(argv, inherited_fds);
  if (!child.ok()) return child.status();
  std::unique_ptr<QemuProcess> qemu(new QemuProcess(*std::move(child)));
  monitor->theirs = UniqueFd();
  serial->theirs = UniqueFd();
  qemu->serial_ = std::make_unique<SerialConsole>(std::move(serial->ours));

  const absl::Time deadline = absl::Now() + kStartTimeout;
  if (!options.daemon_pidfile.empty()) {
    const absl::Status daemonized = qemu->BecomeDaemon(options.daemon_pidfile);
    if (!daemonized.ok()) return qemu->Explain(daemonized);
  }
  absl::StatusOr<std::unique_ptr<QmpClient>> qmp =
      QmpClient::Open(std::move(monitor->ours), deadline);
  if (!qmp.ok()) return qemu->Explain(qmp.status());
  qemu->qmp_ = *std::move(qmp);
  return qemu;
}

QemuProcess::~QemuProcess() {
  if (daemon_pidfd_.valid()) {
    syscall(SYS_pidfd_send_signal, daemon_pidfd_.get(), SIGKILL, nullptr, 0);
  }
}

absl::Status QemuProcess::BecomeDaemon(const std::string& pidfile) {
  const absl::StatusOr<int> exit_status = child_.Wait(absl::Now() + kStartTimeout);
  if (!exit_status.ok()) return exit_status.status();
  const UniqueFd file(open(pidfile.c_str(), O_RDONLY | O_CLOEXEC));
  pid_t pid = 0;
  if (*exit_status != 0 || !file.valid() || !absl::SimpleAtoi(ReadWhole(file.get()), &pid)) {
    return absl::UnavailableError("QEMU did not become a daemon");
  }
  daemon_pid_ = pid;
  daemon_pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> QemuProcess::Execute(absl::string_view command,
                                                    const nlohmann::json& arguments) {
  absl::StatusOr<nlohmann::json> answer = qmp_->Execute(command, arguments);
  if (!answer.ok()) return Explain(answer.status());
  return answer;
}

absl::StatusOr<QmpEvent> QemuProcess::WaitForEvent(absl::string_view name, absl::Time deadline) {
  absl::StatusOr<QmpEvent> event = qmp_->WaitForEvent(name, deadline);
  if (!event.ok()) return Explain(event.status());
  return event;
}

absl::Status QemuProcess::Explain(const absl::Status& status) {
  std::string words(status.message());
  if (absl::IsUnavailable(status)) {
    const absl::StatusOr<int> exit_status = child_.Wait(absl::Now() + kExitGrace);
    if (exit_status.ok()) absl::StrAppend(&words, "; exit status ", *exit_status);
  }
  const std::string last_words = Stderr();
  if (!last_words.empty()) {
    absl::StrAppend(&words, "; QEMU said: ", absl::StripSuffix(last_words, "\n"));
  }
  return absl::Status(status.code(), words);
}

}  // namespace ramjet
