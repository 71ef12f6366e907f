#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "tools/commands.h"
#include "tools/demo.h"

namespace ramjet {

Command AddDemo(CLI::App& app) {
  const auto options = std::make_shared<DemoOptions>();
  CLI::App* const demo = app.add_subcommand("demo",
                                            "Boots a small Linux guest, saves it, and restores it "
                                            "with and without ramjet. With --embedded\n"
                                            "the guest is a program of our own, on /dev/kvm or "
                                            "played by threads, and no QEMU is needed.");
  CLI::Option* const embedded =
      demo->add_flag("--embedded", options->embedded, "A VM of our own instead of QEMU");
  demo->add_option("--memory", options->memory_mib,
                   "Memory of the guest (default: 1024; embedded: 256, at most 3072)")
      ->type_name("MIB")
      ->check(CLI::Range(uint64_t{16}, uint64_t{65536}));
  demo->add_option("--vcpus", options->vcpus, "vCPUs of the embedded VM (default: 1)")
      ->check(CLI::Range(1, 64))
      ->needs(embedded);
  demo->add_option("--rounds", options->rounds, "Restores of each kind (default: 3)")
      ->check(CLI::Range(1, 100));
  demo->add_option("--accel", options->accel, "QEMU's accelerator (default: tcg)")
      ->check(CLI::IsMember({"tcg", "kvm"}))
      ->excludes(embedded);
  demo->add_flag("--keep", options->keep, "Leave the snapshot behind, and say where");
  demo->add_flag("--json", options->json, "Print one JSON object (schema ramjet.demo/1)");
  return {demo, [options] { return RunDemo(*options); }};
}

}  // namespace ramjet
