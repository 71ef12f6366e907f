#include "tools/foreign_snapshot.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <system_error>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/file.h"
#include "mappedram/firecracker_state.h"
#include "mappedram/format.h"

namespace ramjet {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kPageBytes = 4096;
// Firecracker refuses state files that are larger.
constexpr uint64_t kMaxStateBytes = 10'000'000;

bool IsThere(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

// Of Cloud Hypervisor, and what to do about it; empty if `directory` is not.
std::string NameDirectory(const fs::path& directory) {
  if (!IsThere(directory / "state.json")) return "";
  if (IsThere(directory / "config.json")) {
    return absl::StrCat("a snapshot directory of Cloud Hypervisor: ramjet convert ",
                        directory.string(), " vm.mr");
  }
  if (!IsThere(directory / "migration_config.json")) return "";
  return absl::StrCat(
      "a directory of Cloud Hypervisor's offload daemon, which ramjet does not convert: take a "
      "snapshot (ch-remote snapshot), or convert the memory alone: ramjet convert --from raw ",
      (directory / "memory-0").string(), " vm.mr");
}

std::string NamePlainFile(const std::string& path) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return "";
  std::string bytes(std::min(file->size(), kMaxStateBytes), '\0');
  if (!file->ReadAt(0, {reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()}).ok()) return "";
  if (absl::StartsWith(bytes, "QEVM") || absl::StartsWith(bytes, kSaveImageMagic) ||
      absl::StartsWith(bytes, kSaveImagePartMagic)) {
    return "";
  }
  const absl::StatusOr<FirecrackerState> state = ParseFirecrackerState(bytes);
  if (!absl::IsInvalidArgument(state.status())) {
    return absl::StrCat("is Firecracker's state file",
                        state.ok() ? absl::StrCat(" (version ", state->version, ")") : " (damaged)",
                        ", not its memory: ramjet convert --from firecracker --vmstate ", path,
                        " MEMORY vm.mr");
  }
  const fs::path name = fs::path(path).filename();
  if (name == "memory-ranges" || absl::EndsWith(name.string(), ".json") ||
      absl::StartsWith(name.string(), "memory-")) {
    fs::path directory = fs::path(path).parent_path();
    if (directory.empty()) directory = ".";
    const std::string words = NameDirectory(directory);
    if (!words.empty()) return absl::StrCat("belongs to ", words);
  }
  if (file->size() == 0 || file->size() % kPageBytes != 0) return "";
  return absl::StrCat(
      "is no mapped-ram file, but can be a guest's plain memory; of Firecracker: ramjet convert "
      "--from firecracker [--base FULL] --vmstate STATE ",
      path, " vm.mr; of others: --from raw");
}

}  // namespace

absl::Status NameForeignSnapshot(const std::string& path, const absl::Status& error,
                                 std::optional<uint64_t> stream_offset) {
  if (stream_offset) return error;
  std::error_code ignored;
  std::string words;
  if (fs::is_directory(path, ignored)) {
    words = NameDirectory(path);
    if (!words.empty()) words = absl::StrCat("is ", words);
  } else {
    words = NamePlainFile(path);
  }
  return words.empty() ? error : absl::InvalidArgumentError(absl::StrCat(path, ": ", words));
}

}  // namespace ramjet
