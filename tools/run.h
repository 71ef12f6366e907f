// `ramjet run`: an unpatched emulator with the preload library in it.
#ifndef RAMJET_TOOLS_RUN_H_
#define RAMJET_TOOLS_RUN_H_

#include <cstdint>
#include <string>
#include <vector>

namespace ramjet {

struct RunOptions {
  std::string incoming;    // a snapshot that the emulator is told to load; empty: none
  std::string stats_path;  // where statistics go; empty: nowhere
  bool eager = true;
  unsigned eager_threads = 0;      // 0: as many as suit the machine
  uint64_t eager_bytes_per_s = 0;  // 0: no limit
  bool whole_windows = true;
  std::string direct = "auto";  // "on", "off"
  std::string record_path;      // where the working set goes; empty: nothing is recorded
  double record_seconds = 5;
  std::string working_set;           // whose pages are loaded first; empty: none
  std::string checksums;             // that all pages must have; empty: none are compared
  std::vector<std::string> command;  // the emulator and its arguments
};

// Becomes the emulator: same process, standard streams, signals and exit status. Returns, with exit
// status 1 and one line on stderr, only if that is impossible, or if the checksums are damaged or
// not those of `incoming`.
int RunEmulator(const RunOptions& options);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_RUN_H_
