// What leaves an emulator while it loads a snapshot, by exec or in a message, is complete; and what
// `ramjet run` has put into its environment does not leave it at all. preload_client.cc has the
// situations.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "tests/qemu_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class PreloadExec : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SnapshotContent content;
    content.blocks.push_back({.idstr = "pc.ram",
                              .used_length = 1024 * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = {{3, 1}, {8, 500}, {600, 420}}});
    content.devices.push_back({.name = "timer", .payload = "ticking"});
    ASSERT_TRUE(WriteSnapshot(content, snapshot_).ok());
    std::remove(stats_.c_str());
  }

  // Its exit status; what it says is in said_. With `tail` behind it, in a pipe for instance.
  int Run(const std::string& command, const std::string& tail = "") {
    const int status = std::system(("tools/ramjet run --eager=off --stats " + stats_ + " -- " +
                                    command + " 2>" + errors_ + tail)
                                       .c_str());
    said_ = ReadFile(errors_);
    return WEXITSTATUS(status);
  }
  std::string Client(const std::string& situation) const {
    return "tests/preload_client " + snapshot_ + " " + situation + " -incoming defer";
  }
  void ExpectLazyAndComplete() const {
    const auto stats = nlohmann::json::parse(ReadFile(stats_), nullptr, false);
    ASSERT_TRUE(stats.is_object()) << ReadFile(stats_);
    EXPECT_EQ(stats["mode"], "lazy") << stats;
    EXPECT_EQ(stats["complete"], true) << stats;
    EXPECT_EQ(stats["errors"].size(), 0u) << stats;
  }

  const std::string snapshot_ = ::testing::TempDir() + "/exec.mr";
  const std::string stats_ = ::testing::TempDir() + "/exec.json";
  const std::string errors_ = ::testing::TempDir() + "/exec.err";
  std::string said_;
};

// QEMU's cpr-exec became its successor in the middle of a load: the memory went along in inherited
// memfds, whoever would have filled it did not, and pages of it were zeros for ever.
TEST_P(PreloadExec, WhatLeavesIsComplete) {
  EXPECT_EQ(Run(Client(GetParam())), 0) << said_;
  EXPECT_THAT(said_, IsEmpty());
  ExpectLazyAndComplete();
}

INSTANTIATE_TEST_SUITE_P(Situations, PreloadExec,
                         ::testing::Values("exec_itself", "execve", "execv", "execvp", "execvpe",
                                           "execl", "execlp", "execle", "fexecve", "execveat",
                                           "exec_after_vfork", "spawn", "spawn_with_a_copy",
                                           "system", "popen", "start_helpers", "pass_by_sendmmsg",
                                           "pass_in_a_child", "malformed_messages"),
                         [](const auto& param) { return std::string(param.param); });

using PreloadExecWords = PreloadExec;

// A block that a child has inherited before it is loaded is read by the VMM itself.
TEST_F(PreloadExecWords, WhatHasLeftIsNotLazy) {
  EXPECT_EQ(Run(Client("inherit_before_load")), 0) << said_;
  EXPECT_EQ(said_,
            "ramjet: block \"pc.ram\" is read by QEMU itself: its memory is shared with another "
            "process\n");
}

// The VM that loads is killed while a child of it waits to exec: what is owed never comes, so there
// is no exec.
TEST_F(PreloadExecWords, NoExecWithMemoryThatNeverComes) {
  // The child outlives the process that the shell waits for, and closes the pipe when it has ended.
  Run(Client("die_while_a_child_waits"), " | cat");
  EXPECT_EQ(said_,
            "ramjet: exec refused: the new program would inherit guest memory that was not loaded "
            "to the end, and the VM that was loading it has ended\npreload_client: refused\n");
}

// What QEMU started, or became, inherited LD_PRELOAD and all variables: helpers loaded the library
// and opened the device, and a successor took the settings for its own. What others preload stays.
TEST_F(PreloadExecWords, NothingOfOursIsInTheEnvironmentOfWhatTheEmulatorStarts) {
  const std::string out = ::testing::TempDir() + "/environment";
  ASSERT_EQ(Run("sh -c 'LD_PRELOAD=$LD_PRELOAD:libm.so.6 OURS=1 tests/preload_client "
                "show_environment'",
                " >" + out),
            0)
      << said_;
  const std::string shown = ReadFile(out);
  EXPECT_THAT(shown, Not(HasSubstr("RAMJET")));
  EXPECT_THAT(shown, Not(HasSubstr("libramjet")));
  size_t programs = 0;
  for (size_t at = 0; (at = shown.find("OURS=1\n", at)) != std::string::npos; ++at) ++programs;
  EXPECT_EQ(programs, 3u) << shown;
  EXPECT_THAT(shown, HasSubstr("LD_PRELOAD=libm.so.6\n"));
  ASSERT_EQ(Run("tests/preload_client show_environment", " >" + out), 0) << said_;
  EXPECT_THAT(ReadFile(out), Not(HasSubstr("LD_PRELOAD")));
}

// The same of real QEMU, which runs a command to get its stream from.
TEST_F(PreloadExecWords, NothingOfOursIsInWhatQemuStarts) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string out = ::testing::TempDir() + "/qemu_environment";
  Run("timeout 60 qemu-system-x86_64 -display none -nodefaults -machine none -incoming 'exec:exec "
      ">" +
      out + "; env; ls -l /proc/self/fd; cat /proc/self/maps; echo END; kill $PPID'");
  const std::string shown = ReadFile(out);
  EXPECT_THAT(shown, HasSubstr("END"));
  EXPECT_THAT(shown, Not(HasSubstr("RAMJET")));
  EXPECT_THAT(shown, Not(HasSubstr("LD_PRELOAD")));
  EXPECT_THAT(shown, Not(HasSubstr("libramjet")));
  EXPECT_THAT(shown, Not(HasSubstr("userfaultfd")));
}

// Programs between `ramjet run` and the emulator hand on what they do not need themselves.
TEST_F(PreloadExecWords, ScriptsAndProgramsBetweenHandTheSettingsOn) {
  const std::string script = ::testing::TempDir() + "/emulator.sh";
  std::ofstream(script) << "#!/bin/sh\nsleep 0\n\"$@\"\n";
  ASSERT_EQ(chmod(script.c_str(), 0755), 0);
  const std::string python =
      "python3 -c 'import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))'";
  const std::string between[] = {script, "env A=1", "sh -c 'exec \"$0\" \"$@\"'",
                                 "nice sh -c '\"$0\" \"$@\"'", python};
  for (const std::string& programs : between) {
    std::remove(stats_.c_str());
    EXPECT_EQ(Run(programs + " " + Client("preadv64")), 0) << programs << said_;
    EXPECT_THAT(said_, IsEmpty()) << programs;
    ExpectLazyAndComplete();
  }
}

}  // namespace
}  // namespace ramjet
