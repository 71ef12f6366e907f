// `ramjet save` on a real QEMU: what it saves loads as the guest was, the guest runs on as it was,
// and a save that comes to nothing leaves nothing behind.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/qemu_testing.h"
#include "tools/child_process.h"
#include "tools/fd.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr uint64_t kMemoryMib = 256;

std::vector<std::string> SaveCommand(const std::string& socket, const std::string& file,
                                     const std::vector<std::string>& flags = {}) {
  std::vector<std::string> words = {RamjetCommand(), "save", "--qmp", socket, file};
  words.insert(words.end(), flags.begin(), flags.end());
  return words;
}

std::set<std::string> NamesIn(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.insert(entry.path().filename());
  }
  return names;
}

// Exit status 1, nothing on stdout, and on stderr one line with `words` in it.
void ExpectRefusal(const absl::StatusOr<CommandResult>& result, const std::string& words) {
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit_status, 1);
  EXPECT_EQ(result->out, "");
  EXPECT_THAT(result->err, HasSubstr(words));
  EXPECT_EQ(std::count(result->err.begin(), result->err.end(), '\n'), 1) << result->err;
}

std::string State(QemuProcess& qemu) {
  const absl::StatusOr<json> status = qemu.Execute("query-status");
  return status.ok() ? status->value("status", "") : std::string{status.status().message()};
}

// A machine without a guest, for what does not depend on one.
QemuOptions Bare(const std::string& socket) {
  QemuOptions options;
  options.args = {"-machine",
                  "pc",
                  "-accel",
                  "tcg",
                  "-m",
                  "64",
                  "-display",
                  "none",
                  "-nodefaults",
                  "-qmp",
                  absl::StrCat("unix:", socket, ",server=on,wait=off")};
  return options;
}

// Those that have come so far.
void ForgetEvents(QemuProcess& qemu, const char* name) {
  EXPECT_TRUE(qemu.Execute("query-status").ok());
  while (qemu.WaitForEvent(name, absl::InfinitePast()).ok()) {
  }
}

void WaitUntilSaving(QemuProcess& qemu) {
  std::string status;
  while (status != "active") {
    const absl::StatusOr<QmpEvent> event = qemu.WaitForEvent("MIGRATION", Soon());
    ASSERT_TRUE(event.ok()) << event.status();
    status = event->data.value("status", "");
  }
}

class QemuSave : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    // The name of a socket may have 107 bytes, which Bazel's directory for tests has spent.
    unsetenv("TEST_TMPDIR");
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    machine_.memory_mib = kMemoryMib;
    machine_.fill_mib = 64;
    GuestOptions with_monitor = machine_;
    with_monitor.devices = {"-qmp", absl::StrCat("unix:", Socket(), ",server=on,wait=off")};
    absl::StatusOr<std::unique_ptr<SourceGuest>> guest =
        SourceGuest::Boot(with_monitor, scratch_->File("initramfs"));
    ASSERT_TRUE(guest.ok()) << guest.status();
    const absl::Status filled = (*guest)->WaitUntilFilled();
    ASSERT_TRUE(filled.ok()) << filled;
    source_ = *std::move(guest);
  }

  static void TearDownTestSuite() {
    source_ = nullptr;
    scratch_ = nullptr;
  }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    ASSERT_NE(source_, nullptr);
    directory_ = scratch_->File(testing::UnitTest::GetInstance()->current_test_info()->name());
    std::replace(directory_.begin() + static_cast<ptrdiff_t>(scratch_->path().size()) + 1,
                 directory_.end(), '/', '-');
    std::filesystem::create_directory(directory_);
    file_ = directory_ + "/vm.mr";
  }

  static std::string Socket() { return scratch_->File("qmp.sock"); }
  static QemuProcess& Source() { return source_->qemu(); }

  absl::StatusOr<CommandResult> Save(const std::vector<std::string>& flags) {
    return RunCommand(SaveCommand(Socket(), file_, flags), Soon());
  }

  static std::string Hash(QemuProcess& qemu) {
    const absl::StatusOr<std::string> hash =
        HashRam(qemu, PcRam(kMemoryMib), scratch_->File("ram"));
    EXPECT_TRUE(hash.ok()) << hash.status();
    return hash.value_or("");
  }

  static json Settings(QemuProcess& qemu) {
    return {qemu.Execute("query-migrate-capabilities").value_or(json()),
            qemu.Execute("query-migrate-parameters").value_or(json())};
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static GuestOptions machine_;
  static std::unique_ptr<SourceGuest> source_;
  std::string directory_;
  std::string file_;
};

