// How an emulator is started under `ramjet run`, and what is known of the load afterwards.
#ifndef RAMJET_TOOLS_LAZY_LAUNCH_H_
#define RAMJET_TOOLS_LAZY_LAUNCH_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace ramjet {

// The `ramjet` command in the directory of this program's own executable.
std::string RamjetBesideUs();

// What stands before the emulator, so that statistics (docs/design.md, schema ramjet.stats/1) go to
// `stats_path`.
std::vector<std::string> RamjetRun(const std::string& ramjet, const std::string& stats_path);

// The statistics once they say `"complete":true`. Watches the directory, so it returns within
// microseconds of the file's arrival. DeadlineExceeded tells what the file says meanwhile.
absl::StatusOr<nlohmann::json> WaitForCompleteStats(const std::string& stats_path,
                                                    absl::Time deadline);

// The number at a JSON pointer, 0 if there is none.
double NumberAt(const nlohmann::json& object, const std::string& pointer);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_LAZY_LAUNCH_H_
