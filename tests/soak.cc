// Loads snapshots again and again under guests that do everything a guest may do, and compares
// every byte with a model.
//
//   bazel run //tests:soak -- --seconds 60 [--seed S] [--guests N] [--eager-threads N]
//       [--memory-mib N] [--kinds private,shared] [--from-load N]
//
// Every page of a load belongs to one guest thread, which alone writes and discards it and knows
// what it must hold, or to nobody: then it never changes and all may read it. So the model needs no
// lock. What a guest does not own it still touches, for the sake of the faults, and checks that the
// content is one that the page had at some time. In each load the seed decides how the memory is
// mapped, which reads fail or stall, when eager loading starts and how the load ends: waited for,
// destroyed or abandoned while the guests run. `--from-load N` begins with load N of that seed.
//
// Prints one line. Exit status: 0 all is well, or this process may not serve page faults (the line
// says so); 1 a byte differs, a guest is stuck, or something is left over; 2 usage.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loader/snapshot_loader.h"
#include "tests/soak_load.h"
#include "tests/soak_model.h"
#include "tests/soak_vm.h"
#include "uffd/userfaultfd.h"

namespace ramjet::soak {
namespace {

constexpr uint64_t kLoadsOfALayout = 8;  // writing a snapshot costs more than loading it

void OnSignal(int) {}

// Of a guest, an access that should have been possible.
void OnFault(int number, siginfo_t* info, void*) {
  const Doing* const doing = doing_here;
  const Load* const load = current_load.load();
  // Not safe in a handler, but this one does not return.
  if (doing != nullptr && load != nullptr) {
    load->Fail(absl::StrCat(number == SIGBUS ? "SIGBUS" : "SIGSEGV", " at ",
                            absl::Hex(reinterpret_cast<uintptr_t>(info->si_addr)), ", block ",
                            doing->block.load(), ", page ", doing->page.load()));
  }
  std::signal(number, SIG_DFL);
}

void InstallHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigaction(SIGUSR1, &action, nullptr);
  action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  sigaction(SIGSEGV, &action, nullptr);
}

void ProgressLine(bool last) {
  const Totals& totals = TheTotals();
  std::fprintf(stderr, "\r%llu loads, %llu discards, %llu MiB compared%s",
               static_cast<unsigned long long>(totals.loads),
               static_cast<unsigned long long>(totals.discards.load()),
               static_cast<unsigned long long>(totals.bytes.load() >> 20), last ? "\n" : "   ");
}

bool ParseArgs(int argc, char** argv, Config& config) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const absl::string_view flag = argv[i];
    const absl::string_view value = argv[i + 1];
    if (flag == "--kinds") {
      config.kinds.clear();
      for (const absl::string_view kind : absl::StrSplit(value, ',')) {
        if (kind != "private" && kind != "shared") return false;
        config.kinds.push_back(kind == "shared" ? BlockMemory::kShared : BlockMemory::kPrivate);
      }
      continue;
    }
    uint64_t number;
    if (!absl::SimpleAtoi(value, &number)) return false;
    if (flag == "--seconds") {
      config.seconds = number;
    } else if (flag == "--seed") {
      config.seed = number;
    } else if (flag == "--guests" && number >= 1 && number <= 1000) {
      config.guests = static_cast<unsigned>(number);
    } else if (flag == "--eager-threads" && number >= 1 &&
               number <= SnapshotLoader::kMaxEagerThreads) {
      config.eager_threads = static_cast<unsigned>(number);
    } else if (flag == "--memory-mib" && number >= 1) {
      config.memory_mib = number;
    } else if (flag == "--from-load") {
      config.from_load = number;
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
}

// Watches the loads, and says how far they are if somebody looks on.
class Monitor {
 public:
  Monitor() : thread_([this] { Run(); }) {}
  ~Monitor() {
    stop_ = true;
    thread_.join();
  }
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  // Around the life of a load.
  void Watch(const Load* load) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    load_ = load;
  }

 private:
  void Run() {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    for (int tick = 1; !stop_; ++tick) {
      absl::SleepFor(absl::Milliseconds(100));
      {
        absl::MutexLock lock(&mu_);
        if (load_ != nullptr) load_->AbortIfStuck();
      }
      if (terminal && tick % 10 == 0) ProgressLine(false);
    }
    if (terminal) ProgressLine(true);
  }

  absl::Mutex mu_;
  const Load* load_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

int Soak(const Config& config) {
  bool may_poison = false;
  if (const absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open(); uffd.ok()) {
    may_poison = uffd->features().poison;
  } else {
    std::printf("soak: skipped: %s\n", uffd.status().ToString().c_str());
    return 0;
  }
  InstallHandlers();
  const absl::Time end = absl::Now() + absl::Seconds(config.seconds);
  {
    Monitor monitor;
    std::unique_ptr<Layout> layout;
    for (uint64_t number = config.from_load; absl::Now() < end; ++number) {
      if (layout == nullptr || number % kLoadsOfALayout == 0) {
        layout = std::make_unique<Layout>(config.memory_mib,
                                          Mix(~config.seed, number / kLoadsOfALayout));
      }
      Load load(config, *layout, number, may_poison);
      monitor.Watch(&load);
      load.Run();
      monitor.Watch(nullptr);
    }
  }
  const Totals& totals = TheTotals();
  std::printf(
      "soak: seed %llu, %llu loads, %llu faults, %llu discards, %llu unmapped, %llu poisoned, "
      "%llu accesses refused, %llu redundant, %llu bytes compared, differing bytes 0, stuck 0, "
      "watchdog %llu\n",
      static_cast<unsigned long long>(config.seed), static_cast<unsigned long long>(totals.loads),
      static_cast<unsigned long long>(totals.faults),
      static_cast<unsigned long long>(totals.discards.load()),
      static_cast<unsigned long long>(totals.unmaps.load()),
      static_cast<unsigned long long>(totals.poisoned),
      static_cast<unsigned long long>(totals.unreadable.load()),
      static_cast<unsigned long long>(totals.redundant),
      static_cast<unsigned long long>(totals.bytes.load()),
      static_cast<unsigned long long>(totals.rescued));
  return 0;
}

}  // namespace
}  // namespace ramjet::soak

int main(int argc, char** argv) {
  ramjet::soak::Config config;
  config.seed = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  if (!ramjet::soak::ParseArgs(argc, argv, config)) {
    std::fprintf(stderr,
                 "usage: soak [--seconds N] [--seed S] [--guests N] [--eager-threads N] "
                 "[--memory-mib N] [--kinds private,shared] [--from-load N]\n");
    return 2;
  }
  return ramjet::soak::Soak(config);
}
