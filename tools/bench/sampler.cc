#include "tools/bench/sampler.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tools/fd.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

constexpr absl::Duration kPause = absl::Milliseconds(3);
constexpr uint64_t kMostCells = 8192;
constexpr int kColumns = 128;
constexpr size_t kMostPoints = 200;
constexpr uint64_t kPresent = uint64_t{1} << 63;  // of an entry of /proc/PID/pagemap

// Of a value that says when something came, in relation to `start`.
double MsSince(uint64_t start, uint64_t ns) {
  return ns > start ? static_cast<double>(ns - start) / 1e6 : 0;
}

}  // namespace

Sampler::Sampler(pid_t pid, AddressRange ram)
    : pid_(pid),
      ram_(ram),
      page_size_(static_cast<uint64_t>(sysconf(_SC_PAGESIZE))),
      first_bytes_(ResidentBytes(pid)),
      start_ns_(MonotonicNs()),
      present_since_ns_(ram.length / page_size_, kNever) {
  thread_ = std::thread(&Sampler::Watch, this);
}

void Sampler::Stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void Sampler::Watch() {
  const UniqueFd pagemap(
      open(absl::StrCat("/proc/", pid_, "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  std::vector<uint64_t> entries(present_since_ns_.size());
  bool last = false;
  while (true) {
    const uint64_t bytes = ResidentBytes(pid_);
    resident_.emplace_back(MonotonicNs(), bytes > first_bytes_ ? bytes - first_bytes_ : 0);
    NoteNewPages(pagemap.get(), MonotonicNs(), &entries);
    if (last) return;
    last = stop_;  // and looks once more
    absl::SleepFor(kPause);
  }
}

void Sampler::NoteNewPages(int pagemap, uint64_t now_ns, std::vector<uint64_t>* entries) {
  const ssize_t got = pread(pagemap, entries->data(), entries->size() * sizeof(uint64_t),
                            static_cast<off_t>(ram_.start / page_size_ * sizeof(uint64_t)));
  if (got < 0) return;
  for (size_t page = 0; page < static_cast<size_t>(got) / sizeof(uint64_t); ++page) {
    if (((*entries)[page] & kPresent) != 0 && present_since_ns_[page] == kNever) {
      present_since_ns_[page] = now_ns;
    }
  }
}

json Sampler::Resident() const {
  json points = json::array();
  for (const auto& [ns, bytes] : resident_) {
    points.push_back({MsSince(start_ns_, ns) / 1e3, bytes});
  }
  return points;
}

// A cell is as many pages as it takes; of several reasons in it the worst for the guest counts.
json Sampler::Map(absl::FunctionRef<bool(uint64_t page)> page_is_zero,
                  absl::FunctionRef<const char*(uint64_t page)> why) const {
  const auto rank = [](const std::string& reason) {
    const std::vector<std::string> kRanks = {"zero", "present", "eager", "working-set", "demand"};
    return std::find(kRanks.begin(), kRanks.end(), reason) - kRanks.begin();
  };
  const uint64_t pages = present_since_ns_.size();
  const uint64_t pages_a_cell = (pages + kMostCells - 1) / kMostCells;
  json cells = json::array();
  for (uint64_t first = 0; first < pages; first += pages_a_cell) {
    std::string reason = "zero";
    uint64_t since_ns = kNever;
    for (uint64_t page = first; page < std::min(first + pages_a_cell, pages); ++page) {
      if (page_is_zero(page) || present_since_ns_[page] == kNever) continue;
      since_ns = std::min(since_ns, present_since_ns_[page]);
      const std::string of_page = why(page);
      if (rank(of_page) > rank(reason)) reason = of_page;
    }
    cells.push_back({reason, reason == "zero" ? json() : json(MsSince(start_ns_, since_ns))});
  }
  return {{"columns", kColumns}, {"cells", std::move(cells)}};
}

json StallDistribution(std::vector<Stall> stalls) {
  std::sort(stalls.begin(), stalls.end(),
            [](const Stall& one, const Stall& other) { return one.ns < other.ns; });
  json points = json::array();
  const size_t count = std::min(stalls.size(), kMostPoints);
  for (size_t i = 1; i <= count; ++i) {
    const size_t at = stalls.size() * i / count;
    points.push_back(
        {stalls[at - 1].ns / 1e3, static_cast<double>(at) / static_cast<double>(stalls.size())});
  }
  return points;
}

}  // namespace ramjet::bench
