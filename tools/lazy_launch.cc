#include "tools/lazy_launch.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "tools/fd.h"

namespace ramjet {

std::string RamjetBesideUs() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "ramjet").string();
}

std::vector<std::string> RamjetRun(const std::string& ramjet, const std::string& stats_path) {
  return {ramjet, "run", "--stats", stats_path, "--"};
}

absl::StatusOr<nlohmann::json> WaitForCompleteStats(const std::string& stats_path,
                                                    absl::Time deadline) {
  const std::string directory = std::filesystem::path(stats_path).parent_path().string();
  const UniqueFd changes(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  // The file is replaced by a rename. Watched before it is first read, so no change is missed.
  if (inotify_add_watch(changes.get(), directory.c_str(), IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
    return absl::ErrnoToStatus(errno, directory);
  }
  while (true) {
    std::string contents;
    {
      const UniqueFd file(open(stats_path.c_str(), O_RDONLY | O_CLOEXEC));
      if (file.valid()) contents = ReadWhole(file.get());
    }
    nlohmann::json stats = nlohmann::json::parse(contents, nullptr, /*allow_exceptions=*/false);
    if (stats.is_object() && stats.value("complete", nlohmann::json()) == true) return stats;
    const absl::Status changed =
        WaitReadable(changes.get(), deadline, "\"complete\":true in the statistics");
    if (!changed.ok()) {
      return absl::Status(changed.code(),
                          absl::StrCat(changed.message(), "; ", stats_path,
                                       " says: ", contents.empty() ? "nothing" : contents));
    }
    char buffer[4096];
    while (read(changes.get(), buffer, sizeof(buffer)) > 0) {
    }
  }
}

double NumberAt(const nlohmann::json& object, const std::string& pointer) {
  const nlohmann::json::json_pointer place(pointer);
  if (!object.contains(place) || !object[place].is_number()) return 0;
  return object[place].get<double>();
}

}  // namespace ramjet
