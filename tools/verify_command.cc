#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "tools/command_outputs.h"
#include "tools/commands.h"
#include "tools/verify.h"

namespace ramjet {
namespace {

constexpr char kVerifyDescription[] =
    "Reads all of a snapshot: whether it is complete, its pages are readable and, with checksums, "
    "are what was saved.";

constexpr char kDiffDescription[] =
    "Says in which pages the RAM of two snapshots differs. Exit status 0: in none; 1: in some, or "
    "a file cannot be read.";

}  // namespace

Command AddVerify(CLI::App& app) {
  struct Options {
    std::string file;
    std::string checksums;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const verify = app.add_subcommand("verify", kVerifyDescription);
  verify->add_option("FILE", options->file, "The snapshot")->required();
  verify->add_option("--checksums", options->checksums, "What `ramjet checksum` wrote of it")
      ->type_name("SIDECAR");
  verify->add_flag("--json", options->json, "Print one JSON object (schema ramjet.verify/1)");
  return {verify,
          [options] { return VerifySnapshot(options->file, options->checksums, options->json); }};
}

Command AddChecksum(CLI::App& app) {
  struct Options {
    std::string file;
    std::string out;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const checksum =
      app.add_subcommand("checksum", "Writes checksums of a snapshot's pages to a small file.");
  checksum->add_option("FILE", options->file, "The snapshot")->required();
  checksum->add_option("SIDECAR", options->out, "Where they go (default: FILE.crc)");
  return {checksum, [options] {
            ExpectNoneReplaced({{"SIDECAR", options->out}}, {{"FILE", options->file}});
            return ChecksumSnapshot(options->file,
                                    options->out.empty() ? SidecarOf(options->file) : options->out);
          }};
}

Command AddDiff(CLI::App& app) {
  struct Options {
    std::string file;
    std::string other;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* const diff = app.add_subcommand("diff", kDiffDescription);
  diff->add_option("A", options->file, "A snapshot")->required();
  diff->add_option("B", options->other, "Another")->required();
  diff->add_flag("--json", options->json, "Print one JSON object (schema ramjet.diff/1)");
  return {diff, [options] { return DiffSnapshots(options->file, options->other, options->json); }};
}

}  // namespace ramjet
