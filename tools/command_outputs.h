// What commands that write files have in common. For files named *_command.cc only: it throws.
#ifndef RAMJET_TOOLS_COMMAND_OUTPUTS_H_
#define RAMJET_TOOLS_COMMAND_OUTPUTS_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "tools/same_file.h"

namespace ramjet {

inline std::string SidecarOf(const std::string& snapshot) { return snapshot + ".crc"; }

// Where --checksums says that those of `snapshot` go; empty: nowhere.
inline std::string SidecarOf(const std::string& snapshot, const std::string& flag) {
  return flag == "true" ? SidecarOf(snapshot) : flag;  // of a flag without a value, CLI11 has that
}

// Throws a CLI::ParseError if one of `outputs` is one of `inputs`, or another output.
inline void ExpectNoneReplaced(const std::vector<NamedFile>& outputs,
                               const std::vector<NamedFile>& inputs) {
  const std::string replaced = WhichIsReplaced(outputs, inputs);
  if (!replaced.empty()) throw CLI::ValidationError(replaced);
}

}  // namespace ramjet

#endif  // RAMJET_TOOLS_COMMAND_OUTPUTS_H_
