// `demo_vm`: saves and restores a guest of our own, for those who want to try.
//
//   demo_vm save FILE      makes a guest whose memory is full of random numbers, and saves it
//   demo_vm restore FILE   restores it lazily, and says how long what took
//
// Exit status: 0 done; 1 the file or the machine said no; 2 usage.
#include <getopt.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tools/demo_vm/demo_vm.h"

namespace demo_vm {
namespace {

constexpr char kUsage[] =
    "usage: demo_vm save FILE [--size MIB] [--vcpus N] [--backend auto|kvm|thread]\n"
    "                         [--memory private|memfd]\n"
    "       demo_vm restore FILE [--eager on|off] [--faults N] [--backend auto|kvm|thread]\n"
    "                            [--memory private|memfd] [--stats]\n"
    "\n"
    "save      Makes a guest, fills its memory (default: 256 MiB) with random numbers, saves it.\n"
    "restore   Restores it lazily; its vCPUs (as many as were saved) touch random pages and sum "
    "up\n"
    "          all memory. The sum is the one that `save` has printed.\n"
    "--faults  Restores it without eager threads again and again, touching all pages, until "
    "ramjet\n"
    "          has served N page faults; prints faults per second.\n"
    "--stats   Prints ramjet's statistics of the load, too (docs/stats.md).\n";

struct Arguments {
  std::string command;
  std::string file;
  uint64_t size_mib = 256;
  int vcpus = 1;
  bool eager = true;
  uint64_t faults = 0;
  bool stats = false;
  Backend backend = Backend::kAuto;
  MemoryKind memory = MemoryKind::kPrivate;
};

double Milliseconds(absl::Time since) { return absl::ToDoubleMilliseconds(absl::Now() - since); }

void PrintBackend(const DemoVm& vm) {
  const char* const plural = vm.vcpus() == 1 ? "" : "s";
  std::printf("%u MiB, %d vCPU%s, %s%s%s\n", vm.whole_memory().length >> 20, vm.vcpus(), plural,
              NameOf(vm.backend()), vm.backend_reason().empty() ? "" : ": ",
              vm.backend_reason().c_str());
}

absl::Status Save(const Arguments& arguments) {
  const absl::StatusOr<std::unique_ptr<DemoVm>> vm =
      DemoVm::Create({.vcpus = arguments.vcpus,
                      .memory_bytes = arguments.size_mib << 20,
                      .backend = arguments.backend,
                      .memory = arguments.memory});
  if (!vm.ok()) return vm.status();
  PrintBackend(**vm);
  std::vector<Operation> fills;
  for (int i = 0; i < (*vm)->vcpus(); ++i) {
    fills.push_back(
        Fill(DemoVm::Part((*vm)->free_memory(), i, (*vm)->vcpus()), static_cast<uint32_t>(i)));
  }
  const absl::StatusOr<std::vector<uint32_t>> filled = (*vm)->RunAll(fills);
  if (!filled.ok()) return filled.status();
  const absl::StatusOr<uint32_t> sum = (*vm)->SumOfMemory();
  if (!sum.ok()) return sum.status();
  absl::Status saved = (*vm)->Save(arguments.file);
  if (saved.ok()) std::printf("sum of its memory  %08x\n", *sum);
  return saved;
}

absl::Status Restore(const Arguments& arguments) {
  if (arguments.backend == Backend::kAuto) KvmIsFast().IgnoreError();  // not while the clock runs
  const absl::Time start = absl::Now();
  const absl::StatusOr<std::unique_ptr<DemoVm>> restored = DemoVm::Restore(
      arguments.file,
      {.backend = arguments.backend, .memory = arguments.memory, .eager = arguments.eager});
  if (!restored.ok()) return restored.status();
  DemoVm& vm = **restored;
  const absl::StatusOr<uint32_t> hello = vm.Run(0, Hello());
  if (!hello.ok()) return hello.status();
  const double to_run_ms = Milliseconds(start);

  const uint32_t touches = std::max(vm.whole_memory().pages() / 100, 1u);
  const absl::StatusOr<uint32_t> touched = vm.Run(0, RandomTouch(vm.whole_memory(), touches, 1));
  if (!touched.ok()) return touched.status();
  const double to_work_ms = Milliseconds(start);
  const absl::StatusOr<uint32_t> sum = vm.SumOfMemory();
  if (!sum.ok()) return sum.status();
  const double to_sum_ms = Milliseconds(start);
  absl::Status finished = vm.FinishLoad();
  if (!finished.ok()) return finished;

  PrintBackend(vm);
  std::printf("first instruction  %9.1f ms\n", to_run_ms);
  std::printf("%u random pages touched\n", touches);
  std::printf("                   %9.1f ms\n", to_work_ms);
  std::printf("all summed up      %9.1f ms\n", to_sum_ms);
  std::printf("sum of its memory  %08x\n", *sum);
  if (arguments.stats) std::printf("%s\n", vm.StatsJson().c_str());
  return absl::OkStatus();
}

// Each page is touched by one vCPU and once, so each is a fault. What is counted is ramjet's own
// count; what is timed is the vCPUs at work, without restoring and ending the VM.
absl::Status MeasureFaults(const Arguments& arguments) {
  uint64_t faults = 0;
  int restores = 0;
  absl::Duration busy;
  nlohmann::json stats;
  const absl::Time start = absl::Now();
  while (faults < arguments.faults) {
    const absl::StatusOr<std::unique_ptr<DemoVm>> restored = DemoVm::Restore(
        arguments.file, {.backend = arguments.backend, .memory = arguments.memory, .eager = false});
    if (!restored.ok()) return restored.status();
    DemoVm& vm = **restored;
    if (restores++ == 0) PrintBackend(vm);
    const auto wanted = static_cast<uint32_t>(
        std::min<uint64_t>(arguments.faults - faults, vm.whole_memory().pages()));
    const auto vcpus = std::min<int>(vm.vcpus(), static_cast<int>(wanted));
    std::vector<Operation> touches;
    for (int i = 0; i < vcpus; ++i) {
      touches.push_back(Touch(DemoVm::Part({0, wanted * kGuestPageBytes}, i, vcpus)));
    }
    const absl::Time begin = absl::Now();
    const absl::StatusOr<std::vector<uint32_t>> touched = vm.RunAll(touches);
    busy += absl::Now() - begin;
    if (!touched.ok()) return touched.status();
    stats = nlohmann::json::parse(vm.StatsJson(), nullptr, false);
    const nlohmann::json::json_pointer count("/fault_us/count");
    if (stats.is_discarded() || !stats.contains(count) || stats[count] == 0) {
      return absl::InternalError("all pages were touched, and ramjet has counted no fault");
    }
    faults += stats[count].get<uint64_t>();
  }
  std::printf("%llu faults in %.2f s: %.0f a second; %d restores, %.2f s with them\n",
              static_cast<unsigned long long>(faults), absl::ToDoubleSeconds(busy),
              static_cast<double>(faults) / absl::ToDoubleSeconds(busy), restores,
              absl::ToDoubleSeconds(absl::Now() - start));
  std::printf("one fault, in the last restore: %s\n", stats["fault_us"].dump().c_str());
  return absl::OkStatus();
}

bool ParseChoice(absl::string_view given, absl::string_view first, absl::string_view second,
                 bool* is_first) {
  *is_first = given == first;
  return *is_first || given == second;
}

bool ParseBackend(absl::string_view given, Backend* backend) {
  for (const Backend known : {Backend::kAuto, Backend::kKvm, Backend::kThread}) {
    if (given != NameOf(known)) continue;
    *backend = known;
    return true;
  }
  return false;
}

bool Parse(int argc, char** argv, Arguments* arguments) {
  static constexpr option kOptions[] = {
      {"size", required_argument, nullptr, 's'},   {"vcpus", required_argument, nullptr, 'v'},
      {"eager", required_argument, nullptr, 'e'},  {"faults", required_argument, nullptr, 'f'},
      {"memory", required_argument, nullptr, 'm'}, {"backend", required_argument, nullptr, 'b'},
      {"stats", no_argument, nullptr, 't'},        {nullptr, 0, nullptr, 0}};
  bool is_first = false;
  for (int letter; (letter = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    switch (letter) {
      case 's':
        if (!absl::SimpleAtoi(optarg, &arguments->size_mib)) return false;
        break;
      case 'v':
        if (!absl::SimpleAtoi(optarg, &arguments->vcpus)) return false;
        break;
      case 'e':
        if (!ParseChoice(optarg, "on", "off", &arguments->eager)) return false;
        break;
      case 'f':
        if (!absl::SimpleAtoi(optarg, &arguments->faults) || arguments->faults == 0) return false;
        break;
      case 'm':
        if (!ParseChoice(optarg, "private", "memfd", &is_first)) return false;
        arguments->memory = is_first ? MemoryKind::kPrivate : MemoryKind::kMemfd;
        break;
      case 'b':
        if (!ParseBackend(optarg, &arguments->backend)) return false;
        break;
      case 't':
        arguments->stats = true;
        break;
      default:
        return false;
    }
  }
  if (argc - optind != 2) return false;
  arguments->command = argv[optind];
  arguments->file = argv[optind + 1];
  return arguments->command == "save" || arguments->command == "restore";
}

int Main(int argc, char** argv) {
  if (argc == 2 && absl::string_view(argv[1]) == "--help") {
    std::fputs(kUsage, stdout);
    return 0;
  }
  Arguments arguments;
  if (!Parse(argc, argv, &arguments)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  const absl::Status done = arguments.command == "save" ? Save(arguments)
                            : arguments.faults > 0      ? MeasureFaults(arguments)
                                                        : Restore(arguments);
  if (done.ok()) return 0;
  std::fprintf(stderr, "demo_vm: %s\n", std::string(done.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace demo_vm

int main(int argc, char** argv) { return demo_vm::Main(argc, argv); }
