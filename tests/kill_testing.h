// What the tests share that end loads in the middle. Brings a main() that understands --runs N.
#ifndef RAMJET_TESTS_KILL_TESTING_H_
#define RAMJET_TESTS_KILL_TESTING_H_

#include <sys/types.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// From the moment when an end begins until nothing is left: more is a hang on the busiest machine.
// What it really takes is printed.
inline constexpr absl::Duration kHang = absl::Seconds(10);

// What --runs says: of each test.
int RunsInAll();

// A random part of it.
absl::Duration Part(std::mt19937_64& random, absl::Duration whole);

// A directory with nothing but a snapshot in it.
class KillTest : public ::testing::Test {
 public:
  static constexpr uint64_t kPages = 16384;
  static std::vector<PageRun> Content() {
    return {{1, 5000}, {5100, 300}, {6000, 10000}, {16383, 1}};
  }

 protected:
  void SetUp() override;
  void TearDown() override;
  std::vector<std::string> Files() const;

  std::string directory_;
  std::string snapshot_;
};

// A child process, with the reading end of its stdout.
struct Child {
  pid_t pid;
  int out;

  // The next byte it says, or 0 if it says no more within `patience`.
  char Hear(absl::Duration patience) const;
};

// With `directory` as the place for temporary files.
Child Start(std::vector<std::string> command, const std::string& directory);

// Kills and reaps it; says how long that took. `status` becomes how it ended.
absl::Duration Kill(const Child& child, int& status);

}  // namespace ramjet

#endif  // RAMJET_TESTS_KILL_TESTING_H_
