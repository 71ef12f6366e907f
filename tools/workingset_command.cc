#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/commands.h"
#include "tools/workingset.h"

namespace ramjet {
namespace {

constexpr char kWorkingSetDescription[] =
    "Shows what is in a working set, or makes one of several.";

constexpr char kWorkingSetFooter[] =
    "A working set is a file that says which pages of a snapshot a guest touches first after its\n"
    "resume, in that order. `ramjet run --record` writes it; `ramjet run --working-set` loads "
    "those\n"
    "pages before all others, in bulk. It belongs to one snapshot and its copies.\n"
    "\n"
    "Example:\n"
    "  ramjet run --record vm.ws --incoming vm.mr -- qemu-system-x86_64 ...\n"
    "  ramjet workingset show vm.ws --snapshot vm.mr\n"
    "  ramjet workingset merge -o vm.ws monday.ws tuesday.ws\n"
    "  ramjet run --working-set vm.ws --incoming vm.mr -- qemu-system-x86_64 ...";

constexpr char kMergeDescription[] =
    "Writes the union of several records of one snapshot: pages that are in most of them first, "
    "and\namong those the ones that were touched the earliest.";

}  // namespace

Command AddWorkingSet(CLI::App& app) {
  struct Options {
    std::string file;
    std::string snapshot;
    std::optional<uint64_t> stream_offset;
    bool json = false;
    std::vector<std::string> files;
    std::string out;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const workingset = app.add_subcommand("workingset", kWorkingSetDescription);
  workingset->require_subcommand(1);
  workingset->footer(kWorkingSetFooter);
  CLI::App* const show = workingset->add_subcommand(
      "show", "Says what is in a working set: how much of which block, and what comes first.");
  show->add_option("FILE", options->file, "The working set")->required();
  CLI::Option* const belongs =
      show->add_option("--snapshot", options->snapshot,
                       "Say, also by the exit status, whether it belongs to this snapshot")
          ->type_name("FILE");
  show->add_option("--offset", options->stream_offset,
                   "Where the stream begins in the snapshot, if not at the start")
      ->type_name("BYTES")
      ->needs(belongs);
  show->add_flag("--json", options->json, "Print one JSON object (schema ramjet.workingset/1)");
  CLI::App* const merge = workingset->add_subcommand("merge", kMergeDescription);
  merge->add_option("FILE", options->files, "Working sets of the same snapshot")->required();
  merge->add_option("-o,--output", options->out, "Where the union goes; may be one of them")
      ->type_name("FILE")
      ->required();
  return {workingset, [=] {
            if (merge->parsed()) return MergeWorkingSetFiles(options->files, options->out);
            return ShowWorkingSet(options->file, options->snapshot, options->stream_offset,
                                  options->json);
          }};
}

}  // namespace ramjet
