// What `ramjet run` and the preload library say, where, and what they leave alone.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "tests/qemu_testing.h"
#include "tests/snapshot_content.h"
#include "tools/error_line.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// In a directory of its own.
class PreloadWords : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(std::system(("rm -rf '" + directory_ + "'").c_str()), 0);
    ASSERT_EQ(mkdir(directory_.c_str(), 0755), 0);
    ASSERT_TRUE(WriteSnapshot(Content(), snapshot_).ok());
    std::ofstream(directory_ + "/quit") << "quit\n";
  }
  static SnapshotContent Content() {
    SnapshotContent content;
    content.blocks.push_back({.idstr = "pc.ram",
                              .used_length = 1024 * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = {{8, 500}}});
    content.devices.push_back({.name = "timer", .payload = "ticking"});
    return content;
  }
  int Run(const std::string& arguments) {
    const std::string errors = directory_ + "/errors";
    const int status = std::system(("tools/ramjet run " + arguments + " 2>" + errors).c_str());
    said_ = ReadFile(errors);
    return WEXITSTATUS(status);
  }

  const std::string directory_ = ::testing::TempDir() + "/words";
  const std::string snapshot_ = directory_ + "/vm.mr";
  const std::string stats_ = directory_ + "/stats.json";
  std::string said_;
};

// An operator who had forgotten --image-format, or whose copy was padded, learned nothing from the
// log: the load was as slow as ever, and --stats alone said why.
TEST_F(PreloadWords, FileThatIsNotLoadedLazilyIsNamedInOneLine) {
  SKIP_WITHOUT_USERFAULTFD();
  EXPECT_EQ(Run("-- tests/preload_client " + snapshot_ + " padded_file -incoming defer"), 0)
      << said_;
  EXPECT_THAT(said_, MatchesRegex("ramjet: this load is not lazy, but QEMU's own: [^\n]*vm.mr: "
                                  "[^\n]*\n"));
}

// A name with a line break made two lines of an error, the second of which was anybody's.
TEST_F(PreloadWords, ErrorIsOneLineWhateverTheFilesName) {
  EXPECT_EQ(ErrorLine("a\nb\t\x1b[31m\x7f"), "ramjet: a\\nb\\x09\\x1b[31m\\x7f\n");
  EXPECT_EQ(ErrorLine("Größe", "ramjet bench"), "ramjet bench: Größe\n");
  EXPECT_EQ(Run("--checksums '" + directory_ + "/no\nsuch' -- true"), 1);
  EXPECT_THAT(said_, MatchesRegex("ramjet: [^\n]*/no\\\\nsuch: [^\n]*\n"));
  const std::string inspect = "tools/ramjet inspect '" + directory_ + "/no\nsuch' 2>" + stats_;
  EXPECT_EQ(WEXITSTATUS(std::system(inspect.c_str())), 1);
  EXPECT_THAT(ReadFile(stats_), MatchesRegex("ramjet: [^\n]*/no\\\\nsuch: [^\n]*\n"));
}

// libvirt asks an emulator what it can; each such probe deleted the statistics of the last load.
TEST_F(PreloadWords, OldStatisticsGoWhenThereIsToBeALoadAndNotBefore) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string run = "--stats " + stats_;
  const std::string qemu = " -- timeout 60 qemu-system-x86_64 -nodefaults -display none ";
  std::ofstream(stats_) << "old";
  EXPECT_EQ(Run(run + qemu + "-version >/dev/null"), 0) << said_;
  EXPECT_EQ(Run(run + qemu + "-machine none -monitor stdio <" + directory_ + "/quit >/dev/null"), 0)
      << said_;
  EXPECT_EQ(ReadFile(stats_), "old");
  Run(run + qemu + "-machine none -incoming defer -no-such-option");
  EXPECT_FALSE(std::filesystem::exists(stats_));
  std::ofstream(stats_) << "old";
  Run(run + " --incoming " + snapshot_ + " -- /no/such/emulator");
  EXPECT_FALSE(std::filesystem::exists(stats_));
}

// QEMU takes what follows ",offset=" in a URI for a number: it refused the name, or opened another
// file.
TEST_F(PreloadWords, NameOfASnapshotMayContainWhatQemuTakesForAnOffset) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  const std::string file = directory_ + "/a,offset=4";
  const std::string saved = directory_ + "/saved";
  const std::string qemu = " timeout 60 qemu-system-x86_64 -nodefaults -display none -m 32 -S ";
  std::ofstream(directory_ + "/save")
      << "migrate_set_capability mapped-ram on\nmigrate file:" << saved << "\nquit\n";
  ASSERT_EQ(std::system((qemu + "-monitor stdio <" + directory_ + "/save >/dev/null").c_str()), 0);
  std::filesystem::rename(saved, file);
  // The monitor is read after the load, which begins with QEMU's main loop.
  EXPECT_EQ(Run("--stats " + stats_ + " --incoming '" + file + "' --" + qemu + "-monitor stdio <" +
                directory_ + "/quit >/dev/null"),
            0);
  EXPECT_THAT(said_, IsEmpty());
  EXPECT_THAT(ReadFile(stats_), HasSubstr("\"complete\":true"));
}

// One that could not be removed kept every domain from starting.
TEST_F(PreloadWords, OldStatisticsThatCannotBeRemovedStopNobody) {
  if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
  ASSERT_EQ(mkdir(stats_.c_str(), 0755), 0);  // unlink() does not remove it
  EXPECT_EQ(Run("--stats " + stats_ + " --incoming " + snapshot_ + " -- sh -c 'exit 7'"), 7);
  EXPECT_THAT(said_, MatchesRegex("ramjet: the old [^\n]*/stats.json stays, [^\n]*\n"));
  EXPECT_EQ(Run("--stats " + stats_ +
                " -- timeout 60 qemu-system-x86_64 -nodefaults -display none -machine none "
                "-incoming defer "
                "-monitor stdio <" +
                directory_ + "/quit >/dev/null"),
            0);
  EXPECT_THAT(said_, MatchesRegex("ramjet: the old [^\n]*/stats.json stays, [^\n]*\n"));
}

}  // namespace
}  // namespace ramjet
