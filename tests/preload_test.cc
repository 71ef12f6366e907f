// The preload library in a process that loads a snapshot as QEMU does: preload_client.cc has the
// situations, this the verdict.
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

struct Situation {
  const char* name;
  // What makes QEMU's own read of the block necessary, as it is said on stderr; empty: it is loaded
  // lazily.
  const char* refusal = "";
  bool lazy = *refusal == '\0';  // false without a refusal: nothing is said
  // What else is said; empty: nothing; nullptr: that does not matter.
  const char* note = "";
};
Situation MayNote(const char* name) { return {.name = name, .note = nullptr}; }
std::ostream& operator<<(std::ostream& out, const Situation& situation) {
  return out << situation.name;
}

class PreloadTest : public ::testing::TestWithParam<Situation> {};

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A device's state that the guest has filled with the first bytes of a stream.
std::string Magic() {
  std::string magic;
  while (magic.size() < 64 << 10) magic += "QEVM";
  return magic;
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
  content.devices.push_back({.name = "nic", .payload = Magic()});
  ASSERT_TRUE(WriteSnapshot(content, snapshot).ok());

  const std::string command = "tools/ramjet run --eager=off --stats " + stats_path +
                              " -- tests/preload_client " + snapshot + " " + GetParam().name +
                              " -incoming defer 2>" + errors;
  const int status = std::system(command.c_str());
  const std::string said = ReadFile(errors);
  ASSERT_EQ(WEXITSTATUS(status), 0) << said;

  const auto stats = nlohmann::json::parse(ReadFile(stats_path), nullptr, false);
  std::filesystem::remove_all(directory);
  ASSERT_TRUE(stats.is_object());
  ASSERT_EQ(stats["blocks"].size(), 1u) << stats;
  const bool lazy = GetParam().lazy;
  EXPECT_EQ(stats["mode"], lazy ? "lazy" : "stock") << stats;
  EXPECT_EQ(stats["blocks"][0]["lazy"], lazy) << stats;
  EXPECT_EQ(stats["errors"].size(), 0u) << stats;
  EXPECT_EQ(stats["complete"], true) << stats;
  if (*GetParam().refusal == '\0') {
    const char* const note = GetParam().note;
    if (note != nullptr && *note == '\0') {
      EXPECT_THAT(said, IsEmpty());
      EXPECT_THAT(stats["notes"], IsEmpty()) << stats;
    } else if (note != nullptr) {
      EXPECT_THAT(said, StartsWith("ramjet: /"));
      EXPECT_THAT(said, HasSubstr(std::string("/preload_") + GetParam().name + ".mr: "));
      EXPECT_THAT(said, HasSubstr(note));
      EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
      EXPECT_EQ(stats["notes"].size(), 1) << stats;
    }
    EXPECT_TRUE(stats["fallback"].is_null()) << stats;
    const auto& pages = stats["pages"];
    EXPECT_EQ(pages["eager"].get<int>() + pages["faulted"].get<int>() + pages["zero"].get<int>() +
                  pages["removed"].get<int>() + pages["poisoned"].get<int>(),
              pages["total"].get<int>())
        << stats;
  } else {
    EXPECT_THAT(said, HasSubstr("ramjet: block \"pc.ram\" is read by QEMU itself: "));
    EXPECT_THAT(said, HasSubstr(GetParam().refusal));
    EXPECT_THAT(stats["fallback"].dump(), HasSubstr(GetParam().refusal));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Situations, PreloadTest,
    ::testing::Values(
        Situation{"preadv64"}, Situation{"preadv"}, Situation{"pread64"}, Situation{"pread"},
        Situation{"by_threads"}, Situation{"punch_before_load"},
        Situation{"discard_private_before_load"}, Situation{"pass_during_load"},
        Situation{"pass_before_load", "shared with another process"},
        Situation{.name = "cut_snapshot_during_load",
                  .note = "there is no lease on it (somebody has the file open for "
                          "writing)"},
        Situation{.name = "snapshot_overwritten_during_load",
                  .note = "somebody wants to write to it, and waits"},
        Situation{.name = "snapshot_edited_during_load",
                  .note = "somebody wants to write to it, and waits"},
        Situation{"snapshot_touched_during_load"}, Situation{"second_load"},
        Situation{"second_load_during_first"},
        Situation{"into_a_heap", "not one mapping of its own"},
        Situation{"private_mapping_of_a_file", "private mapping"},
        Situation{"prealloc", "populated already"}, Situation{"mlock", "(prealloc or mlock)"},
        Situation{"named_file", "/dev/shm/"},
        Situation{"pinning_vfio", "a device that pins guest memory is in use"},
        Situation{"pinning_vdpa", "a device that pins guest memory is in use"},
        Situation{"pinning_udmabuf", "memory is in use (/dev/udmabuf)"},
        Situation{"pinning_rdma", "memory is in use (/dev/infiniband/uverbs0)"},
        Situation{"pinning_mshv", "memory is in use (/dev/mshv)"},
        Situation{"pinning_nitro", "memory is in use (/dev/nitro_enclaves)"},
        Situation{"pinning_sev", "memory is in use (/dev/sev)"}, Situation{"kernel_writes"},
        Situation{.name = "without_permission_later",
                  .note = "there is no lease on it (it takes the file's owner or "
                          "CAP_LEASE): whoever writes to it before it is loaded ends "
                          "the VM"},
        Situation{"without_permission", "no permission to serve page faults"},
        Situation{"load_again_after_failure"}, Situation{.name = "holds_an_image", .lazy = false},
        Situation{"unmap_during_load"}, Situation{"mlock_on_fault", "locked in memory (mlock)"},
        Situation{"lazy_by_itself", "turn the capability postcopy-ram off"},
        Situation{"lazy_by_itself_early", "turn the capability postcopy-ram off"}),
    [](const auto& param) { return std::string(param.param.name); });

// The number that begins a stream, in bytes that the guest or its peers have chosen, began a
// session.
INSTANTIATE_TEST_SUITE_P(Invariant11, PreloadTest,
                         ::testing::Values(Situation{"magic_in_the_devices"},
                                           Situation{"magic_from_others"}),
                         [](const auto& param) { return std::string(param.param.name); });

// A process that wrote over the snapshot that it was loading from was killed by what it could not
// read any more, in every way but ftruncate.
INSTANTIATE_TEST_SUITE_P(WritingOver, PreloadTest,
                         ::testing::Values(MayNote("open"), MayNote("open64"), MayNote("open64_2"),
                                           MayNote("openat"), MayNote("openat64"), MayNote("creat"),
                                           MayNote("creat64"), MayNote("fopen"), MayNote("fopen64"),
                                           MayNote("freopen"), MayNote("freopen64"),
                                           MayNote("fdopen"), MayNote("truncate"),
                                           MayNote("truncate64"), MayNote("ftruncate64"),
                                           MayNote("write"), MayNote("writev"), MayNote("pwrite"),
                                           MayNote("pwrite64"), MayNote("pwritev"),
                                           MayNote("pwritev64"), MayNote("copy_file_range"),
                                           MayNote("fallocate"), MayNote("fallocate64")),
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

constexpr uint64_t kPage = 4096;

// Who asks for checksums gets nothing into the guest that they do not vouch for.
class PreloadChecksums : public ::testing::Test {
 protected:
  void SetUp() override {
    Write(snapshot_, "ticking", 500);
    Write(other_, "ticked", 500);
  }

  // And its checksums.
  static void Write(const std::string& path, const std::string& state, uint64_t pages) {
    SnapshotContent content;
    content.blocks = {{.idstr = "pc.ram",
                       .used_length = 1024 * kPage,
                       .page_size = kPage,
                       .nonzero = {{8, pages}}}};
    content.devices.push_back({.name = "timer", .payload = state});
    content.devices.push_back({.name = "nic", .payload = Magic()});
    ASSERT_TRUE(WriteSnapshot(content, path).ok());
    std::ofstream(path + ".crc") << EncodeChecksums(*ComputeChecksums(*Open(path)));
  }
  static std::unique_ptr<Snapshot> Open(const std::string& path) {
    return *Snapshot::Open(*File::Open(path));
  }
  void Damage(uint64_t page) const {
    const uint64_t at = Open(snapshot_)->blocks()[0].pages_offset + page * kPage + 5;
    std::fstream file(snapshot_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at)).put('x');
  }

  // Its exit status; what it says is in said_.
  int Run(const std::string& flags, const std::string& command) {
    const std::string errors = snapshot_ + ".err";
    const int status = std::system(
        ("exec tools/ramjet run --eager=off " + flags + " -- " + command + " 2>" + errors).c_str());
    said_ = ReadFile(errors);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  int Load(const std::string& sidecar, const std::string& situation) {
    return Run("--stats " + snapshot_ + ".json --checksums " + sidecar,
               "tests/preload_client " + snapshot_ + " " + situation + " -incoming defer");
  }
  void ExpectOneLine(const std::string& words) const {
    EXPECT_THAT(said_, HasSubstr(words));
    EXPECT_THAT(said_, ::testing::MatchesRegex("ramjet: [^\n]*\n"));
  }

  const std::string snapshot_ = ::testing::TempDir() + "/summed.mr";
  const std::string other_ = ::testing::TempDir() + "/other.mr";
  std::string said_;
};

TEST_F(PreloadChecksums, WhatTheyCannotVouchForIsRefusedBeforeTheVmBegins) {
  const std::string started = snapshot_ + ".started";
  const auto expect_refusal = [&](const std::string& flags, const std::string& words) {
    EXPECT_EQ(Run(flags, "touch " + started), 1) << flags;
    ExpectOneLine(words);
    EXPECT_FALSE(std::filesystem::exists(started)) << flags;
  };
  const std::string incoming = " --incoming " + snapshot_;
  const std::string damaged = snapshot_ + ".damaged";
  std::ofstream(damaged) << ReadFile(snapshot_ + ".crc") << "more";
  expect_refusal("--checksums " + other_ + ".crc" + incoming, "are of another snapshot than");
  expect_refusal("--checksums " + damaged + incoming, damaged + ": ");
  expect_refusal("--checksums " + damaged, damaged + ": ");
  expect_refusal("--checksums " + snapshot_ + ".none" + incoming, "No such file");
  expect_refusal("--checksums " + snapshot_ + ".crc --incoming " + damaged, damaged + ": ");
  EXPECT_EQ(Run("--checksums " + snapshot_ + ".crc", "touch " + started), 0) << said_;
}

TEST_F(PreloadChecksums, SnapshotOfWhichTheyAreNotEndsTheVmThatLoadsIt) {
  EXPECT_EQ(Load(other_ + ".crc", "pread"), 1);
  ExpectOneLine("other.mr.crc: the checksums are of another snapshot than");
  EXPECT_THAT(ReadFile(snapshot_ + ".json"), HasSubstr("are of another snapshot than"));
}

// A stream that comes by a socket was loaded unchecked, without a word.
TEST_F(PreloadChecksums, StreamThatComesFromNoFileEndsTheVm) {
  for (const char* const situation : {"from_a_pipe", "from_a_socket", "by_rdma"}) {
    EXPECT_EQ(Load(snapshot_ + ".crc", situation), 1);
    ExpectOneLine("is no file, and cannot be compared with checksums: the VM is ended");
  }
}

// Bytes that the guest had in a device, or that its peers write to a serial line, ended the VM.
TEST_F(PreloadChecksums, Invariant11BytesThatGuestsChooseEndNoVm) {
  for (const char* const situation : {"magic_in_the_devices", "magic_from_others"}) {
    EXPECT_EQ(Load(snapshot_ + ".crc", situation), 0) << situation << said_;
    EXPECT_THAT(said_, IsEmpty());
  }
  // Nor does a process that awaits no snapshot.
  EXPECT_EQ(Run("--checksums " + snapshot_ + ".crc",
                "tests/preload_client " + snapshot_ + " from_a_pipe"),
            0);
  EXPECT_THAT(said_, IsEmpty());
}

// QEMU 11.2, with postcopy-ram on, loads pages lazily itself, behind the stream's end: unchecked.
TEST_F(PreloadChecksums, QemuThatLoadsLazilyByItselfIsEndedBeforeItsGuestRuns) {
  for (const char* const situation : {"lazy_by_itself", "lazy_by_itself_early"}) {
    EXPECT_EQ(Load(snapshot_ + ".crc", situation), 1);
    EXPECT_THAT(said_, HasSubstr("turn the capability postcopy-ram off to use ramjet: the VM is "
                                 "ended, for it may load nothing unchecked\n"));
    EXPECT_THAT(ReadFile(snapshot_ + ".json"), HasSubstr("postcopy-ram"));
  }
}

// What a stock QEMU loads from elsewhere than a file was loaded unchecked, without a word.
TEST_F(PreloadChecksums, EmulatorThatIsToldToLoadWhatIsNoFileIsNotStarted) {
  const std::string started = snapshot_ + ".not_started";
  const auto run = [&](const std::string& arguments) {
    return Run("--checksums " + snapshot_ + ".crc", "touch " + started + " " + arguments);
  };
  for (const std::string uri :
       {"unix:/tmp/socket", "tcp:0:4444", "vsock:3:4444", "'exec:cat vm.mr'", "fd:0", "fd:77",
        "rdma:host:4444", "'{\"channel-type\":\"main\",\"addr\":{\"transport\":\"exec\"}}'",
        "'{\"channel-type\":\"cpr\",\"addr\":{\"transport\":\"file\"}}'", "'{'"}) {
    for (const std::string option : {"-incoming ", "--incoming "}) {
      EXPECT_EQ(run(option + uri), 1) << uri;
      ExpectOneLine("cannot be compared with checksums; only a snapshot file can");
    }
  }
  EXPECT_EQ(run("-loadvm snapshot"), 1);
  ExpectOneLine("-loadvm snapshot cannot be compared with checksums");
  EXPECT_FALSE(std::filesystem::exists(started));
  const std::string with_arguments = " sh -c 'exit 3' sh ";
  const auto allowed = [&](const std::string& uri) {
    return Run("--checksums " + snapshot_ + ".crc", with_arguments + "-incoming " + uri);
  };
  EXPECT_EQ(allowed("defer"), 3) << said_;
  EXPECT_EQ(allowed("file:" + snapshot_), 3) << said_;
  EXPECT_EQ(allowed("fd:9 9<" + snapshot_), 3) << said_;
  EXPECT_EQ(allowed("'{\"channel-type\":\"main\",\"addr\":{\"transport\":\"file\"}}'"), 3) << said_;
}

// The preload library does not get into these, so they loaded unchecked, without a word.
TEST_F(PreloadChecksums, EmulatorThatCannotBePreloadedIsNotStarted) {
  const std::string emulator = snapshot_ + ".emulator";
  const auto expect_refusal = [&](const std::string& why) {
    EXPECT_EQ(Run("--checksums " + snapshot_ + ".crc", emulator), 1);
    ExpectOneLine(emulator + " cannot be given the preload library");
    EXPECT_THAT(said_, HasSubstr(why));
  };
  const auto become = [&](const std::string& program) {
    std::filesystem::copy_file(program, emulator,
                               std::filesystem::copy_options::overwrite_existing);
  };
  become("/bin/true");
  EXPECT_EQ(Run("--checksums " + snapshot_ + ".crc", emulator), 0) << said_;
  ASSERT_EQ(chmod(emulator.c_str(), 04755), 0);
  expect_refusal("it is setuid or setgid");
  ASSERT_EQ(chmod(emulator.c_str(), 02755), 0);
  expect_refusal("it is setuid or setgid");
  ASSERT_EQ(chmod(emulator.c_str(), 0755), 0);
  const vfs_ns_cap_data capabilities = {
      .magic_etc = VFS_CAP_REVISION_2, .data = {{.permitted = 1, .inheritable = 0}}, .rootid = 0};
  if (setxattr(emulator.c_str(), "security.capability", &capabilities, XATTR_CAPS_SZ_2, 0) == 0) {
    expect_refusal("it has file capabilities");
  } else {
    std::cout << "no file capabilities here: " << std::strerror(errno) << "\n";
  }
  std::filesystem::remove(emulator);
  become("/bin/busybox");  // Debian's busybox-static
  expect_refusal("it is linked statically");
  std::ofstream(emulator) << "\x7f"
                             "ELF\x01";
  expect_refusal("not a program of this machine's own kind");
  std::ofstream(emulator) << "#!/bin/sh\nexit 7\n";  // a wrapper
  EXPECT_EQ(Run("--checksums " + snapshot_ + ".crc", emulator), 7) << said_;
}

// All ways by which the VMM itself reads: their bytes are compared where they have got to.
TEST_F(PreloadChecksums, WhatTheVmReadsItselfIsCompared) {
  for (const char* const situation : {"mlock", "in_two_parts", "named_file"}) {
    EXPECT_EQ(Load(snapshot_ + ".crc", situation), 0) << situation << said_;
  }
  Damage(300);
  for (const char* const situation : {"mlock", "in_two_parts", "named_file"}) {
    EXPECT_EQ(Load(snapshot_ + ".crc", situation), 1) << situation;
    EXPECT_THAT(said_, HasSubstr("pages 288 to 303 of block \"pc.ram\" is not what was saved"));
    EXPECT_THAT(said_, HasSubstr(": the VM is ended, for it may load nothing unchecked\n"));
  }
}

TEST_F(PreloadChecksums, BlockThatIsTooSmallToBeLazyIsCompared) {
  Write(snapshot_, "ticking", 50);
  EXPECT_EQ(Load(snapshot_ + ".crc", "pread"), 0) << said_;
  Damage(20);
  EXPECT_EQ(Load(snapshot_ + ".crc", "pread"), 1);
  ExpectOneLine("pages 16 to 31 of block \"pc.ram\" is not what was saved");
}

// An unreadable page killed QEMU by SIGBUS before a word was said, and no statistics were written.
TEST_F(PreloadChecksums, WhatTheVmDiesOfIsSaidAndWrittenBefore) {
  SKIP_WITHOUT_USERFAULTFD();
  const bool poisons = Userfaultfd::Open()->features().poison;
  Damage(300);
  for (const std::string situation : {"touch_unreadable", "touch_unreadable_shared"}) {
    std::filesystem::remove(snapshot_ + ".json");
    const int status = Load(snapshot_ + ".crc", situation);
    const bool poisoned = poisons && situation == "touch_unreadable";
    EXPECT_EQ(status, poisoned ? 128 + SIGBUS : 1) << said_;
    ExpectOneLine(
        "summed.mr: the content of pages 288 to 303 of block \"pc.ram\" is not what was saved");
    const auto stats = nlohmann::json::parse(ReadFile(snapshot_ + ".json"), nullptr, false);
    ASSERT_TRUE(stats.is_object()) << situation;
    EXPECT_EQ(stats["complete"], false);
    EXPECT_EQ(stats["pages"]["poisoned"], poisoned ? 1 : 0);
    EXPECT_THAT(stats["errors"].dump(), HasSubstr("pages 288 to 303"));
  }
}

TEST(Preload, ExportsOnlyWhatItInterposes) {
  FILE* const nm = popen("nm -D --defined-only --format=posix tools/libramjet_preload.so", "r");
  std::set<std::string> symbols;
  char line[256];
  while (std::fgets(line, sizeof(line), nm) != nullptr) {
    symbols.insert(std::string(line).substr(0, std::string(line).find(' ')));
  }
  pclose(nm);
  EXPECT_THAT(
      symbols,
      ::testing::UnorderedElementsAre(
          "__open64_2", "__open_2", "__openat64_2", "__openat_2", "close", "copy_file_range",
          "creat", "creat64", "execl", "execle", "execlp", "execv", "execve", "execveat", "execvp",
          "execvpe", "fallocate", "fallocate64", "fdopen", "fexecve", "fopen", "fopen64", "freopen",
          "freopen64", "ftruncate", "ftruncate64", "gnutls_record_recv", "open", "open64", "openat",
          "openat64", "pidfd_spawn", "pidfd_spawnp", "popen", "posix_spawn",
          "posix_spawn_file_actions_adddup2", "posix_spawnp", "pread", "pread64", "preadv",
          "preadv64", "pwrite", "pwrite64", "pwritev", "pwritev64", "readv", "recvmsg", "sendmmsg",
          "sendmsg", "system", "truncate", "truncate64", "write", "writev"));
}

}  // namespace
}  // namespace ramjet
