// The `ramjet` command. Exit status: 0 done; 1 the file, the VM or the machine said no; 2 usage.
//
// Compiled with exceptions, as are the files named *_command.cc and no others, for CLI11 reports
// errors by them; none leaves main().
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "tools/commands.h"
#include "tools/error_line.h"

namespace {

constexpr char kDescription[] =
    "Resumes a virtual machine from a snapshot before its memory is loaded.\n"
    "\n"
    "  ramjet run --incoming vm.mr -- qemu-system-x86_64 -m 4G ...\n"
    "  ramjet save --qmp qmp.sock vm.mr\n"
    "  ramjet convert --from firecracker vm.mem vm.mr\n"
    "  ramjet inspect vm.mr\n"
    "  ramjet workingset --help\n"
    "  ramjet verify vm.mr\n"
    "  ramjet demo\n"
    "  ramjet bench";

// The one that the user meant, as he is to type it: "ramjet workingset show".
std::string MeantCommand(const CLI::App* app) {
  std::string words = app->get_name();
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().front();
    words += " " + app->get_name();
  }
  return words;
}

}  // namespace

// What CLI11 throws beside ParseError would be our own misuse of it.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app(kDescription, "ramjet");
  app.require_subcommand(1);
  app.set_version_flag("--version", "ramjet 0.1.0");

  // What comes after -- is the emulator's, whatever it looks like.
  char** const end = argv + argc;
  char** const separator = std::find(argv, end, std::string("--"));
  ramjet::Emulator emulator;
  if (separator != end) emulator.emplace(separator + 1, end);

  // In the order in which --help has them.
  const std::vector<ramjet::Command> commands = {
      ramjet::AddInspect(app),  ramjet::AddRun(app, emulator), ramjet::AddSave(app),
      ramjet::AddConvert(app),  ramjet::AddDemo(app),          ramjet::AddBench(app, emulator),
      ramjet::AddBenchVm(app),  ramjet::AddWorkingSet(app),    ramjet::AddVerify(app),
      ramjet::AddChecksum(app), ramjet::AddDiff(app)};
  try {
    app.parse(static_cast<int>(separator - argv), argv);
    const auto command =
        std::find_if(commands.begin(), commands.end(),
                     [](const ramjet::Command& each) { return each.app->parsed(); });
    if (emulator.has_value() && !command->takes_emulator) throw CLI::ExtrasError({"--"});
    return command->run();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::cerr << ramjet::ErrorLine(error.what()) << "Try: " << MeantCommand(&app) << " --help\n";
    return 2;
  }
}
