// A process of its own in which the kernel denies a system call.
#ifndef RAMJET_TESTS_SECCOMP_TESTING_H_
#define RAMJET_TESTS_SECCOMP_TESTING_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"

namespace ramjet {

// A system call, or only that use of it in which the low half of an argument has a value.
struct Denial {
  int number;
  std::optional<int> argument = std::nullopt;
  uint32_t value = 0;
};

// From now on each of these fails with `error` in this process, in threads that are running, too.
void Deny(const std::vector<Denial>& denials, int error);

// Runs `run` in a forked child. Returns its exit status, which `run` returns if it does not exit by
// itself; or -N if signal N has ended it: SIGALRM, after half a minute.
int RunInChild(absl::FunctionRef<int()> run);

}  // namespace ramjet

#endif  // RAMJET_TESTS_SECCOMP_TESTING_H_
