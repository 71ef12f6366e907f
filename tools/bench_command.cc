#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tools/bench/bench.h"
#include "tools/bench/bench_options.h"
#include "tools/bench/vm_bench.h"
#include "tools/commands.h"

namespace ramjet {
namespace {

constexpr char kBenchDescription[] =
    "Loads a snapshot in every way there is, in turn, and compares them.";

constexpr char kBenchFooter[] =
    "Without SNAPSHOT a small Linux guest is booted and saved first. With one, and what its QEMU\n"
    "is started with (no -incoming, no snapshot) behind --, QEMU takes part; without that only a\n"
    "VM of our own does, whose vCPUs are threads that touch memory, or KVM's.\n"
    "\n"
    "  in QEMU:    stock, stock-multifd, ramjet, ramjet-ws (with a recorded working set),\n"
    "              floor (stock, without the content)\n"
    "  in our VM:  full-read, map-private (the file mapped as memory), one-page (a plain\n"
    "              userfaultfd handler), ramjet, ramjet-ws\n"
    "  workloads:  first-work (QEMU); touch-all, read-25, write-25, zipf, idle, faults (our VM)\n"
    "\n"
    "The machine's own limits are measured between the rounds, and ratios are given with the bars\n"
    "that ramjet is held to. Do nothing else on the machine meanwhile; five rounds of everything\n"
    "take long, so choose with --contestant and --workload. Ctrl-C shows the complete rounds.\n"
    "What the words mean: docs/performance.md.\n"
    "\n"
    "With --against, each round loads with this build, with the other and with this one again.\n"
    "Compared are first work and last page in QEMU, and stalls of our VM. This build is slower if\n"
    "the median of the paired ratios is above 1.05 and above the upper quartile of this build\n"
    "against itself.\n"
    "\n"
    "Examples:\n"
    "  ramjet bench --report /tmp/bench\n"
    "  ramjet bench --against ../before/bazel-bin/tools/ramjet\n"
    "  ramjet bench --cache warm --contestant map-private,ramjet --workload read-25,write-25\n"
    "  ramjet bench vm.mr --json -- qemu-system-x86_64 -accel kvm -m 4G -display none ...";

}  // namespace

Command AddBench(CLI::App& app, const Emulator& emulator) {
  struct Options : bench::BenchOptions {
    bool scaling_flag = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const command = app.add_subcommand("bench", kBenchDescription);
  command->add_option("SNAPSHOT", options->snapshot, "What is loaded");
  CLI::Option* const against =
      command
          ->add_option(
              "--against", options->against,
              "Compare this build of ramjet with another one, and with itself; exit status 1\n"
              "if it is slower in anything")
          ->type_name("RAMJET")
          ->check(CLI::ExistingFile);
  command
      ->add_option("--rounds", options->rounds,
                   "Loads of each kind (default: 5; with --against, 20)")
      ->check(CLI::Range(1, 1000));
  command
      ->add_option("--cache", options->cache,
                   "What of the file is cached: warm, cold, both (default)")
      ->check(CLI::IsMember({"warm", "cold", "both"}));
  command->add_option("--contestant", options->contestants, "Only these (default: all)")
      ->type_name("LIST")
      ->delimiter(',')
      ->check(CLI::IsMember(bench::ContestantNames()));
  command->add_option("--workload", options->workloads, "Only these (default: all)")
      ->type_name("LIST")
      ->delimiter(',')
      ->check(CLI::IsMember(bench::WorkloadNames()));
  command->add_option("--vcpus", options->vcpus, "vCPUs of our VM (default: 1)")
      ->check(CLI::Range(1, 64));
  command->add_option("--vcpu", options->vcpu, "What they are: thread (default), kvm")
      ->check(CLI::IsMember({"thread", "kvm"}));
  command->add_option("--memory", options->memory_mib, "Memory of the guest (default: 1024)")
      ->type_name("MIB")
      ->check(CLI::Range(uint64_t{192}, uint64_t{65536}));
  command->add_option("--fill", options->fill_mib, "Of it random bytes (default: 424)")
      ->type_name("MIB")
      ->check(CLI::Range(uint64_t{8}, uint64_t{65536}));
  CLI::Option* const scaling =
      command
          ->add_flag("--scaling,!--no-scaling", options->scaling_flag,
                     "Also resume sparse machines of 1 and 64 GiB (default: if QEMU takes part)")
          ->excludes(against);
  command->add_flag("--json", options->json,
                    "Print one JSON object (schema ramjet.bench/1; with --against, "
                    "ramjet.bench-against/1)");
  command
      ->add_option("--report", options->report_directory,
                   "Also write a page with pictures there: DIR/index.html")
      ->type_name("DIR")
      ->excludes(against);
  command
      ->add_flag("--pictures", options->pictures,
                 "Have the report's pictures in the JSON object: one more load of each kind")
      ->excludes(against);
  command->add_flag("--quick", options->quick, "A try: one round with a small guest, warm");
  command->footer(kBenchFooter);
  return {command,
          [=, &emulator] {
            if (emulator.has_value() && options->snapshot.empty()) {
              throw CLI::RequiredError("SNAPSHOT, for there is something behind --,");
            }
            for (const std::string& contestant : options->contestants) {
              if (against->count() > 0 && contestant != "ramjet" && contestant != "ramjet-ws") {
                throw CLI::ValidationError("--against",
                                           "compares ramjet and ramjet-ws, not " + contestant);
              }
            }
            options->qemu_command = emulator.value_or(std::vector<std::string>());
            if (scaling->count() > 0) options->scaling = options->scaling_flag;
            return bench::RunBench(*options);
          },
          /*takes_emulator=*/true};
}

Command AddBenchVm(CLI::App& app) {
  const auto options = std::make_shared<bench::VmBenchOptions>();
  options->of.where = "vm";
  CLI::App* const command = app.add_subcommand("bench-vm", "")->group("");
  command->add_option("SNAPSHOT", options->snapshot)->required();
  command->add_option("--contestant", options->of.contestant)->required();
  command->add_option("--workload", options->of.workload)->required();
  command->add_option("--cache", options->of.cache)->required();
  command->add_option("--vcpus", options->vcpus);
  command->add_option("--vcpu", options->vcpu);
  command->add_option("--working-set", options->working_set);
  command->add_option("--record", options->record);
  command->add_flag("--picture", options->picture);
  return {command, [options] { return bench::RunVmProcess(*options); }};
}

}  // namespace ramjet
