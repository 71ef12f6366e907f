// The commands of `ramjet`, as its command line has them: each in a file NAME_command.cc, with its
// options and the words of its --help, beside the file that does the work.
#ifndef RAMJET_TOOLS_COMMANDS_H_
#define RAMJET_TOOLS_COMMANDS_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}  // namespace CLI

namespace ramjet {

struct Command {
  CLI::App* app = nullptr;  // its part of the command line
  // Does what the options say, once they are parsed. Returns the exit status, or throws a
  // CLI::ParseError, before anything is done, if the options do not go together.
  std::function<int()> run;
  bool takes_emulator = false;  // whether there may be something behind --
};

// What stands behind --: a program and its arguments. Without a -- there is none.
using Emulator = std::optional<std::vector<std::string>>;

// Each adds its command to `app`. `app` and `emulator` outlive what is returned.
Command AddInspect(CLI::App& app);
Command AddRun(CLI::App& app, const Emulator& emulator);
Command AddSave(CLI::App& app);
Command AddConvert(CLI::App& app);
Command AddDemo(CLI::App& app);
Command AddBench(CLI::App& app, const Emulator& emulator);
Command AddBenchVm(CLI::App& app);  // hidden: one load of `bench` in a process of its own
Command AddWorkingSet(CLI::App& app);
Command AddVerify(CLI::App& app);
Command AddChecksum(CLI::App& app);
Command AddDiff(CLI::App& app);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_COMMANDS_H_
