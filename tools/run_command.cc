#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loader/snapshot_loader.h"
#include "tools/command_outputs.h"
#include "tools/commands.h"
#include "tools/run.h"

namespace ramjet {
namespace {

constexpr char kRunDescription[] =
    "Runs an unpatched QEMU (9.0 or later) whose snapshot loads take milliseconds.";

constexpr char kRunFooter[] =
    "The guest runs at once; pages that it touches are fetched on demand, and the rest arrives "
    "behind\n"
    "its back. ramjet becomes QEMU: same process, standard streams, signals and exit status. "
    "Without\n"
    "--incoming, whatever mapped-ram load QEMU is told to do (-incoming, migrate-incoming) is "
    "lazy.\n"
    "\n"
    "What cannot be loaded lazily (memory that devices or other processes share, "
    "locked or\n"
    "preallocated memory) QEMU reads itself, as without ramjet; one line on stderr says why. Needs "
    "read\n"
    "and write access to /dev/userfaultfd, or CAP_SYS_PTRACE.\n"
    "\n"
    "With --record, pages come only when they are touched until the record ends; then the rest is "
    "loaded\n"
    "ahead. With --working-set, what it names is loaded first, before the eager threads begin. A "
    "page "
    "that\n"
    "the guest touches is served at once in any case.\n"
    "\n"
    "To write a snapshot: ramjet save.\n"
    "\n"
    "Example:\n"
    "  ramjet run --incoming vm.mr --stats load.json -- qemu-system-x86_64 -accel kvm -m 4G ...";

}  // namespace

Command AddRun(CLI::App& app, const Emulator& emulator) {
  struct Options : RunOptions {
    std::string eager_word = "on";
    std::string whole_windows_word = "on";
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const run = app.add_subcommand("run", kRunDescription);
  run->add_option("--incoming", options->incoming,
                  "Load this snapshot (adds -global migration.mapped-ram=on -incoming file:FILE)")
      ->type_name("FILE");
  run->add_option("--stats", options->stats_path,
                  "Write statistics there when everything is loaded, and at exit (ramjet.stats/1)")
      ->type_name("FILE");
  run->add_option("--eager", options->eager_word,
                  "Load ahead what nobody has touched yet (default: on)")
      ->check(CLI::IsMember({"on", "off"}));
  run->add_option("--eager-threads", options->eager_threads,
                  "How many threads load ahead (default: 2 to 4, as suits the machine)")
      ->check(CLI::Range(1u, SnapshotLoader::kMaxEagerThreads));
  run->add_option(
         "--eager-rate", options->eager_bytes_per_s,
         "Load ahead no more than that in a second, e.g. 200MB (default: no limit). Ignored "
         "where there is\nno lease on the snapshot, or somebody waits to write to it")
      ->type_name("BYTES")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 60));  // -1 is a large number, too
  run->add_option("--whole-windows", options->whole_windows_word,
                  "Who touches a page gets the huge page around it, if the page cache has it, or "
                  "the guest goes\non asking a fast disk: a longer wait once, and then none "
                  "(default: on; off with --eager=off or\n--eager-rate)")
      ->check(CLI::IsMember({"on", "off"}));
  run->add_option(
         "--direct", options->direct,
         "What is loaded ahead and not in the page cache comes straight from the disk\n"
         "(auto), everything does (on), or goes through the page cache, for the next guest "
         "(off);\nthrough the page cache in any case where memory is short (default: auto)")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  CLI::Option* const record =
      run->add_option("--record", options->record_path,
                      "Write there which pages the guest touches, in order of first touch; nothing "
                      "is loaded\nahead meanwhile (see: ramjet workingset --help)")
          ->type_name("FILE");
  run->add_option("--record-for", options->record_seconds,
                  "Record for that long after the resume, or until the guest has everything, or "
                  "ends\n(default: 5)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 1e6))
      ->check([](const std::string& word) {  // nan is in every range
        return word.find_first_of("nN") == std::string::npos ? "" : "no number: " + word;
      })
      ->needs(record);
  run->add_option(
         "--working-set", options->working_set,
         "Load what that record names first; ignored, with a warning, if it is of another\n"
         "snapshot or damaged")
      ->type_name("FILE")
      ->excludes(record);
  run->add_option(
         "--checksums", options->checksums,
         "Give the guest no page that has changed since FILE was made (ramjet checksum, or\n"
         "--checksums of save and convert); such a page is as unreadable. What they cannot\n"
         "vouch for, as another snapshot or a stream from a socket, is not loaded (exit status 1)")
      ->type_name("FILE");
  run->footer(kRunFooter);
  return {run,
          [options, &emulator] {
            if (emulator.value_or(std::vector<std::string>()).empty()) {
              throw CLI::RequiredError("-- EMULATOR [ARG...]");
            }
            ExpectNoneReplaced(
                {{"--stats", options->stats_path}, {"--record", options->record_path}},
                {{"--incoming", options->incoming},
                 {"--working-set", options->working_set},
                 {"--checksums", options->checksums}});
            options->eager = options->eager_word == "on";
            options->whole_windows = options->whole_windows_word == "on";
            options->command = *emulator;
            return RunEmulator(*options);
          },
          /*takes_emulator=*/true};
}

}  // namespace ramjet
