#include "tools/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

// Between fork and exec only async-signal-safe calls are allowed: everything is prepared before.
struct Prepared {
  std::vector<char*> argv;
  const std::vector<int>& inherited_fds;
  pid_t parent;
  int stdin_fd;
  int stdout_fd;
  int stderr_fd;
  int failure_fd;
};

[[noreturn]] void Become(const Prepared& prepared) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != prepared.parent) _exit(127);  // it ended before the line above
  setpgid(0, 0);
  dup2(prepared.stdin_fd, STDIN_FILENO);
  dup2(prepared.stdout_fd, STDOUT_FILENO);
  dup2(prepared.stderr_fd, STDERR_FILENO);
  for (const int fd : prepared.inherited_fds) fcntl(fd, F_SETFD, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execvp(prepared.argv[0], prepared.argv.data());
  const int error = errno;
  if (write(prepared.failure_fd, &error, sizeof(error)) < 0) _exit(126);
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                                 const std::vector<int>& inherited_fds) {
  std::vector<char*> raw_argv;
  raw_argv.reserve(argv.size() + 1);
  for (const std::string& word : argv) raw_argv.push_back(const_cast<char*>(word.c_str()));
  raw_argv.push_back(nullptr);

  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  UniqueFd out(memfd_create("stdout", MFD_CLOEXEC));
  UniqueFd err(memfd_create("stderr", MFD_CLOEXEC));
  int failure_pipe[2];
  if (!null.valid() || !out.valid() || !err.valid() || pipe2(failure_pipe, O_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot start ", argv[0]));
  }
  const UniqueFd failure_out(failure_pipe[0]);
  UniqueFd failure_in(failure_pipe[1]);

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
  if (pid == 0) {
    Become({std::move(raw_argv), inherited_fds, parent, null.get(), out.get(), err.get(),
            failure_in.get()});
  }
  ChildProcess child(pid);
  child.pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  child.stdout_ = std::move(out);
  child.stderr_ = std::move(err);
  if (!child.pidfd_.valid()) return absl::ErrnoToStatus(errno, "pidfd_open");

  failure_in = UniqueFd();
  int error = 0;
  if (read(failure_out.get(), &error, sizeof(error)) > 0) {
    return absl::ErrnoToStatus(error, absl::StrCat("cannot run ", argv[0]));
  }
  return child;
}

ChildProcess::~ChildProcess() {
  if (!pidfd_.valid()) return;  // moved from
  if (!exit_status_.has_value()) {
    kill(pid_, SIGKILL);  // not reaped yet, so the pid is still its own
    waitpid(pid_, nullptr, 0);
  }
}

absl::StatusOr<int> ChildProcess::Wait(absl::Time deadline) {
  if (exit_status_.has_value()) return *exit_status_;
  const absl::Status ended = WaitReadable(pidfd_.get(), deadline, "end of the program");
  if (!ended.ok()) return ended;
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) return absl::ErrnoToStatus(errno, "waitpid");
  exit_status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return *exit_status_;
}

absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& argv, absl::Time deadline,
                                         const std::vector<int>& inherited_fds) {
  absl::StatusOr<ChildProcess> child = ChildProcess::Start(argv, inherited_fds);
  if (!child.ok()) return child.status();
  const absl::StatusOr<int> exit_status = child->Wait(deadline);
  if (!exit_status.ok()) return exit_status.status();
  return CommandResult{*exit_status, child->Stdout(), child->Stderr()};
}

}  // namespace ramjet
