// A stopped VM that QEMU itself reads while it is still being loaded, at a rate that leaves almost
// everything to these reads: a second save, a snapshot in a disk image, a dump, its debugger. Each
// gives the same bytes as after QEMU's own load.
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/qemu_testing.h"
#include "tools/child_process.h"
#include "tools/fd.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

using nlohmann::json;

constexpr uint64_t kMemoryMib = 32;
constexpr uint64_t kRandomMib = 16;
constexpr uint64_t kMemoryBytes = kMemoryMib << 20;

std::string Sha256(const std::string& path) {
  const absl::StatusOr<CommandResult> result = RunCommand({"sha256sum", path}, Soon());
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->out.substr(0, 64) : "";
}

json Execute(QemuProcess& qemu, const std::string& command, const json& arguments) {
  const absl::StatusOr<json> answer = qemu.Execute(command, arguments);
  EXPECT_TRUE(answer.ok()) << command << ": " << answer.status();
  return answer.value_or(json());
}

// A command that starts a job, and the job to its end.
void RunJob(QemuProcess& qemu, const std::string& command, json arguments) {
  arguments["job-id"] = command;
  Execute(qemu, command, arguments);
  std::string status;
  while (status != "concluded") {
    const absl::StatusOr<QmpEvent> event = qemu.WaitForEvent("JOB_STATUS_CHANGE", Soon());
    ASSERT_TRUE(event.ok()) << command << ": " << event.status();
    status = event->data.value("status", "");
  }
  const json jobs = Execute(qemu, "query-jobs", json::object());
  ASSERT_EQ(jobs.size(), 1) << jobs;
  EXPECT_FALSE(jobs[0].contains("error")) << jobs;
  Execute(qemu, "job-dismiss", {{"id", command}});
}

// What a debugger sees: a client of QEMU's gdbstub.
class Debugger {
 public:
  Debugger(QemuProcess& qemu, const std::string& path) {
    Execute(qemu, "human-monitor-command",
            {{"command-line", absl::StrCat("gdbserver unix:", path, ",server=on,wait=off")}});
    socket_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
        << path;
    for (const absl::string_view word : absl::StrSplit(Ask("qSupported"), ';')) {
      const std::vector<std::string> pair = absl::StrSplit(word, '=');
      if (pair[0] != "PacketSize") continue;
      EXPECT_TRUE(absl::SimpleHexAtoi(pair[1], &packet_size_)) << word;
    }
    EXPECT_EQ(Ask("Qqemu.PhyMemMode:1"), "OK");
  }

  // The first `length` bytes of physical memory.
  std::string ReadMemory(uint64_t length) {
    std::string memory;
    while (memory.size() < length) {
      const uint64_t count = std::min(packet_size_ / 2, length - memory.size());
      const std::string bytes =
          absl::HexStringToBytes(Ask(absl::StrFormat("m%x,%x", memory.size(), count)));
      EXPECT_EQ(bytes.size(), count) << "at " << memory.size();
      if (bytes.size() != count) return "";
      memory += bytes;
    }
    return memory;
  }

 private:
  // Sends a packet and acknowledges the answer, which it returns.
  std::string Ask(const std::string& packet) {
    unsigned char sum = 0;
    for (const char c : packet) sum = static_cast<unsigned char>(sum + c);
    const std::string sent = absl::StrFormat("$%s#%02x", packet, sum);
    if (write(socket_.get(), sent.data(), sent.size()) != static_cast<ssize_t>(sent.size())) {
      return "";
    }
    std::string answer;
    size_t end = std::string::npos;
    while (end == std::string::npos || answer.size() < end + 3) {
      char buffer[8192];
      const ssize_t count = read(socket_.get(), buffer, sizeof(buffer));
      if (count <= 0) return "";
      answer.append(buffer, count);
      end = answer.find('#');
    }
    EXPECT_EQ(write(socket_.get(), "+", 1), 1);
    const size_t begin = answer.find('$') + 1;
    return answer.substr(begin, end - begin);
  }

