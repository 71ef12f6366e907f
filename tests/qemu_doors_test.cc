// Every way by which a real QEMU comes by a snapshot, under --checksums: what can be compared is,
// and what cannot be is not loaded.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/mappedram_testing.h"
#include "tests/qemu_testing.h"
#include "tools/child_process.h"
#include "tools/fd.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMemoryMib = 64;
constexpr uint64_t kContentBytes = 16 << 20;
constexpr char kNoFile[] = "ramjet: what is loaded is no file, and cannot be compared with";

class QemuDoors : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    guest_.memory_mib = kMemoryMib;
    guest_.devices = {"-device", "e1000,romfile="};
    std::ofstream(scratch_->File("content")) << Noise(kContentBytes);
    // Not a guest that runs: one that has content, and devices.
    QemuOptions options;
    options.args = MachineArgs(guest_);
    for (const std::string& word :
         {std::string("-S"), std::string("-device"),
          absl::StrCat("loader,addr=0x1000000,force-raw=on,file=", scratch_->File("content")),
          std::string("-object"), TlsCredentials("client")}) {
      options.args.push_back(word);
    }
    std::filesystem::create_directory(scratch_->File("psk"));
    std::ofstream(scratch_->File("psk") + "/keys.psk") << "qemu:0123456789abcdef\n";
    absl::StatusOr<std::unique_ptr<QemuProcess>> source = QemuProcess::Start(options);
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
    snapshot_ = scratch_->File("vm.mr");
    sums_ = scratch_->File("vm.crc");
    plain_ = scratch_->File("vm.plain");
    const absl::Status saved = SaveMappedRam(*source_, "file:" + snapshot_);
    ASSERT_TRUE(saved.ok()) << saved;
    Checksum(snapshot_, sums_);
    const absl::Status plain = Send("file:" + plain_);
    ASSERT_TRUE(plain.ok()) << plain;
    // What QEMU alone makes of it.
    TargetOptions target;
    target.guest = guest_;
    const absl::StatusOr<std::unique_ptr<QemuProcess>> stock = StartTarget(target);
    ASSERT_TRUE(stock.ok()) << stock.status();
    ASSERT_TRUE(LoadMappedRam(**stock, "file:" + snapshot_).ok());
    hash_ = Hash(**stock);
  }
  static void TearDownTestSuite() {
    source_ = nullptr;
    scratch_ = nullptr;
  }
  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_TRUE(std::filesystem::exists(plain_));
  }

  static std::string TlsCredentials(const std::string& endpoint) {
    return absl::StrCat("tls-creds-psk,id=tls,dir=", scratch_->File("psk"), ",endpoint=", endpoint,
                        endpoint == "client" ? ",username=qemu" : "");
  }
  static void Checksum(const std::string& snapshot, const std::string& sums) {
    const absl::StatusOr<CommandResult> made =
        RunCommand({RamjetCommand(), "checksum", snapshot, sums}, Soon());
    ASSERT_TRUE(made.ok() && made->exit_status == 0) << made.status();
  }

  // The source sends its guest as a plain stream, and has it again.
  static absl::Status Send(const std::string& uri, const std::string& tls = "") {
    const nlohmann::json mapped_ram = {{"capability", "mapped-ram"}, {"state", false}};
    absl::Status status = source_->Execute("cont").status();
    if (status.ok()) {
      status =
          source_->Execute("migrate-set-capabilities", {{"capabilities", {mapped_ram}}}).status();
    }
    if (status.ok()) {
      status = source_->Execute("migrate-set-parameters", {{"tls-creds", tls}}).status();
    }
    if (status.ok()) status = source_->Execute("migrate", {{"uri", uri}}).status();
    while (status.ok()) {
      const absl::StatusOr<QmpEvent> event = source_->WaitForEvent("MIGRATION", Soon());
      if (!event.ok()) return event.status();
      const std::string now = event->data.value("status", "");
      if (now == "completed" || now == "failed") return absl::OkStatus();
    }
    return status;
  }

  // Awaits a snapshot. `flags` are for `ramjet run`, `args` for QEMU.
  static std::unique_ptr<QemuProcess> Start(const std::vector<int>& inherited_fds = {},
                                            const std::vector<std::string>& flags = {},
                                            const std::vector<std::string>& args = {}) {
    TargetOptions options;
    options.guest = guest_;
    options.stats_path = scratch_->File("stats.json");
    options.ramjet_flags = {"--checksums", sums_};
    options.ramjet_flags.insert(options.ramjet_flags.end(), flags.begin(), flags.end());
    options.args = args;
    options.inherited_fds = inherited_fds;
    absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
    EXPECT_TRUE(qemu.ok()) << qemu.status();
    return qemu.ok() ? *std::move(qemu) : nullptr;
  }

  // QEMU has ended, and said why, before anything could run.
  static void ExpectEnded(QemuProcess& qemu, const std::string& words) {
    const absl::StatusOr<int> exit_status = qemu.WaitForExit(Soon());
    ASSERT_TRUE(exit_status.ok()) << exit_status.status();
    EXPECT_EQ(*exit_status, 1);
    EXPECT_THAT(qemu.Stderr(), HasSubstr(words));
  }
  static std::string Hash(QemuProcess& qemu) {
    const auto hash = HashRam(qemu, PcRam(kMemoryMib), scratch_->File("fifo"));
    return hash.ok() ? *hash : std::string(hash.status().message());
  }
  // Its guest is there, checked and lazy.
  static void ExpectLoaded(QemuProcess& qemu) {
    EXPECT_EQ(Hash(qemu), hash_) << qemu.Stderr();
    EXPECT_THAT(qemu.Stderr(), Not(HasSubstr("ramjet")));
    const auto stats = WaitForCompleteStats(scratch_->File("stats.json"), Soon());
    ASSERT_TRUE(stats.ok()) << stats.status();
    EXPECT_EQ(BlockStats(*stats, "pc.ram")["lazy"], true) << *stats;
  }

  // A socket's address has room for 107 bytes. /proc has a short name for the directory.
  static std::string ShortPath(const std::string& name) {
    static const int directory = open(scratch_->path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    return absl::StrCat("/proc/", getpid(), "/fd/", directory, "/", name);
  }

  static std::string ReadFile(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  // Fills a socket or a pipe with a plain stream, as far as it goes.
  static void Feed(int fd) {
    const std::string stream = ReadFile(plain_).substr(0, 60 << 10);
    EXPECT_EQ(write(fd, stream.data(), stream.size()), static_cast<ssize_t>(stream.size()));
  }
  // Writes over the snapshot itself; a copy takes seconds. Returns what was there.
  static std::string Overwrite(uint64_t offset, std::string bytes) {
    std::fstream file(snapshot_, std::ios::in | std::ios::out | std::ios::binary);
    std::string before(bytes.size(), '\0');
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(before.data(), static_cast<std::streamsize>(before.size()));
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    EXPECT_TRUE(file.flush());
    return before;
  }
  static SnapshotDescription Describe() { return *Snapshot::Describe(*File::Open(snapshot_)); }
  // Where those of pc.ram are.
  static uint64_t Pages() {
    for (const SnapshotBlock& block : Describe().blocks) {
      if (block.idstr == "pc.ram") return block.pages_offset;
    }
    return 0;
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static GuestOptions guest_;
  static std::unique_ptr<QemuProcess> source_;
  static std::string snapshot_;
  static std::string sums_;
  static std::string plain_;  // the same guest as a stream of the old kind
  static std::string hash_;   // of its memory
};

std::unique_ptr<ScratchDir> QemuDoors::scratch_;
GuestOptions QemuDoors::guest_;
std::unique_ptr<QemuProcess> QemuDoors::source_;
std::string QemuDoors::snapshot_;
std::string QemuDoors::sums_;
std::string QemuDoors::plain_;
std::string QemuDoors::hash_;

TEST_F(QemuDoors, File) {
  const std::unique_ptr<QemuProcess> qemu = Start();
  ASSERT_NE(qemu, nullptr);
  ASSERT_TRUE(LoadMappedRam(*qemu, "file:" + snapshot_).ok()) << qemu->Stderr();
  ExpectLoaded(*qemu);
}

TEST_F(QemuDoors, FdsetOfAFile) {
  const UniqueFd file(open(snapshot_.c_str(), O_RDONLY | O_CLOEXEC));
  const std::unique_ptr<QemuProcess> qemu =
      Start({file.get()}, {}, {"-add-fd", absl::StrCat("set=7,fd=", file.get())});
  ASSERT_NE(qemu, nullptr);
  const auto loaded = LoadMappedRam(*qemu, "file:/dev/fdset/7");
  ASSERT_TRUE(loaded.ok()) << loaded.status() << qemu->Stderr();
  ExpectLoaded(*qemu);
}

// QEMU 10 loads only plain streams from there.
TEST_F(QemuDoors, FdOfAFile) {
  const UniqueFd file(open(plain_.c_str(), O_RDONLY | O_CLOEXEC));
  const std::unique_ptr<QemuProcess> qemu = Start({file.get()});
  ASSERT_NE(qemu, nullptr);
  (void)qemu->Execute("migrate-incoming", {{"uri", absl::StrCat("fd:", file.get())}});
  ExpectEnded(*qemu, "the VM is ended, for it may load nothing unchecked");
}

// A plain stream in a file is no snapshot that the sums could be of.
TEST_F(QemuDoors, FileOfThePlainKind) {
  const std::unique_ptr<QemuProcess> qemu = Start();
  ASSERT_NE(qemu, nullptr);
  (void)qemu->Execute("migrate-incoming", {{"uri", "file:" + plain_}});
  ExpectEnded(*qemu, "the VM is ended, for it may load nothing unchecked");
}

TEST_F(QemuDoors, Exec) {
  const std::unique_ptr<QemuProcess> qemu = Start();
  ASSERT_NE(qemu, nullptr);
  (void)qemu->Execute("migrate-incoming", {{"uri", "exec:cat " + plain_}});
  ExpectEnded(*qemu, kNoFile);
}

TEST_F(QemuDoors, FdOfAPipe) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd from(ends[0]), to(ends[1]);
  Feed(to.get());
  const std::unique_ptr<QemuProcess> qemu = Start({from.get()});
  ASSERT_NE(qemu, nullptr);
  (void)qemu->Execute("migrate-incoming", {{"uri", absl::StrCat("fd:", from.get())}});
  ExpectEnded(*qemu, kNoFile);
}

// What came by a socket was loaded unchecked, without a word.
TEST_F(QemuDoors, UnixSocket) {
  const std::unique_ptr<QemuProcess> qemu = Start();
  ASSERT_NE(qemu, nullptr);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string path = ShortPath("socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_TRUE(qemu->Execute("migrate-incoming", {{"uri", "unix:" + path}}).ok());
  const UniqueFd to(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(to.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  Feed(to.get());
  ExpectEnded(*qemu, kNoFile);
}

TEST_F(QemuDoors, TcpSocket) {
  const std::unique_ptr<QemuProcess> qemu = Start();
  ASSERT_NE(qemu, nullptr);
  ASSERT_TRUE(qemu->Execute("migrate-incoming", {{"uri", "tcp:127.0.0.1:0"}}).ok());
  const auto state = qemu->Execute("query-migrate");
  ASSERT_TRUE(state.ok()) << state.status();
  int port = 0;
  ASSERT_TRUE(absl::SimpleAtoi((*state)["socket-address"][0].value("port", ""), &port)) << *state;
  const UniqueFd to(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address{.sin_family = AF_INET,
                            .sin_port = htons(static_cast<uint16_t>(port)),
                            .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)},
                            .sin_zero = {}};
  ASSERT_EQ(connect(to.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  Feed(to.get());
  ExpectEnded(*qemu, kNoFile);
}

TEST_F(QemuDoors, TlsOverASocket) {
  const std::unique_ptr<QemuProcess> qemu = Start({}, {}, {"-object", TlsCredentials("server")});
  ASSERT_NE(qemu, nullptr);
  ASSERT_TRUE(qemu->Execute("migrate-set-parameters", {{"tls-creds", "tls"}}).ok());
  const std::string uri = "unix:" + ShortPath("tls-socket");
  ASSERT_TRUE(qemu->Execute("migrate-incoming", {{"uri", uri}}).ok());
  const absl::Status sent = Send(uri, "tls");
  ASSERT_TRUE(sent.ok()) << sent;
  ExpectEnded(*qemu, kNoFile);
}

// With `--incoming`, a guest with an unchecked byte never runs.
class QemuIncoming : public QemuDoors {
 protected:
  // An emulator, perhaps behind a wrapper.
  static absl::StatusOr<std::unique_ptr<QemuProcess>> Incoming(
      const std::vector<std::string>& wrapper, const std::vector<std::string>& args = {},
      const std::string& sums = sums_) {
    QemuOptions options;
    options.launcher = {
        RamjetCommand(), "run",     "--stats", scratch_->File("stats.json"), "--checksums", sums,
        "--incoming",    snapshot_, "--"};
    options.launcher.insert(options.launcher.end(), wrapper.begin(), wrapper.end());
    options.args = MachineArgs(guest_);
    options.args.push_back("-S");
    options.args.insert(options.args.end(), args.begin(), args.end());
    return QemuProcess::Start(options);
  }
  static std::string Script(const std::string& lines) {
    std::string script = scratch_->File("wrapper");
    std::ofstream(script) << "#!/bin/sh\n" << lines << "exec \"$@\"\n";
    EXPECT_EQ(chmod(script.c_str(), 0755), 0);
    return script;
  }
  static void WaitUntilLoaded(QemuProcess& qemu) {
    absl::StatusOr<nlohmann::json> state;
    do {
      state = qemu.Execute("query-status");
      ASSERT_TRUE(state.ok()) << state.status();
    } while ((*state)["status"] == "inmigrate");
  }
};

TEST_F(QemuIncoming, LoadsWhatOnlyTheLibraryCanOpen) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{},
        {"-global", "migration.x-multifd=on", "-global", "migration.multifd-channels=3"},
        {"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"}}) {
    const auto qemu = Incoming({}, args);
    ASSERT_TRUE(qemu.ok()) << qemu.status();
    WaitUntilLoaded(**qemu);
    ExpectLoaded(**qemu);
  }
  const auto wrapped = Incoming({Script("")});
  ASSERT_TRUE(wrapped.ok()) << wrapped.status();
  WaitUntilLoaded(**wrapped);
  ExpectLoaded(**wrapped);
}

// Where the library, or what it was told, did not arrive, the guest was loaded unchecked, without a
// word.
TEST_F(QemuIncoming, LoadsNothingWhereTheEnvironmentIsDropped) {
  for (const std::vector<std::string>& wrapper : {std::vector<std::string>{"env", "-i"},
                                                  {Script("unset LD_PRELOAD\n")},
                                                  {Script("unset RAMJET_CHECKSUMS\n")},
                                                  {Script("unset RAMJET_INCOMING\n")}}) {
    const auto qemu = Incoming(wrapper);
    EXPECT_FALSE(qemu.ok());
    EXPECT_THAT(std::string(qemu.status().message()),
                HasSubstr("/proc/self/preload-library-of-ramjet-run-is-missing"));
  }
}

// The guest's own bytes, in a buffer of its network card, began a session in the middle of the
// stream: that of the guest was ended.
TEST_F(QemuIncoming, Invariant11MagicInTheBufferOfAnE1000IsNothingButData) {
  uint64_t begin = 0;
  for (const SnapshotBlock& block : Describe().blocks) {
    begin = std::max(begin, block.pages_offset + block.used_length);
  }
  std::ifstream file(snapshot_);
  std::ostringstream devices;
  devices << file.seekg(static_cast<std::streamoff>(begin)).rdbuf();
  const size_t packet = devices.str().find(std::string(64 << 10, '\0'));
  ASSERT_NE(packet, std::string::npos) << "no buffer of a card that was never used";
  // QEMU's buffer is filled anew every 32 KiB from where the devices begin.
  const uint64_t refill = begin + (packet + (32 << 10) - 1) / (32 << 10) * (32 << 10);
  const std::string before = Overwrite(refill, "QEVM");
  const absl::Cleanup restore = [&] { Overwrite(refill, before); };
  const std::string sums = scratch_->File("magic.crc");
  Checksum(snapshot_, sums);
  const auto qemu = Incoming({}, {}, sums);
  ASSERT_TRUE(qemu.ok()) << qemu.status();
  WaitUntilLoaded(**qemu);
  ExpectLoaded(**qemu);
}

// pmemsave opens its file with fopen("wb"): QEMU was killed by what it could not read any more.
TEST_F(QemuDoors, WritesOverWhatItIsLoadingFrom) {
  const std::string copy = scratch_->File("copy.mr");
  std::filesystem::copy_file(snapshot_, copy);
  const std::unique_ptr<QemuProcess> qemu = Start({}, {"--eager", "off"});
  ASSERT_NE(qemu, nullptr);
  ASSERT_TRUE(LoadMappedRam(*qemu, "file:" + copy).ok()) << qemu->Stderr();
  const auto saved =
      qemu->Execute("pmemsave", {{"val", 0}, {"size", kMemoryMib << 20}, {"filename", copy}});
  EXPECT_TRUE(saved.ok()) << saved.status();
  ExpectLoaded(*qemu);
  EXPECT_EQ(std::filesystem::file_size(copy), kMemoryMib << 20);
}

TEST_F(QemuIncoming, DamagedFileEndsTheVm) {
  const uint64_t offset = Pages() + (20 << 20);  // the loader device has filled that
  const std::string before = Overwrite(offset, "damage");
  const absl::Cleanup restore = [&] { Overwrite(offset, before); };
  // QEMU reads preallocated memory itself.
  const auto qemu = Incoming(
      {}, {"-machine", "memory-backend=pc.ram", "-object",
           absl::StrCat("memory-backend-ram,id=pc.ram,prealloc=on,size=", kMemoryMib, "M")});
  if (qemu.ok()) {
    ExpectEnded(**qemu, "is not what was saved");
  } else {
    EXPECT_THAT(std::string(qemu.status().message()), HasSubstr("is not what was saved"));
  }
}

}  // namespace
}  // namespace ramjet
