// How long QEMU's monitor keeps its user waiting while memory is still to be loaded.
//
//   bazel run //tests:qmp_latency -- [ROUNDS]
//
// Guests of 256 MiB and of 2 GiB, half of them or more random bytes. Each round loads from a cold
// page cache with QEMU itself, with `ramjet run --eager-rate 1M` and with `--eager off`, and then
// asks for query-status, query-migrate, stop, cont, migrate (to the very file that is being
// loaded), query-status and query-migrate once more, and, when that migration has ended, quit; and
// again with quit instead of the migration. An answer to quit is the end of the process.
//
// The median of ramjet's answers to a command is to be within the median of QEMU's, and 1.5 times
// the median of what it takes to read the file with O_DIRECT, before and after each load: that is
// what is left to load, or a little more. Exit status 0: so are all.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/qemu_testing.h"
#include "tools/fd.h"
#include "tools/migration.h"
#include "tools/page_cache.h"
#include "tools/qemu_process.h"
#include "tools/scratch_dir.h"
#include "tools/test_guest.h"

namespace ramjet {
namespace {

constexpr double kMostReads = 1.5;
constexpr absl::Duration kLongest = absl::Minutes(5);

// Seconds, by command in the order in which they are given.
using Answers = std::vector<std::pair<std::string, double>>;

// How long the data of the file takes to be read past the page cache, 2 MiB at a time.
absl::StatusOr<double> SecondsToRead(const std::string& path) {
  constexpr size_t kPiece = 2 << 20;
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, path);
  void* const buffer = std::aligned_alloc(kPiece, kPiece);
  const absl::Time begin = absl::Now();
  // From one piece of data to the next: a load reads no holes.
  for (off_t at = lseek(fd.get(), 0, SEEK_DATA); at >= 0; at = lseek(fd.get(), at, SEEK_DATA)) {
    const off_t end = lseek(fd.get(), at, SEEK_HOLE);
    while (at < end) {
      const size_t wanted = std::min(kPiece, static_cast<size_t>(end - at));
      const ssize_t got = pread(fd.get(), buffer, (wanted + 4095) / 4096 * 4096, at);
      if (got <= 0) break;
      at += got;
    }
    at = std::max(at, end);
  }
  std::free(buffer);
  return absl::ToDoubleSeconds(absl::Now() - begin);
}

class Machine {
 public:
  Machine(const ScratchDir& scratch, GuestOptions guest)
      : guest_(std::move(guest)),
        snapshot_(scratch.File("guest.mr")),
        initramfs_(scratch.File("initramfs")),
        stats_(scratch.File("stats.json")) {}

  const std::string& snapshot() const { return snapshot_; }

  absl::Status Save() const {
    absl::StatusOr<std::unique_ptr<SourceGuest>> source = SourceGuest::Boot(guest_, initramfs_);
    if (!source.ok()) return source.status();
    absl::Status filled = WaitUntilFilled((*source)->qemu().serial(), absl::Now() + 2 * kLongest);
    if (!filled.ok()) return filled;
    return SaveMappedRam((*source)->qemu(), "file:" + snapshot_);
  }

  // Without flags it is QEMU's own load.
  absl::StatusOr<Answers> Ask(const std::vector<std::string>& flags, bool migrates) const {
    if (absl::Status cold = SetCacheState(snapshot_, CacheState::kCold); !cold.ok()) return cold;
    TargetOptions options;
    options.guest = guest_;
    options.paused = false;
    options.ramjet_flags = flags;
    if (!flags.empty()) options.stats_path = stats_;
    const absl::StatusOr<std::unique_ptr<QemuProcess>> started = StartTarget(options);
    if (!started.ok()) return started.status();
    QemuProcess& qemu = **started;
    if (const auto loaded = LoadMappedRam(qemu, "file:" + snapshot_); !loaded.ok()) {
      return loaded.status();
    }
    Answers answers;
    absl::Status failed;
    const auto ask = [&](const std::string& as, const std::string& command,
                         const nlohmann::json& arguments = nlohmann::json::object()) {
      const absl::Time asked = absl::Now();
      failed.Update(qemu.Execute(command, arguments).status());
      answers.emplace_back(as, absl::ToDoubleSeconds(absl::Now() - asked));
    };
    ask("query-status", "query-status");
    ask("query-migrate", "query-migrate");
    ask("stop", "stop");
    ask("cont", "cont");
    if (migrates) {
      ask("migrate", "migrate", {{"uri", "file:" + snapshot_}});
      ask("query-status, migrating", "query-status");
      ask("query-migrate, migrating", "query-migrate");
      failed.Update(AwaitMigration(qemu));
    }
    const absl::Time asked = absl::Now();
    failed.Update(qemu.Execute("quit").status());
    failed.Update(qemu.WaitForExit(asked + kLongest).status());
    answers.emplace_back(migrates ? "quit, migrated" : "quit",
                         absl::ToDoubleSeconds(absl::Now() - asked));
    if (!failed.ok()) return failed;
    return answers;
  }

