#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "tools/commands.h"
#include "tools/inspect.h"

namespace ramjet {
namespace {

constexpr char kInspectFooter[] =
    "With --devices, each device in the JSON object also has \"fields\", by name: numbers\n"
    "(timers in nanoseconds, -1 if off), true or false, null for a null pointer, arrays,\n"
    "objects for structs and subsections (\"device/subsection\"), strings of hexadecimal\n"
    "digits for plain bytes, and {\"opaque\": TYPE, \"bytes\": DIGITS} for what only the\n"
    "device's own code understands. \"fields\" is null if the file does not describe its\n"
    "devices (suppress-vmdesc=on, or cut off).";

}  // namespace

Command AddInspect(CLI::App& app) {
  struct Options : InspectOptions {
    std::string file = {};
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const inspect = app.add_subcommand(
      "inspect", "Says what is in a snapshot file, or in one line what is wrong with it.");
  inspect
      ->add_option("FILE", options->file, "The snapshot; behind libvirt's save image header, too")
      ->required();
  inspect->add_flag("--json", options->json, "Print one JSON object (schema ramjet.inspect/1)");
  inspect->add_flag("--devices", options->devices,
                    "Also decode the state of every device, field by field, as the file describes "
                    "it");
  inspect
      ->add_option("--offset", options->stream_offset,
                   "Where the stream begins, if not at the start")
      ->type_name("BYTES");
  inspect->footer(kInspectFooter);
  return {inspect, [options] { return RunInspect(options->file, *options); }};
}

}  // namespace ramjet
