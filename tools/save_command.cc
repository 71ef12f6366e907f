#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "tools/command_outputs.h"
#include "tools/commands.h"
#include "tools/save.h"

namespace ramjet {
namespace {

constexpr char kSaveDescription[] = "Saves a guest that runs in QEMU (9.0 or later) as a snapshot.";

constexpr char kSaveFooter[] =
    "The guest is stopped while its memory is written, and then runs on; with --live it runs "
    "meanwhile,\n"
    "and is stopped only for what it has changed last. FILE appears, or is replaced, when it is "
    "complete\n"
    "and on the disk, and so do its checksums. Ctrl-C gives up and leaves no file; "
    "the\n"
    "guest runs on.\n"
    "\n"
    "QEMU has its monitor there by -qmp unix:qmp.sock,server=on,wait=off. It is handed the open "
    "file, and\n"
    "needs no access to the directory.\n"
    "\n"
    "Example:\n"
    "  ramjet save --qmp qmp.sock vm.mr\n"
    "  ramjet run --incoming vm.mr -- qemu-system-x86_64 ...";

}  // namespace

Command AddSave(CLI::App& app) {
  struct Options : SaveOptions {
    std::string sidecar = {};
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const save = app.add_subcommand("save", kSaveDescription);
  save->add_option("FILE", options->path, "The snapshot")->required();
  save->add_option("--qmp", options->socket, "QEMU's monitor: a unix socket that speaks QMP")
      ->type_name("SOCKET")
      ->required();
  save->add_flag("--live", options->live,
                 "Let the guest run meanwhile; if it changes its memory faster than that can be "
                 "written, it\nis stopped after some passes");
  save->add_flag("--leave-stopped", options->leave_stopped,
                 "Do not let the guest run on afterwards");
  CLI::Option* const channels =
      save->add_option("--multifd-channels", options->settings.multifd_channels,
                       "Let QEMU write with that many threads (default: its main one only)")
          ->type_name("N")
          ->check(CLI::Range(1, 255));
  save->add_flag("--direct-io", options->settings.direct_io,
                 "Write past the page cache; with --multifd-channels, QEMU 9.1 or later")
      ->needs(channels);
  save->add_option("--rate", options->settings.bytes_per_s,
                   "Write no more than that in a second, e.g. 200MB (default: no limit)")
      ->type_name("BYTES")
      ->transform(CLI::AsSizeValue(false));
  save->add_flag(
      "--checksums", options->sidecar,
      "Also make checksums of its pages, as ramjet checksum does, in FILE.crc; or where\n"
      "--checksums=SIDECAR says");
  save->add_flag("!--no-sync", options->sync, "Do not wait until the file is on the disk");
  save->add_flag("--json", options->json, "Print one JSON object (schema ramjet.save/1)");
  save->footer(kSaveFooter);
  return {save, [options] {
            options->checksums = SidecarOf(options->path, options->sidecar);
            ExpectNoneReplaced({{"FILE", options->path}, {"--checksums", options->checksums}}, {});
            return RunSave(*options);
          }};
}

}  // namespace ramjet