 private:
  static absl::Status AwaitMigration(QemuProcess& qemu) {
    while (true) {
      const absl::StatusOr<QmpEvent> event = qemu.WaitForEvent("MIGRATION", absl::Now() + kLongest);
      if (!event.ok()) return event.status();
      const std::string status = event->data.value("status", "");
      if (status == "completed") return absl::OkStatus();
      if (status == "failed") return absl::AbortedError("the migration failed");
    }
  }

  const GuestOptions guest_;
  const std::string snapshot_;
  const std::string initramfs_;
  const std::string stats_;
};

double MedianOf(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// What was measured of one way to load, by command.
struct Measured {
  std::vector<double> reads;
  std::map<std::string, std::vector<double>> answers;
};

absl::Status MeasureOne(const Machine& machine, const std::vector<std::string>& flags,
                        bool migrates, Measured& measured) {
  for (const bool before : {true, false}) {
    const absl::StatusOr<double> read = SecondsToRead(machine.snapshot());
    if (!read.ok()) return read.status();
    measured.reads.push_back(*read);
    if (!before) break;
    const absl::StatusOr<Answers> answers = machine.Ask(flags, migrates);
    if (!answers.ok()) return answers.status();
    for (const auto& [command, seconds] : *answers) measured.answers[command].push_back(seconds);
  }
  return absl::OkStatus();
}

// Whether all answers came in time.
absl::StatusOr<bool> Judge(const Machine& machine, int rounds) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> ways = {
      {"QEMU", {}}, {"--eager-rate 1M", {"--eager-rate=1M"}}, {"--eager off", {"--eager=off"}}};
  std::map<std::string, Measured> measured;
  for (int round = 0; round < rounds; ++round) {
    for (const bool migrates : {false, true}) {
      for (const auto& [name, flags] : ways) {
        const absl::Status status = MeasureOne(machine, flags, migrates, measured[name]);
        if (!status.ok()) return status;
      }
    }
  }
  bool in_time = true;
  for (const auto& [name, one] : measured) {
    if (name == ways[0].first) continue;
    const double read = MedianOf(one.reads);
    for (const auto& [command, answers] : one.answers) {
      const double took = MedianOf(answers);
      const double stock = MedianOf(measured[ways[0].first].answers[command]);
      const bool late = took > stock + kMostReads * read;
      in_time = in_time && !late;
      std::printf("%-16s %-25s %8.1f ms (%.1f to %.1f), QEMU %8.1f ms, a read %8.1f ms: %s\n",
                  name.c_str(), command.c_str(), took * 1e3,
                  *std::min_element(answers.begin(), answers.end()) * 1e3,
                  *std::max_element(answers.begin(), answers.end()) * 1e3, stock * 1e3, read * 1e3,
                  late ? "LATE" : "in time");
    }
  }
  std::fflush(stdout);
  return in_time;
}

absl::Status Run(int rounds) {
  if (const std::string why = WhyNoQemu(); !why.empty()) return absl::UnavailableError(why);
  bool in_time = true;
  for (const uint64_t memory_mib : {256, 2048}) {
    const absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    if (!scratch.ok()) return scratch.status();
    GuestOptions guest;
    guest.memory_mib = memory_mib;
    guest.fill_mib = memory_mib == 256 ? 152 : 1024;
    const Machine machine(**scratch, guest);
    if (absl::Status saved = machine.Save(); !saved.ok()) return saved;
    std::printf("a guest of %u MiB\n", static_cast<unsigned>(memory_mib));
    const absl::StatusOr<bool> judged = Judge(machine, rounds);
    if (!judged.ok()) return judged.status();
    in_time = in_time && *judged;
  }
  return in_time ? absl::OkStatus() : absl::DeadlineExceededError("answers were late");
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  int rounds = 5;
  if (argc > 2 || (argc == 2 && (!absl::SimpleAtoi(argv[1], &rounds) || rounds < 1))) {
    std::fprintf(stderr, "usage: qmp_latency [ROUNDS]\n");
    return 2;
  }
  const absl::Status status = ramjet::Run(rounds);
  if (status.ok()) return 0;
  std::fprintf(stderr, "qmp_latency: %s\n", std::string(status.message()).c_str());
  return 1;
}
