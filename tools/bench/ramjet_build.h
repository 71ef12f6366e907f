// One of the two builds of ramjet that `ramjet bench --against` compares.
#ifndef RAMJET_TOOLS_BENCH_RAMJET_BUILD_H_
#define RAMJET_TOOLS_BENCH_RAMJET_BUILD_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace ramjet::bench {

struct RamjetBuild {
  std::string path;     // of the command, absolute
  std::string version;  // as it says
  std::string stamp;    // changes when the command or its preload library is replaced

  // Runs the command, to see that it is ramjet and that it finds its preload library.
  static absl::StatusOr<RamjetBuild> Find(const std::string& path);
  // FailedPrecondition if it has been replaced since.
  absl::Status IsUnchanged() const;
  nlohmann::json AsJson() const;  // path, version
};

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_RAMJET_BUILD_H_
