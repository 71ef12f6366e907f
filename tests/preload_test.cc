// The preload library in a process that loads a snapshot as QEMU does: preload_client.cc has the
// situations, this the verdict.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Situation {
  const char* name;
  // What makes QEMU's own read of the block necessary, as it is said on stderr; empty: it is loaded
  // lazily.
  const char* refusal = "";
};
std::ostream& operator<<(std::ostream& out, const Situation& situation) {
  return out << situation.name;
}

class PreloadTest : public ::testing::TestWithParam<Situation> {};

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST_P(PreloadTest, Invariant10EveryByteIsRightAndTheWayIsTold) {
  SKIP_WITHOUT_USERFAULTFD();
  const std::string stem = ::testing::TempDir() + "/preload_" + GetParam().name;
  const bool as_nobody = std::string(GetParam().name).find("without_permission") == 0;
  if (as_nobody && getuid() != 0) GTEST_SKIP() << "only root can give up its permission";
  const bool with_devices = std::string(GetParam().name).find("pinning_") == 0;
  if (with_devices && getuid() != 0) GTEST_SKIP() << "only root can have a /dev of its own";
  const std::string snapshot = stem + ".mr", errors = stem + ".err";
  // Where nobody, too, may write.
  char directory[] = "/tmp/ramjet_preload_test.XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  ASSERT_EQ(chmod(directory, 0777), 0);
  const std::string stats_path = std::string(directory) + "/stats.json";
  SnapshotContent content;
  content.blocks.push_back({.idstr = "pc.ram",
                            .used_length = 1024 * HostPageBytes(),
                            .page_size = HostPageBytes(),
                            .nonzero = {{3, 1}, {8, 500}, {600, 420}}});
  content.devices.push_back({.name = "timer", .payload = "ticking"});
  ASSERT_TRUE(WriteSnapshot(content, snapshot).ok());

  const std::string command = "tools/ramjet run --eager=off --stats " + stats_path +
                              " -- tests/preload_client " + snapshot + " " + GetParam().name +
                              " 2>" + errors;
  const int status = std::system(command.c_str());
  const std::string said = ReadFile(errors);
  ASSERT_EQ(WEXITSTATUS(status), 0) << said;

  const auto stats = nlohmann::json::parse(ReadFile(stats_path), nullptr, false);
  std::filesystem::remove_all(directory);
  ASSERT_TRUE(stats.is_object());
  const bool lazy = *GetParam().refusal == '\0';
  EXPECT_EQ(stats["mode"], lazy ? "lazy" : "stock") << stats;
  EXPECT_EQ(stats["blocks"][0]["lazy"], lazy) << stats;
  if (lazy) {
    EXPECT_THAT(said, IsEmpty());
    EXPECT_TRUE(stats["fallback"].is_null());
    EXPECT_EQ(stats["complete"], true) << stats;
    const auto& pages = stats["pages"];
    EXPECT_EQ(pages["eager"].get<int>() + pages["faulted"].get<int>() + pages["zero"].get<int>() +
                  pages["removed"].get<int>() + pages["poisoned"].get<int>(),
              pages["total"].get<int>())
        << stats;
  } else {
    EXPECT_THAT(said, HasSubstr("ramjet: block \"pc.ram\" is read by QEMU itself: "));
    EXPECT_THAT(said, HasSubstr(GetParam().refusal));
    EXPECT_THAT(stats["fallback"].get<std::string>(), HasSubstr(GetParam().refusal));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Situations, PreloadTest,
    ::testing::Values(Situation{"preadv64"}, Situation{"preadv"}, Situation{"pread64"},
                      Situation{"pread"}, Situation{"by_threads"}, Situation{"punch_before_load"},
                      Situation{"discard_private_before_load"}, Situation{"pass_during_load"},
                      Situation{"pass_before_load", "shared with another process"},
                      Situation{"cut_snapshot_during_load"},
                      Situation{"second_load", "populated already"},
                      Situation{"second_load_during_first", "populated already"},
                      Situation{"into_a_heap", "not one mapping of its own"},
                      Situation{"private_mapping_of_a_file", "private mapping"},
                      Situation{"prealloc", "populated already"},
                      Situation{"mlock", "(prealloc or mlock)"},
                      Situation{"named_file", "/dev/shm/"},
                      Situation{"pinning_vfio", "a device that pins guest memory is in use"},
                      Situation{"pinning_vdpa", "a device that pins guest memory is in use"},
                      Situation{"kernel_writes"}, Situation{"without_permission_later"},
                      Situation{"without_permission", "no permission to serve page faults"}),
    [](const auto& param) { return std::string(param.param.name); });

// A program that has nothing to do with snapshots runs as ever, and no statistics pretend that
// there was a load.
TEST(Preload, AProgramThatLoadsNothingIsUntouched) {
  const std::string stats_path = ::testing::TempDir() + "/nothing.json";
  EXPECT_EQ(WEXITSTATUS(std::system(
                ("tools/ramjet run --stats " + stats_path + " -- sh -c 'exit 7'").c_str())),
            7);
  EXPECT_THAT(ReadFile(stats_path), IsEmpty());
}

TEST(Preload, ExportsOnlyWhatItInterposes) {
  FILE* const nm = popen("nm -D --defined-only --format=posix tools/libramjet_preload.so", "r");
  std::set<std::string> symbols;
  char line[256];
  while (std::fgets(line, sizeof(line), nm) != nullptr) {
    symbols.insert(std::string(line).substr(0, std::string(line).find(' ')));
  }
  pclose(nm);
  EXPECT_THAT(symbols, ::testing::UnorderedElementsAre("fallocate", "fallocate64", "ftruncate",
                                                       "ftruncate64", "pread", "pread64", "preadv",
                                                       "preadv64", "readv", "sendmsg"));
}

}  // namespace
}  // namespace ramjet
