#include "tools/requirements.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tools/child_process.h"
#include "tools/test_guest.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

absl::StatusOr<std::string> QemuVersion() {
  const std::string before = "version ";
  const absl::StatusOr<CommandResult> result =
      RunCommand({"qemu-system-x86_64", "--version"}, absl::Now() + absl::Seconds(20));
  if (!result.ok()) {
    return absl::FailedPreconditionError("no qemu-system-x86_64 in PATH: run tools/setup");
  }
  const size_t begin = result->out.find(before);
  std::string version;
  if (begin != std::string::npos) {
    version = result->out.substr(begin + before.size());
    version.resize(std::min(version.find_first_not_of("0123456789."), version.size()));
  }
  int major = 0;
  if (!absl::SimpleAtoi(version.substr(0, version.find('.')), &major) || major < 9) {
    return absl::FailedPreconditionError(
        absl::StrCat("qemu-system-x86_64 is version ", version,
                     ", but mapped-ram files need 9.0: run tools/setup and do what it says"));
  }
  return version;
}

std::vector<std::string> MissingRequirements() {
  std::vector<std::string> missing;
  const auto require = [&](const absl::Status& status) {
    if (!status.ok()) missing.emplace_back(status.message());
  };
  require(QemuVersion().status());
  require(FindGuestKernel().status());
  require(FindBusybox().status());
  require(Userfaultfd::Open().status());
  return missing;
}

}  // namespace ramjet
