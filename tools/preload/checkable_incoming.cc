#include "tools/preload/checkable_incoming.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ramjet {
namespace {

bool IsFile(absl::string_view uri) {
  if (absl::StartsWith(uri, "{")) {  // a MigrationChannel of QMP
    const nlohmann::json channel = nlohmann::json::parse(uri, nullptr, /*allow_exceptions=*/false);
    const nlohmann::json::json_pointer transport("/addr/transport");
    return channel.contains(transport) && channel[transport] == "file" &&
           channel.value("channel-type", nlohmann::json()) == "main";
  }
  int fd;
  if (absl::ConsumePrefix(&uri, "fd:") && absl::SimpleAtoi(uri, &fd)) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  }
  return absl::StartsWith(uri, "file:") || uri == "defer";
}

}  // namespace

absl::Status CheckIncoming(const std::vector<std::string>& command) {
  for (size_t i = 1; i + 1 < command.size(); ++i) {
    absl::string_view option = command[i];
    if (!absl::ConsumePrefix(&option, "-")) continue;
    absl::ConsumePrefix(&option, "-");
    if (option == "loadvm" || (option == "incoming" && !IsFile(command[i + 1]))) {
      return absl::FailedPreconditionError(
          absl::StrCat("-", option, " ", command[i + 1],
                       " cannot be compared with checksums; only a snapshot file can"));
    }
  }
  return absl::OkStatus();
}

}  // namespace ramjet