std::unique_ptr<ScratchDir> QemuSave::scratch_;
GuestOptions QemuSave::machine_;
std::unique_ptr<SourceGuest> QemuSave::source_;

struct Way {
  std::string name;
  std::vector<std::string> flags;

  friend std::ostream& operator<<(std::ostream& out, const Way& way) { return out << way.name; }
};

class QemuSaveWays : public QemuSave, public testing::WithParamInterface<Way> {};

TEST_P(QemuSaveWays, StockQemuLoadsTheGuestsMemory) {
  std::vector<std::string> flags = GetParam().flags;
  flags.insert(flags.end(), {"--leave-stopped", "--json"});
  const absl::StatusOr<CommandResult> saved = Save(flags);
  ASSERT_TRUE(saved.ok()) << saved.status();
  ASSERT_EQ(saved->exit_status, 0) << saved->err;
  EXPECT_EQ(saved->err, "");
  const json report = json::parse(saved->out, nullptr, /*allow_exceptions=*/false);
  EXPECT_EQ(report.value("schema", ""), "ramjet.save/1") << saved->out;
  EXPECT_EQ(report.value("guest", ""), "stopped") << saved->out;
  EXPECT_GE(report["ram"].value("nonzero_bytes", 0), 64 << 20) << saved->out;
  EXPECT_EQ(State(Source()), "postmigrate");
  const std::string saved_hash = Hash(Source());
  ASSERT_TRUE(Source().Execute("cont").ok());

  TargetOptions options;
  options.guest = machine_;
  const absl::StatusOr<std::unique_ptr<QemuProcess>> stock = StartTarget(options);
  ASSERT_TRUE(stock.ok()) << stock.status();
  const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**stock, "file:" + file_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(Hash(**stock), saved_hash);
}

// Whether or not the guest was stopped for the save, it ran when it was asked for, and so it does
// where it is loaded.
TEST_P(QemuSaveWays, GuestRunsOnHereAndRunsWhereItIsLoaded) {
  const absl::StatusOr<CommandResult> saved = Save(GetParam().flags);
  ASSERT_TRUE(saved.ok()) << saved.status();
  ASSERT_EQ(saved->exit_status, 0) << saved->err;
  EXPECT_THAT(saved->out, HasSubstr("the guest runs on"));
  EXPECT_EQ(State(Source()), "running");
  const absl::Status here = ExpectGoodSums(Source(), 1);
  EXPECT_TRUE(here.ok()) << here;
  EXPECT_EQ(NamesIn(directory_), std::set<std::string>{"vm.mr"});

  TargetOptions options;
  options.guest = machine_;
  options.paused = false;
  options.stats_path = scratch_->File("stats.json");
  const absl::StatusOr<std::unique_ptr<QemuProcess>> lazy = StartTarget(options);
  ASSERT_TRUE(lazy.ok()) << lazy.status();
  const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**lazy, "file:" + file_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(State(**lazy), "running");
  const absl::Status there = ExpectGoodSums(**lazy, 1);
  EXPECT_TRUE(there.ok()) << there << (*lazy)->Stderr();
  const absl::StatusOr<json> stats = WaitForCompleteStats(options.stats_path, Soon());
  ASSERT_TRUE(stats.ok()) << stats.status() << (*lazy)->Stderr();
  EXPECT_EQ(BlockStats(*stats, "pc.ram").value("lazy", json()), true) << stats->dump(2);
}

// Also of a guest that was stopped for the save, of which the file is changed behind QEMU.
TEST_P(QemuSaveWays, ChecksumsAreThoseOfTheFile) {
  std::vector<std::string> flags = GetParam().flags;
  flags.insert(flags.end(), {"--checksums", "--json"});
  const absl::StatusOr<CommandResult> saved = Save(flags);
  ASSERT_TRUE(saved.ok()) << saved.status();
  ASSERT_EQ(saved->exit_status, 0) << saved->err;
  const json report = json::parse(saved->out, nullptr, /*allow_exceptions=*/false);
  EXPECT_EQ(report.value("checksums", ""), file_ + ".crc") << saved->out;
  EXPECT_EQ(NamesIn(directory_), (std::set<std::string>{"vm.mr", "vm.mr.crc"}));
  const absl::StatusOr<CommandResult> verified =
      RunCommand({RamjetCommand(), "verify", file_, "--checksums", file_ + ".crc"}, Soon());
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->exit_status, 0) << verified->err;
}

