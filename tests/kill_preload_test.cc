// Killed at any moment under `ramjet run`, a process leaves nothing but whole statistics.
//
//   bazel run //tests:kill_preload_test -- --runs 1000
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/kill_testing.h"

namespace ramjet {
namespace {

TEST_F(KillTest, AProcessKilledUnderRamjetRunLeavesNothing) {
  std::mt19937_64 random(std::random_device{}());
  absl::Duration longest;
  absl::Duration whole;
  int killed = 0;
  const std::string stats = directory_ + "/stats.json";
  const std::vector<std::string> command = {
      "tools/ramjet",         "run",     "--stats",  stats,       "--",
      "tests/preload_client", snapshot_, "preadv64", "-incoming", "defer"};
  for (int run = -1; run < RunsInAll(); ++run) {
    const absl::Time began = absl::Now();
    const Child child = Start(command, directory_);
    int status = 0;
    if (run < 0) {
      ASSERT_EQ(waitpid(child.pid, &status, 0), child.pid);
      ASSERT_EQ(WEXITSTATUS(status), 0);
      whole = absl::Now() - began;
    } else {
      absl::SleepFor(Part(random, whole));
      const absl::Duration took = Kill(child, status);
      EXPECT_LT(took, kHang);
      longest = std::max(longest, took);
      killed += WIFSIGNALED(status);
    }
    close(child.out);
    ASSERT_FALSE(std::filesystem::exists("/proc/" + std::to_string(child.pid) + "/task"));
    for (const std::string& name : Files()) {
      EXPECT_TRUE(name == "vm.mr" || name == "stats.json") << name << " is left";
    }
    if (std::ifstream file(stats); file) {
      EXPECT_FALSE(nlohmann::json::parse(file, nullptr, false).is_discarded())
          << "half of the statistics";
    }
    std::filesystem::remove(stats);
  }
  std::cout << killed << " of " << RunsInAll()
            << " killed before their end; longest from kill to reaped: " << longest << "\n";
}

}  // namespace
}  // namespace ramjet
