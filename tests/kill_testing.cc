#include "tests/kill_testing.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

int runs_in_all = 100;  // main() sets it

}  // namespace

int RunsInAll() { return runs_in_all; }

absl::Duration Part(std::mt19937_64& random, absl::Duration whole) {
  return whole * std::uniform_real_distribution<double>(0, 1)(random);
}

void KillTest::SetUp() {
  SKIP_WITHOUT_USERFAULTFD();
  directory_ = ::testing::TempDir() + "/kill_test.XXXXXX";
  ASSERT_NE(mkdtemp(directory_.data()), nullptr);
  snapshot_ = directory_ + "/vm.mr";
  SnapshotContent content;
  content.blocks.push_back({.idstr = "pc.ram",
                            .used_length = kPages * HostPageBytes(),
                            .page_size = HostPageBytes(),
                            .nonzero = Content()});
  content.devices.push_back({.name = "timer", .payload = "ticking"});
  const absl::Status written = WriteSnapshot(content, snapshot_);
  ASSERT_TRUE(written.ok()) << written;
}

void KillTest::TearDown() {
  if (!directory_.empty()) std::filesystem::remove_all(directory_);
}

std::vector<std::string> KillTest::Files() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

char Child::Hear(absl::Duration patience) const {
  pollfd ready{.fd = out, .events = POLLIN, .revents = 0};
  char what = 0;
  if (poll(&ready, 1, static_cast<int>(absl::ToInt64Milliseconds(patience))) <= 0) return 0;
  return read(out, &what, 1) == 1 ? what : '\0';
}

Child Start(std::vector<std::string> command, const std::string& directory) {
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  int out[2];
  EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(out[1], STDOUT_FILENO);
    setenv("TMPDIR", directory.c_str(), 1);
    setenv("TEST_TMPDIR", directory.c_str(), 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(out[1]);
  return {pid, out[0]};
}

// Kills and reaps it; says how long that took. `status` becomes how it ended.
absl::Duration Kill(const Child& child, int& status) {
  const absl::Time killed = absl::Now();
  kill(child.pid, SIGKILL);
  while (waitpid(child.pid, &status, WNOHANG) == 0) {
    // By itself waitpid() knows no timeout.
    if (absl::Now() - killed > absl::Seconds(30)) {
      ADD_FAILURE() << "process " << child.pid << " cannot be reaped";
      break;
    }
    absl::SleepFor(absl::Microseconds(200));
  }
  return absl::Now() - killed;
}

}  // namespace ramjet

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  if (argc == 3 && std::strcmp(argv[1], "--runs") == 0) {
    ramjet::runs_in_all = std::atoi(argv[2]);
  } else if (argc != 1) {
    std::cerr << "usage: " << argv[0] << " [--runs N]\n";
    return 2;
  }
  return RUN_ALL_TESTS();
}
