// How long a fault takes while everything else is loaded at full speed, against how long it takes
// when nothing else is, in one run, in turn.
//
//   bazel run //tests:fault_benchmark -- [--memory-mib 512] [--rounds 5] [--guests 1] [--cold]
//
// Guests touch random pages; the eager threads load the rest (or do not), until everything is there
// or as many faults were taken. "service" is from reading the event to the waking of the waiter, as
// LoadStats counts it; "stall" is what the guest's instruction takes.
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "loader/snapshot_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

struct Settings {
  uint64_t memory_mib = 512;
  int rounds = 5;
  unsigned guests = 1;
  unsigned eager_threads = 2;
  bool cold = false;
};

struct Sample {
  uint64_t faults = 0;
  double service_p50 = 0;  // all in microseconds
  double service_p99 = 0;
  double stall_p50 = 0;
  double stall_p99 = 0;
  double seconds = 0;
};

double Quantile(std::vector<uint64_t>& values, double fraction) {
  if (values.empty()) return 0;
  const auto at = static_cast<ptrdiff_t>(fraction * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return static_cast<double>(values[static_cast<size_t>(at)]) / 1000;
}

uint64_t NowNs() { return static_cast<uint64_t>(absl::GetCurrentTimeNanos()); }

void DropFromCache(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  (void)fdatasync(fd);
  (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

// Touches pages until the load is complete or `most_faults` were slow enough to have been faults.
std::vector<uint64_t> PlayGuest(const GuestMemory& memory, unsigned seed, uint64_t most_faults,
                                const std::atomic<bool>& complete) {
  constexpr uint64_t kFaultNs = 2000;
  std::vector<uint64_t> stalls;
  std::mt19937_64 random(seed);
  const uint64_t pages = memory.length() / HostPageBytes();
  while (!complete && stalls.size() < most_faults) {
    const uint64_t page = random() % pages;
    const uint64_t before = NowNs();
    (void)*static_cast<volatile const uint8_t*>(memory.data() + page * HostPageBytes());
    const uint64_t took = NowNs() - before;
    if (took > kFaultNs) stalls.push_back(took);
  }
  return stalls;
}

Sample Measure(const Settings& settings, const std::string& path, bool eager,
               uint64_t most_faults) {
  if (settings.cold) DropFromCache(path);
  GuestMemory memory(settings.memory_mib << 20, BlockMemory::kPrivate);
  // The host backs a VM's memory at its first touch, ten times slower than at the second.
  std::fill_n(memory.data(), memory.length(), 1);
  auto loader = SnapshotLoader::Create(*Snapshot::Open(*File::Open(path)),
                                       {.eager_threads = settings.eager_threads,
                                        .whole_windows = false});  // single pages are measured
  if (!loader.ok() || !(*loader)->Attach(0, {.host = memory.data()}).ok()) std::abort();
  const uint64_t begun = NowNs();
  if (eager && !(*loader)->StartEager().ok()) std::abort();
  std::atomic<bool> complete{false};
  std::vector<std::vector<uint64_t>> stalls(settings.guests);
  std::vector<std::thread> guests;
  for (unsigned guest = 0; guest < settings.guests; ++guest) {
    guests.emplace_back([&, guest] {
      stalls[guest] = PlayGuest(memory, guest, most_faults / settings.guests, complete);
    });
  }
  if (eager && !(*loader)->Wait().ok()) std::abort();
  const uint64_t ended = NowNs();
  complete = eager;
  for (std::thread& guest : guests) guest.join();
  std::vector<uint64_t> all;
  for (const auto& some : stalls) all.insert(all.end(), some.begin(), some.end());
  const LatencyHistogram& service = (*loader)->stats().fault_ns;
  const Sample sample{.faults = service.count(),
                      .service_p50 = static_cast<double>(service.QuantileNs(0.5)) / 1000,
                      .service_p99 = static_cast<double>(service.QuantileNs(0.99)) / 1000,
                      .stall_p50 = Quantile(all, 0.5),
                      .stall_p99 = Quantile(all, 0.99),
                      .seconds = static_cast<double>(ended - begun) / 1e9};
  (*loader)->Abandon();
  return sample;
}

double Median(const std::vector<Sample>& samples, double Sample::*field) {
  std::vector<double> values;
  for (const Sample& sample : samples) values.push_back(sample.*field);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Print(const char* name, const std::vector<Sample>& samples) {
  std::printf("%-10s %8lu %12.1f %12.1f %12.1f %12.1f %10.3f\n", name, samples.back().faults,
              Median(samples, &Sample::service_p50), Median(samples, &Sample::service_p99),
              Median(samples, &Sample::stall_p50), Median(samples, &Sample::stall_p99),
              Median(samples, &Sample::seconds));
}

int Main(const Settings& settings) {
  const std::string path = "fault_benchmark." + std::to_string(getpid()) + ".mr";
  SnapshotContent content;
  const uint64_t pages = (settings.memory_mib << 20) / HostPageBytes();
  content.blocks.push_back({.idstr = "ram",
                            .used_length = settings.memory_mib << 20,
                            .page_size = HostPageBytes(),
                            .nonzero = {{0, pages}}});
  if (const absl::Status written = WriteSnapshot(content, path); !written.ok()) {
    std::fprintf(stderr, "fault_benchmark: %s\n", written.ToString().c_str());
    return 1;
  }
  utsname machine;
  uname(&machine);
  std::printf(
      "Linux %s, %u processors, %lu MiB, %u guest(s), %u eager threads, %s cache, medians "
      "of %d rounds in turn; microseconds\n",
      machine.release, std::thread::hardware_concurrency(), settings.memory_mib, settings.guests,
      settings.eager_threads, settings.cold ? "cold" : "warm", settings.rounds);
  std::vector<Sample> with;
  std::vector<Sample> without;
  for (int round = 0; round < settings.rounds; ++round) {
    with.push_back(Measure(settings, path, true, UINT64_MAX));
    without.push_back(Measure(settings, path, false, std::max<uint64_t>(with.back().faults, 500)));
  }
  unlink(path.c_str());
  std::printf("%-10s %8s %12s %12s %12s %12s %10s\n", "", "faults", "service p50", "service p99",
              "stall p50", "stall p99", "seconds");
  Print("on demand", without);
  Print("with eager", with);
  std::printf("ratio p99: service %.2f, stall %.2f\n",
              Median(with, &Sample::service_p99) / Median(without, &Sample::service_p99),
              Median(with, &Sample::stall_p99) / Median(without, &Sample::stall_p99));
  return 0;
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  ramjet::Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--cold") {
      settings.cold = true;
      continue;
    }
    const long value = i + 1 < argc ? std::atol(argv[++i]) : 0;
    if (name == "--memory-mib" && value > 0) {
      settings.memory_mib = static_cast<uint64_t>(value);
    } else if (name == "--rounds" && value > 0) {
      settings.rounds = static_cast<int>(value);
    } else if (name == "--guests" && value > 0) {
      settings.guests = static_cast<unsigned>(value);
    } else if (name == "--eager-threads" && value > 0) {
      settings.eager_threads = static_cast<unsigned>(value);
    } else {
      std::fprintf(stderr,
                   "usage: fault_benchmark [--memory-mib N] [--rounds N] [--guests N] "
                   "[--eager-threads N] [--cold]\n");
      return 2;
    }
  }
  if (const absl::Status can = ramjet::Userfaultfd::Open().status(); !can.ok()) {
    std::fprintf(stderr, "fault_benchmark: %s\n", can.ToString().c_str());
    return 1;
  }
  return ramjet::Main(settings);
}
