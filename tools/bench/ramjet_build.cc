#include "tools/bench/ramjet_build.h"

#include <sys/stat.h>

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tools/child_process.h"

namespace ramjet::bench {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(1);

// Of the command, and of what stands where `ramjet run` looks for its preload library.
std::string StampOf(const std::string& path) {
  std::error_code error;
  const std::filesystem::path command = std::filesystem::canonical(path, error);
  const std::filesystem::path directory = command.parent_path();
  std::string stamp;
  for (const std::filesystem::path& file : {command, directory / "libramjet_preload.so",
                                            directory / "../lib/ramjet/libramjet_preload.so"}) {
    struct stat info = {};
    if (stat(file.c_str(), &info) != 0) continue;
    absl::StrAppend(&stamp, file.string(), " ", info.st_dev, " ", info.st_ino, " ", info.st_size,
                    " ", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, "\n");
  }
  return stamp;
}

absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& argv) {
  absl::StatusOr<CommandResult> result = RunCommand(argv, absl::Now() + kTimeout);
  if (!result.ok()) return result.status();
  if (result->exit_status == 0) return std::move(result->out);
  return absl::FailedPreconditionError(absl::StrCat(argv[0], " ", argv[1], ": exit status ",
                                                    result->exit_status, ": ", result->err));
}

}  // namespace

absl::StatusOr<RamjetBuild> RamjetBuild::Find(const std::string& path) {
  std::error_code error;
  RamjetBuild build = {.path = std::filesystem::absolute(path, error).string(),
                       .version = "",
                       .stamp = StampOf(path)};
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  const absl::StatusOr<std::string> version = OutputOf({build.path, "--version"});
  if (!version.ok()) return version.status();
  build.version = version->substr(0, version->find('\n'));
  if (!absl::StartsWith(build.version, "ramjet ")) {
    return absl::InvalidArgumentError(
        absl::StrCat(build.path, " is no ramjet: its --version is \"", build.version, "\""));
  }
  const absl::StatusOr<std::string> runs = OutputOf({build.path, "run", "--", "true"});
  if (!runs.ok()) return runs.status();
  return build;
}

absl::Status RamjetBuild::IsUnchanged() const {
  if (StampOf(path) == stamp) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      path, ", or its preload library, was replaced meanwhile: compare copies that nobody builds"));
}

nlohmann::json RamjetBuild::AsJson() const { return {{"path", path}, {"version", version}}; }

}  // namespace ramjet::bench
