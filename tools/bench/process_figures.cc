#include "tools/bench/process_figures.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ramjet::bench {
namespace {

std::string PathOf(pid_t pid, const char* name) { return absl::StrCat("/proc/", pid, "/", name); }

// The number behind `key` ("VmHWM:") in a file of such lines.
uint64_t NumberIn(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    uint64_t number = 0;
    if (word == key && file >> number) return number;
  }
  return 0;
}

struct Mapping {
  AddressRange range;
  std::string permissions;
};

std::optional<Mapping> ParseMapping(const std::string& line) {
  uint64_t start = 0;
  uint64_t end = 0;
  char permissions[5] = {};
  if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, permissions) != 3) {
    return std::nullopt;
  }
  return Mapping{{start, end - start}, permissions};
}

uint64_t ThreadNs(pid_t pid, pid_t thread) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/task/", thread, "/schedstat"));
  uint64_t ns = 0;
  file >> ns;
  return ns;
}

}  // namespace

RangeFigures FiguresOf(pid_t pid, AddressRange range) {
  RangeFigures figures;
  std::ifstream smaps(PathOf(pid, "smaps"));
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uint64_t kib = 0;
    if (std::sscanf(line.c_str(), "Rss: %" SCNu64, &kib) == 1) {
      if (inside) figures.resident_bytes += kib << 10;
    } else if (std::sscanf(line.c_str(), "AnonHugePages: %" SCNu64, &kib) == 1) {
      if (inside) figures.huge_bytes += kib << 10;
    } else if (const std::optional<Mapping> mapping = ParseMapping(line)) {
      inside =
          mapping->range.start >= range.start && mapping->range.start < range.start + range.length;
    }
  }
  return figures;
}

uint64_t ResidentBytes(pid_t pid) {
  std::ifstream statm(PathOf(pid, "statm"));
  uint64_t all = 0;
  uint64_t resident = 0;
  statm >> all >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t PeakResidentBytes(pid_t pid) { return NumberIn(PathOf(pid, "status"), "VmHWM:") << 10; }

void ResetPeak(pid_t pid) { std::ofstream(PathOf(pid, "clear_refs")) << "5"; }

uint64_t ReadBytes(pid_t pid) { return NumberIn(PathOf(pid, "io"), "read_bytes:"); }

double CpuSeconds(pid_t pid, const std::vector<pid_t>& without) {
  clockid_t clock;
  timespec time = {};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  double ns = static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
  for (const pid_t thread : without) ns -= static_cast<double>(ThreadNs(pid, thread));
  return std::max(ns, 0.0) / 1e9;
}

std::optional<AddressRange> FindGuestRam(pid_t pid, uint64_t length) {
  std::optional<AddressRange> best;
  AddressRange group;
  const auto close_group = [&] {
    if (group.length >= length && (!best || group.length < best->length)) best = group;
    group = {};
  };
  std::ifstream maps(PathOf(pid, "maps"));
  for (std::string line; std::getline(maps, line);) {
    const std::optional<Mapping> mapping = ParseMapping(line);
    if (!mapping || !absl::StartsWith(mapping->permissions, "rw-")) {
      close_group();
      continue;
    }
    if (group.start + group.length != mapping->range.start) close_group();
    if (group.length == 0) group.start = mapping->range.start;
    group.length += mapping->range.length;
  }
  close_group();
  return best;
}

ProcessBaseline::ProcessBaseline(pid_t pid, AddressRange ram, std::vector<pid_t> vcpu_threads)
    : pid_(pid), ram_(ram), vcpu_threads_(std::move(vcpu_threads)) {
  ResetPeak(pid);
  bytes_beyond_ram_ = ResidentBytes(pid) - FiguresOf(pid, ram).resident_bytes;
  read_bytes_ = bench::ReadBytes(pid);
  cpu_seconds_ = bench::CpuSeconds(pid, vcpu_threads_);
}

double ProcessBaseline::CpuSeconds() const {
  return std::max(bench::CpuSeconds(pid_, vcpu_threads_) - cpu_seconds_, 0.0);
}

uint64_t ProcessBaseline::PeakBytesBeyondRam() const {
  const uint64_t expected = bytes_beyond_ram_ + FiguresOf(pid_, ram_).resident_bytes;
  const uint64_t peak = PeakResidentBytes(pid_);
  return peak > expected ? peak - expected : 0;
}

}  // namespace ramjet::bench
