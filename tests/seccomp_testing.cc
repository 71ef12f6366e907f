#include "tests/seccomp_testing.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace ramjet {

void Deny(const std::vector<Denial>& denials, int error) {
  constexpr auto kNumber = static_cast<uint32_t>(offsetof(seccomp_data, nr));
  std::vector<sock_filter> program;
  for (const Denial& denial : denials) {
    const auto jump = static_cast<uint8_t>(denial.argument ? 3 : 1);
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kNumber));
    program.push_back(
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(denial.number), 0, jump));
    if (denial.argument) {
      const auto offset = static_cast<uint32_t>(
          offsetof(seccomp_data, args) + sizeof(uint64_t) * static_cast<size_t>(*denial.argument));
      program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset));
      program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, denial.value, 0, 1));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) != 0) {
    std::perror("seccomp");
    std::abort();
  }
}

int RunInChild(absl::FunctionRef<int()> run) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) std::abort();
  if (child == 0) {
    alarm(30);
    const int status = run();
    std::fflush(nullptr);
    _exit(status);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace ramjet