  UniqueFd socket_;
  uint64_t packet_size_ = 0;
};

class QemuStopped : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    // The name of a socket may have 107 bytes, which Bazel's directory for tests has spent.
    unsetenv("TEST_TMPDIR");
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    // No guest need run to have memory: QEMU's loader device fills it.
    const std::string random = scratch_->File("random");
    ASSERT_TRUE(WriteRandomBytes(random));
    QemuOptions options;
    options.args = MachineArgs(Guest());
    options.args.insert(
        options.args.end(),
        {"-S", "-device", absl::StrCat("loader,addr=0x800000,force-raw=on,file=", random)});
    const absl::StatusOr<std::unique_ptr<QemuProcess>> source = QemuProcess::Start(options);
    ASSERT_TRUE(source.ok()) << source.status();
    const absl::Status saved = SaveMappedRam(**source, "file:" + scratch_->File("guest.mr"));
    ASSERT_TRUE(saved.ok()) << saved;
    const std::unique_ptr<QemuProcess> stock = Load("guest.mr", /*lazy=*/false);
    ASSERT_NE(stock, nullptr);
    stock_hash_ = Hash(*stock);
    ASSERT_EQ(stock_hash_, Hash(**source));
  }

  static void TearDownTestSuite() { scratch_ = nullptr; }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_FALSE(stock_hash_.empty());
  }

  static GuestOptions Guest() {
    GuestOptions guest;
    guest.memory_mib = kMemoryMib;
    return guest;
  }

  static bool WriteRandomBytes(const std::string& path) {
    std::vector<char> bytes(kRandomMib << 20);
    std::ifstream("/dev/urandom").read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return static_cast<bool>(
        std::ofstream(path).write(bytes.data(), static_cast<std::streamsize>(bytes.size())));
  }

  // A stopped VM. `lazy`: it will be loading for minutes, unless somebody reads its memory.
  static std::unique_ptr<QemuProcess> Load(const std::string& file, bool lazy) {
    TargetOptions options;
    options.guest = Guest();
    if (lazy) {
      options.stats_path = StatsPath();
      options.ramjet_flags = {"--eager-rate", "64K"};
    }
    absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
    EXPECT_TRUE(qemu.ok()) << qemu.status();
    if (!qemu.ok()) return nullptr;
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, "file:" + scratch_->File(file));
    EXPECT_TRUE(loaded.ok()) << loaded.status() << (*qemu)->Stderr();
    if (!loaded.ok()) return nullptr;
    return *std::move(qemu);
  }

  static std::string StatsPath() { return scratch_->File("stats.json"); }

  static std::string Hash(QemuProcess& qemu) {
    const absl::StatusOr<std::string> hash =
        HashRam(qemu, PcRam(kMemoryMib), scratch_->File("ram"));
    EXPECT_TRUE(hash.ok()) << hash.status();
    return hash.value_or("");
  }

  // `act` gives a hash of what it has seen, or made, of a VM's memory. The same for both loads, and
  // it leaves memory as it was.
  template <typename Act>
  static void ExpectEqual(Act act) {
    const std::unique_ptr<QemuProcess> stock = Load("guest.mr", /*lazy=*/false);
    ASSERT_NE(stock, nullptr);
    const std::string expected = act(*stock);
    const std::unique_ptr<QemuProcess> lazy = Load("guest.mr", /*lazy=*/true);
    ASSERT_NE(lazy, nullptr);
    ASSERT_TRUE(IsLoading(*lazy, StatsPath())) << lazy->Stderr();
    EXPECT_EQ(act(*lazy), expected) << lazy->Stderr();
    EXPECT_EQ(Hash(*lazy), stock_hash_) << lazy->Stderr();

    const absl::StatusOr<json> stats = WaitForCompleteStats(StatsPath(), Soon());
    ASSERT_TRUE(stats.ok()) << stats.status() << lazy->Stderr();
    EXPECT_EQ(BlockStats(*stats, "pc.ram").value("lazy", json()), true) << stats->dump(2);
    EXPECT_GT(NumberAt(*stats, "/pages/faulted"), 0) << stats->dump(2);
    EXPECT_EQ(NumberAt(*stats, "/pages/poisoned"), 0) << stats->dump(2);
    EXPECT_EQ(lazy->Stderr(), "");
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static std::string stock_hash_;  // sha256 of all guest memory after QEMU's own load
};

