// How often a guest is killed for memory while it is loaded into less memory than it has, with
// swap.
//
//   bazel run //tests:memory_limit -- [ROUNDS]
//
// A guest of 256 MiB, of which 152 are random bytes, in a memory cgroup that allows 110 MiB, with a
// swap file; from a cold page cache. 20 rounds, in each of which everybody loads once: QEMU with
// direct-io, `ramjet run --direct on`, QEMU as it is by default, and ramjet. A load ends when all
// memory is there and the guest has run on for four seconds, or is killed. Needs root.
//
// Exit status 0: of neither pair was ramjet's guest killed more than once more often than QEMU's.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/qemu_testing.h"
#include "tools/child_process.h"
#include "tools/migration.h"
#include "tools/page_cache.h"
#include "tools/qemu_process.h"
#include "tools/scratch_dir.h"
#include "tools/test_guest.h"

namespace ramjet {
namespace {

constexpr uint64_t kLimitBytes = 110 << 20;
constexpr uint64_t kSwapMib = 512;

bool Write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

// A memory cgroup of our own, of either version.
class LimitedGroup {
 public:
  static absl::StatusOr<std::unique_ptr<LimitedGroup>> Create() {
    std::unique_ptr<LimitedGroup> self(new LimitedGroup);
    struct stat there;
    self->second_version_ = stat("/sys/fs/cgroup/cgroup.controllers", &there) == 0;
    const std::string root = self->second_version_ ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    if (self->second_version_) Write(root + "/cgroup.subtree_control", "+memory");
    const std::string path = absl::StrCat(root, "/ramjet-memory-limit-", getpid());
    if (mkdir(path.c_str(), 0755) != 0) return absl::ErrnoToStatus(errno, path);
    self->path_ = path;
    const std::string limit =
        path + (self->second_version_ ? "/memory.max" : "/memory.limit_in_bytes");
    if (!Write(limit, absl::StrCat(kLimitBytes))) {
      return absl::InternalError(limit + ": cannot be set");
    }
    return self;
  }
  ~LimitedGroup() {
    // What was killed may still be going.
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (!path_.empty() && rmdir(path_.c_str()) != 0 && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  // What stands before a command that is to run in it.
  std::vector<std::string> Launcher() const {
    return {"sh", "-c", "echo 0 > \"$0\" && exec \"$@\"", path_ + "/cgroup.procs"};
  }
  bool killed() const {
    std::ifstream events(path_ + (second_version_ ? "/memory.events" : "/memory.oom_control"));
    std::string name;
    uint64_t count = 0;
    while (events >> name >> count) {
      if (name == "oom_kill") return count > 0;
    }
    return false;
  }

 private:
  LimitedGroup() = default;
  std::string path_;
  bool second_version_ = false;
};

struct Contestant {
  const char* name;
  bool ramjet;
  bool direct;
  int kills = 0;
};

class Trials {
 public:
  Trials(const ScratchDir& scratch, GuestOptions guest)
      : guest_(std::move(guest)),
        snapshot_(scratch.File("guest.mr")),
        stats_(scratch.File("stats.json")) {}

  absl::Status Save(const std::string& initramfs) const {
    absl::StatusOr<std::unique_ptr<SourceGuest>> source = SourceGuest::Boot(guest_, initramfs);
    if (!source.ok()) return source.status();
    if (absl::Status filled = (*source)->WaitUntilFilled(); !filled.ok()) return filled;
    return SaveMappedRam((*source)->qemu(), "file:" + snapshot_);
  }

  // Whether the guest was killed.
  absl::StatusOr<bool> Load(const Contestant& who) const {
    if (absl::Status cold = SetCacheState(snapshot_, CacheState::kCold); !cold.ok()) return cold;
    unlink(stats_.c_str());
    const absl::StatusOr<std::unique_ptr<LimitedGroup>> group = LimitedGroup::Create();
    if (!group.ok()) return group.status();
    const absl::Status loaded = LoadIn(**group, who);
    if ((*group)->killed()) return true;
    if (!loaded.ok()) return loaded;
    return false;
  }

 private:
  absl::Status LoadIn(const LimitedGroup& group, const Contestant& who) const {
    QemuOptions options;
    options.launcher = group.Launcher();
    if (who.ramjet) {
      const std::string direct = who.direct ? "--direct=on" : "--direct=auto";
      for (const std::string& arg :
           {RamjetCommand(), std::string("run"), "--stats=" + stats_, direct, std::string("--")}) {
        options.launcher.push_back(arg);
      }
    }
    options.args = MachineArgs(guest_);
    options.args.insert(options.args.end(), {"-incoming", "defer"});
    const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(options);
    if (!qemu.ok()) return qemu.status();
    MigrationOptions migration;
    if (!who.ramjet && who.direct) {
      migration.multifd_channels = 2;  // QEMU's direct-io is for its channels
      const auto set = (*qemu)->Execute("migrate-set-parameters", {{"direct-io", true}});
      if (!set.ok()) return set.status();
    }
    const auto times = LoadMappedRam(**qemu, "file:" + snapshot_, migration);
    if (!times.ok()) return times.status();
    const absl::Time deadline = Soon();
    struct stat there;
    while (who.ramjet && stat(stats_.c_str(), &there) != 0) {
      if (group.killed() || absl::Now() > deadline) {
        return absl::DeadlineExceededError("not loaded");
      }
      absl::SleepFor(absl::Milliseconds(50));
    }
    absl::SleepFor(absl::Seconds(4));
    return absl::OkStatus();
  }

  const GuestOptions guest_;
  const std::string snapshot_;
  const std::string stats_;
};

absl::Status Run(int rounds) {
  if (const std::string why = WhyNoQemu(); !why.empty()) return absl::UnavailableError(why);
  absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
  if (!scratch.ok()) return scratch.status();
  const std::string swap = (*scratch)->File("swap");
  const std::string make_swap =
      "dd if=/dev/zero of=\"$0\" bs=1M count=$1 && chmod 600 \"$0\" && mkswap \"$0\" && swapon "
      "\"$0\"";
  const absl::StatusOr<CommandResult> swapped =
      RunCommand({"sh", "-c", make_swap, swap, absl::StrCat(kSwapMib)}, Soon());
  if (!swapped.ok()) return swapped.status();
  if (swapped->exit_status != 0) return absl::UnavailableError("no swap: " + swapped->err);
  const absl::Cleanup swap_off = [&swap] { (void)RunCommand({"swapoff", swap}, Soon()); };

  const std::string initramfs = (*scratch)->File("initramfs");
  GuestOptions guest;
  guest.memory_mib = 256;
  guest.fill_mib = 152;
  const Trials trials(**scratch, guest);
  if (absl::Status saved = trials.Save(initramfs); !saved.ok()) return saved;

  Contestant all[] = {{"QEMU, direct-io", false, true},
                      {"ramjet --direct on", true, true},
                      {"QEMU", false, false},
                      {"ramjet", true, false}};
  for (int round = 1; round <= rounds; ++round) {
    for (Contestant& who : all) {
      const absl::StatusOr<bool> killed = trials.Load(who);
      if (!killed.ok()) return killed.status();
      if (*killed) ++who.kills;
      std::printf("round %2d: %-18s %s\n", round, who.name, *killed ? "killed" : "lives");
      std::fflush(stdout);
    }
  }
  bool worse = false;
  for (int i = 0; i < 4; i += 2) {
    std::printf("killed in %d rounds: %s %d, %s %d\n", rounds, all[i].name, all[i].kills,
                all[i + 1].name, all[i + 1].kills);
    worse = worse || all[i + 1].kills > all[i].kills + 1;
  }
  return worse ? absl::InternalError("ramjet's guests are killed more often") : absl::OkStatus();
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  int rounds = 20;
  if (argc > 2 || (argc == 2 && (!absl::SimpleAtoi(argv[1], &rounds) || rounds < 1))) {
    std::fprintf(stderr, "usage: memory_limit [ROUNDS]\n");
    return 2;
  }
  const absl::Status status = ramjet::Run(rounds);
  if (status.ok()) return 0;
  std::fprintf(stderr, "memory_limit: %s\n", std::string(status.message()).c_str());
  return 1;
}
