#include "tools/bench/conditions.h"

#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"

namespace ramjet::bench {
namespace {

// What stands behind the first "KEY : " of /proc/cpuinfo.
std::string CpuInfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (absl::StartsWith(line, key) && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// "madvise" of "always [madvise] never".
std::string TransparentHugePages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  for (std::string word; file >> word;) {
    if (absl::StartsWith(word, "[")) return word.substr(1, word.size() - 2);
  }
  return "none";
}

// Of the mount that holds `path`: the longest mount point that it begins with.
std::string FileSystem(const std::string& path) {
  std::error_code error;
  const std::string whole = std::filesystem::canonical(path, error).string();
  std::ifstream mounts("/proc/self/mounts");
  std::string best = "unknown";
  size_t best_length = 0;
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string device;
    std::string point;
    std::string type;
    words >> device >> point >> type;
    const std::string prefix = point == "/" ? point : point + "/";
    if (absl::StartsWith(whole, prefix) && point.size() >= best_length) {
      best = type;
      best_length = point.size();
    }
  }
  return best;
}

}  // namespace

nlohmann::json DescribeMachine(const std::string& path) {
  utsname name = {};
  uname(&name);
  return {{"cpu", CpuInfo("model name")},
          {"cpus", sysconf(_SC_NPROCESSORS_ONLN)},
          {"memory_bytes", static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                               static_cast<uint64_t>(sysconf(_SC_PAGESIZE))},
          {"kernel", name.release},
          {"transparent_hugepages", TransparentHugePages()},
          {"filesystem", FileSystem(path)},
          {"hypervisor", absl::StrContains(absl::StrCat(CpuInfo("flags"), " "), " hypervisor ")}};
}

absl::StatusOr<SnapshotSummary> DescribeSnapshot(const std::string& path) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(*file);
  if (!description.ok()) return description.status();
  if (!description->complete.ok()) return description->complete;
  SnapshotSummary summary;
  uint64_t ram_bytes = 0;
  for (const SnapshotBlock& block : description->blocks) {
    ram_bytes += block.used_length;
    summary.nonzero_bytes += block.nonzero_pages * block.page_size;
    if (block.used_length > summary.largest_block_bytes) {
      summary.largest_block_bytes = block.used_length;
      summary.largest_block_nonzero_bytes = block.nonzero_pages * block.page_size;
    }
    summary.pages += block.pages();
  }
  if (description->stream_offset > 0) {
    summary.uri_options = absl::StrCat(",offset=", description->stream_offset);
  }
  struct stat info = {};
  fstat(file->fd(), &info);
  summary.object = {{"path", path},
                    {"file_bytes", static_cast<uint64_t>(info.st_blocks) * 512},
                    {"ram_bytes", ram_bytes},
                    {"nonzero_bytes", summary.nonzero_bytes},
                    {"blocks", description->blocks.size()}};
  return summary;
}

}  // namespace ramjet::bench