std::unique_ptr<ScratchDir> QemuStopped::scratch_;
std::string QemuStopped::stock_hash_;

TEST_F(QemuStopped, MemoryWrittenToAFile) { ExpectEqual(Hash); }

TEST_F(QemuStopped, DumpOfTheGuest) {
  ExpectEqual([](QemuProcess& qemu) {
    const std::string dump = scratch_->File("dump");
    Execute(qemu, "dump-guest-memory", {{"paging", false}, {"protocol", "file:" + dump}});
    return Sha256(dump);
  });
}

TEST_F(QemuStopped, SecondSave) {
  ExpectEqual([](QemuProcess& qemu) {
    const absl::Status saved = SaveMappedRam(qemu, "file:" + scratch_->File("again.mr"));
    EXPECT_TRUE(saved.ok()) << saved;
    const std::unique_ptr<QemuProcess> reloaded = Load("again.mr", /*lazy=*/false);
    return reloaded == nullptr ? "" : Hash(*reloaded);
  });
}

TEST_F(QemuStopped, SnapshotInADiskImage) {
  const std::string image = scratch_->File("vm.qcow2");
  const json file = {{"driver", "file"}, {"filename", image}};
  const json disk = {{"driver", "qcow2"}, {"node-name", "disk"}, {"file", file}};
  const json arguments = {{"tag", "s"}, {"vmstate", "disk"}, {"devices", {"disk"}}};
  ExpectEqual([&](QemuProcess& qemu) {
    RunJob(qemu, "blockdev-create",
           {{"options", {{"driver", "file"}, {"filename", image}, {"size", 0}}}});
    Execute(qemu, "blockdev-add",
            {{"driver", "file"}, {"node-name", "empty"}, {"filename", image}});
    RunJob(qemu, "blockdev-create",
           {{"options", {{"driver", "qcow2"}, {"file", "empty"}, {"size", 1 << 20}}}});
    Execute(qemu, "blockdev-del", {{"node-name", "empty"}});
    Execute(qemu, "blockdev-add", disk);
    // A snapshot is not written as mapped-ram.
    Execute(qemu, "migrate-set-capabilities",
            {{"capabilities", {{{"capability", "mapped-ram"}, {"state", false}}}}});
    RunJob(qemu, "snapshot-save", arguments);
    Execute(qemu, "blockdev-del", {{"node-name", "disk"}});

    QemuOptions options;
    options.args = MachineArgs(Guest());
    options.args.push_back("-S");
    const absl::StatusOr<std::unique_ptr<QemuProcess>> reloaded = QemuProcess::Start(options);
    EXPECT_TRUE(reloaded.ok()) << reloaded.status();
    if (!reloaded.ok()) return std::string();
    Execute(**reloaded, "blockdev-add", disk);
    RunJob(**reloaded, "snapshot-load", arguments);
    return Hash(**reloaded);
  });
}

TEST_F(QemuStopped, ReadByADebugger) {
  ExpectEqual([](QemuProcess& qemu) {
    const std::string seen = scratch_->File("seen");
    const std::string path = scratch_->File("gdb");
    std::ofstream(seen) << Debugger(qemu, path).ReadMemory(kMemoryBytes);
    unlink(path.c_str());
    return Sha256(seen);
  });
}

}  // namespace
}  // namespace ramjet