INSTANTIATE_TEST_SUITE_P(All, QemuSaveWays,
                         testing::Values(Way{"Stopped", {}}, Way{"Live", {"--live"}},
                                         Way{"Multifd", {"--multifd-channels", "3"}},
                                         Way{"LiveMultifdDirect",
                                             {"--live", "--multifd-channels", "2", "--direct-io",
                                              "--no-sync"}}),
                         [](const testing::TestParamInfo<Way>& test) { return test.param.name; });

TEST_F(QemuSave, PausedGuestStaysPausedHereAndWhereItIsLoaded) {
  ASSERT_TRUE(Source().Execute("stop").ok());
  const absl::StatusOr<CommandResult> saved = Save({});
  EXPECT_NE(State(Source()), "running");
  ASSERT_TRUE(Source().Execute("cont").ok());
  ASSERT_TRUE(saved.ok()) << saved.status();
  ASSERT_EQ(saved->exit_status, 0) << saved->err;

  TargetOptions options;
  options.guest = machine_;
  options.paused = false;
  const absl::StatusOr<std::unique_ptr<QemuProcess>> stock = StartTarget(options);
  ASSERT_TRUE(stock.ok()) << stock.status();
  const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**stock, "file:" + file_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(State(**stock), "paused");
}

TEST_F(QemuSave, MigrationSettingsAreAsBefore) {
  const std::string socket = scratch_->File("settings.sock");
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(Bare(socket));
  ASSERT_TRUE(qemu.ok()) << qemu.status();
  ASSERT_TRUE((*qemu)
                  ->Execute("migrate-set-capabilities",
                            {{"capabilities",
                              {{{"capability", "xbzrle"}, {"state", true}},
                               {{"capability", "pause-before-switchover"}, {"state", true}}}}})
                  .ok());
  ASSERT_TRUE((*qemu)
                  ->Execute("migrate-set-parameters", {{"max-bandwidth", 12345678},
                                                       {"multifd-channels", 5},
                                                       {"multifd-compression", "zlib"}})
                  .ok());
  const json before = Settings(**qemu);
  const absl::StatusOr<CommandResult> saved =
      RunCommand(SaveCommand(socket, file_, {"--multifd-channels", "2", "--direct-io"}), Soon());
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->exit_status, 0) << saved->err;
  EXPECT_EQ(Settings(**qemu), before);
  EXPECT_EQ((*qemu)->Execute("query-fdsets").value_or(json()), json::array());
}

// So slow that the signal comes in the middle.
TEST_F(QemuSave, CtrlCCancelsAndLeavesTheOldFile) {
  std::ofstream(file_) << "the old one";
  for (const char* mode : {"--no-sync", "--live"}) {
    SCOPED_TRACE(mode);
    const json before = Settings(Source());
    ForgetEvents(Source(), "MIGRATION");
    absl::StatusOr<ChildProcess> save =
        ChildProcess::Start(SaveCommand(Socket(), file_, {mode, "--checksums", "--rate", "1"}));
    ASSERT_TRUE(save.ok()) << save.status();
    ASSERT_NO_FATAL_FAILURE(WaitUntilSaving(Source()));
    ASSERT_EQ(kill(save->pid(), SIGINT), 0);
    const absl::StatusOr<int> exit_status = save->Wait(Soon());
    ASSERT_TRUE(exit_status.ok()) << exit_status.status();
    EXPECT_EQ(*exit_status, 128 + SIGINT);
    EXPECT_EQ(save->Stdout(), "");
    EXPECT_EQ(save->Stderr(), absl::StrCat("ramjet: ", file_, ": not saved: cancelled\n"));
    EXPECT_EQ(State(Source()), "running");
    const absl::Status sums = ExpectGoodSums(Source(), 1);
    EXPECT_TRUE(sums.ok()) << sums;
    EXPECT_EQ(Settings(Source()), before);
    EXPECT_EQ(NamesIn(directory_), std::set<std::string>{"vm.mr"});
    EXPECT_EQ(std::filesystem::file_size(file_), 11u);
  }
}

TEST_F(QemuSave, QemuThatEndsMeanwhileLeavesNothing) {
  const std::string socket = scratch_->File("ends.sock");
  absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(Bare(socket));
  ASSERT_TRUE(qemu.ok()) << qemu.status();
  absl::StatusOr<ChildProcess> save =
      ChildProcess::Start(SaveCommand(socket, file_, {"--checksums", "--rate", "1"}));
  ASSERT_TRUE(save.ok()) << save.status();
  ASSERT_NO_FATAL_FAILURE(WaitUntilSaving(**qemu));
  qemu->reset();
  const absl::StatusOr<int> exit_status = save->Wait(Soon());
  ASSERT_TRUE(exit_status.ok()) << exit_status.status();
  ExpectRefusal(CommandResult{*exit_status, save->Stdout(), save->Stderr()}, "QEMU hung up");
  EXPECT_EQ(NamesIn(directory_), std::set<std::string>{});
}

