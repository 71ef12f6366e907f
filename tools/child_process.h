// A program that runs beside this one and never outlives it.
#ifndef RAMJET_TOOLS_CHILD_PROCESS_H_
#define RAMJET_TOOLS_CHILD_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tools/fd.h"

namespace ramjet {

// Standard input is /dev/null; standard output and error are kept in memory. The program is in a
// process group of its own, so that Ctrl-C reaches only us. It is killed by the destructor, and by
// the kernel when the thread that started it ends.
//
// Owned by one thread. Movable.
class ChildProcess {
 public:
  // argv[0] is looked up in PATH. `inherited_fds` stay open in the program under the same numbers.
  // NotFound if there is no such program.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& argv,
                                            const std::vector<int>& inherited_fds = {});

  ChildProcess(ChildProcess&&) = default;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // What the program has written so far.
  std::string Stdout() const { return ReadWhole(stdout_.get()); }
  std::string Stderr() const { return ReadWhole(stderr_.get()); }

  // The exit status as a shell gives it (128 + N for signal N), or DeadlineExceeded.
  absl::StatusOr<int> Wait(absl::Time deadline);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  pid_t pid_;
  UniqueFd pidfd_;
  UniqueFd stdout_;
  UniqueFd stderr_;
  std::optional<int> exit_status_;
};

struct CommandResult {
  int exit_status = 0;
  std::string out;
  std::string err;
};

// Starts a program and waits for its end.
absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& argv, absl::Time deadline,
                                         const std::vector<int>& inherited_fds = {});

}  // namespace ramjet

#endif  // RAMJET_TOOLS_CHILD_PROCESS_H_