TEST_F(QemuSave, QemusOwnWordsSayWhyItRefuses) {
  const std::string socket = scratch_->File("refuses.sock");
  QemuOptions options = Bare(socket);
  options.args.insert(options.args.end(), {"-device", "nvme,serial=1"});
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
  ASSERT_TRUE(qemu.ok()) << qemu.status();
  const json before = Settings(**qemu);
  ExpectRefusal(RunCommand(SaveCommand(socket, file_), Soon()), "nvme");
  EXPECT_EQ(NamesIn(directory_), std::set<std::string>{});
  EXPECT_EQ(State(**qemu), "running");
  EXPECT_EQ(Settings(**qemu), before);
}

// A limit on the size of QEMU's files stands for a full disk.
TEST_F(QemuSave, FullDiskLeavesNothingAndTheGuestRunsOn) {
  const std::string socket = scratch_->File("full.sock");
  QemuOptions options = Bare(socket);
  options.launcher = {"sh", "-c", "trap '' XFSZ; ulimit -f 20000; exec \"$@\"", "sh"};
  const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
  ASSERT_TRUE(qemu.ok()) << qemu.status();
  const json before = Settings(**qemu);
  const std::vector<std::vector<std::string>> ways = {{}, {"--live", "--leave-stopped"}};
  for (const std::vector<std::string>& flags : ways) {
    ExpectRefusal(RunCommand(SaveCommand(socket, file_, flags), Soon()), "not saved: QEMU says: ");
    EXPECT_EQ(NamesIn(directory_), std::set<std::string>{});
    EXPECT_EQ(State(**qemu), "running");
    EXPECT_EQ(Settings(**qemu), before);
  }
}

TEST_F(QemuSave, WhereNoFileCanBeTheGuestIsNotTouched) {
  ForgetEvents(Source(), "STOP");
  for (const std::string& path :
       {directory_ + "/none/vm.mr", directory_, std::string("/proc/vm.mr")}) {
    ExpectRefusal(RunCommand(SaveCommand(Socket(), path), Soon()), path + ": ");
    ExpectRefusal(RunCommand(SaveCommand(Socket(), file_, {"--checksums=" + path}), Soon()),
                  path + ": ");
  }
  EXPECT_EQ(State(Source()), "running");
  EXPECT_FALSE(Source().WaitForEvent("STOP", absl::InfinitePast()).ok());
  ExpectRefusal(RunCommand(SaveCommand(directory_ + "/no.sock", file_), Soon()), "no.sock: ");
  EXPECT_EQ(NamesIn(directory_), std::set<std::string>{});
}

// As QEMU 8.2 answers; there is none here that is so old.
TEST_F(QemuSave, QemuWithoutMappedRamIsRefusedByItsVersion) {
  const std::string socket = scratch_->File("old.sock");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(socket.size(), sizeof(address.sun_path));
  socket.copy(address.sun_path, socket.size());
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  std::thread old_qemu([&] {
    const UniqueFd client(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const auto say = [&](const std::string& line) {
      EXPECT_EQ(send(client.get(), (line + "\n").data(), line.size() + 1, MSG_NOSIGNAL),
                static_cast<ssize_t>(line.size() + 1));
    };
    const std::map<std::string, std::string> answers = {
        {"qmp_capabilities", "{}"},
        {"query-status", R"({"status": "running", "running": true})"},
        {"query-migrate-capabilities", R"([{"capability": "events", "state": false}])"},
        {"query-version", R"({"qemu": {"major": 8, "minor": 2, "micro": 10}})"}};
    say(R"({"QMP": {}})");
    char buffer[4096];
    ssize_t got = 0;
    while ((got = recv(client.get(), buffer, sizeof(buffer), 0)) > 0) {
      const json command = json::parse(buffer, buffer + got, nullptr, /*allow_exceptions=*/false);
      const auto answer = answers.find(command.value("execute", ""));
      EXPECT_NE(answer, answers.end()) << command;
      if (answer != answers.end()) say(R"({"return": )" + answer->second + "}");
    }
  });
  ExpectRefusal(RunCommand(SaveCommand(socket, file_), Soon()), "this QEMU, 8.2.10, has no mapped");
  old_qemu.join();
  EXPECT_EQ(NamesIn(directory_), std::set<std::string>{});
}

}  // namespace
}  // namespace ramjet
