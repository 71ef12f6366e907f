#include "tools/bench/vm_bench.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tools/bench/kvm_toucher.h"
#include "tools/bench/process_figures.h"
#include "tools/bench/sampler.h"
#include "tools/bench/vm_load.h"
#include "tools/bench/workload.h"
#include "tools/child_process.h"
#include "tools/page_cache.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

constexpr absl::Duration kTimeout = absl::Minutes(10);
constexpr uint64_t kHugePageBytes = 2 << 20;

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string{status.message()}.c_str());
  std::_Exit(1);
}

// Reserved, with huge pages where the kernel finds any, as VMMs do; never given back.
absl::StatusOr<absl::Span<uint8_t>> ReserveGuestRam(uint64_t length) {
  void* const mapped = mmap(nullptr, length + kHugePageBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of guest memory");
  const uintptr_t start =
      (reinterpret_cast<uintptr_t>(mapped) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  uint8_t* const memory =
      static_cast<uint8_t*>(mapped) + (start - reinterpret_cast<uintptr_t>(mapped));
  madvise(memory, length, MADV_HUGEPAGE);
  return absl::MakeSpan(memory, length);
}

std::vector<uint32_t> PagesOf(const PageBitmap& bitmap) {
  std::vector<uint32_t> pages;
  for (uint64_t page = 0; page < bitmap.size();) {
    const std::optional<PageRun> run = bitmap.FindRun(true, page, bitmap.size());
    if (!run) break;
    for (page = run->first; page < run->end(); ++page) pages.push_back(static_cast<uint32_t>(page));
  }
  return pages;
}

absl::StatusOr<std::vector<std::unique_ptr<Toucher>>> MakeTouchers(const std::string& vcpu,
                                                                   const Workload& workload,
                                                                   absl::Span<uint8_t> memory,
                                                                   uint64_t page_size) {
  if (vcpu == "kvm") return MakeKvmTouchers(workload, memory, page_size);
  std::vector<std::unique_ptr<Toucher>> touchers;
  for (const std::vector<uint32_t>& pages : workload.pages) {
    touchers.push_back(std::make_unique<Toucher>(pages, workload.write, memory, page_size));
  }
  return touchers;
}

// Its threads are there, prepared, and wait when it is made; they run from Release() on.
class Vcpus {
 public:
  explicit Vcpus(std::vector<std::unique_ptr<Toucher>> touchers)
      : touchers_(std::move(touchers)), to_prepare_(static_cast<int>(touchers_.size())) {
    for (const std::unique_ptr<Toucher>& toucher : touchers_) {
      threads_.emplace_back([this, &toucher] {
        absl::Status status = toucher->Prepare();
        to_prepare_.DecrementCount();
        released_.WaitForNotification();
        if (status.ok() && !cancelled_) status = toucher->Run();
        if (!status.ok()) Die(status);
      });
    }
    to_prepare_.Wait();
  }
  ~Vcpus() {
    if (!released_.HasBeenNotified()) {
      cancelled_ = true;
      released_.Notify();
    }
    Join();
  }
  Vcpus(const Vcpus&) = delete;
  Vcpus& operator=(const Vcpus&) = delete;

  void Release() { released_.Notify(); }
  void Join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  const std::vector<std::unique_ptr<Toucher>>& touchers() const { return touchers_; }

 private:
  const std::vector<std::unique_ptr<Toucher>> touchers_;
  absl::BlockingCounter to_prepare_;
  bool cancelled_ = false;  // written before the notification
  absl::Notification released_;
  std::vector<std::thread> threads_;
};

void AddStalls(const std::vector<Stall>& stalls, std::map<std::string, double>* values) {
  (*values)["stall_count"] = static_cast<double>(stalls.size());
  if (stalls.empty()) return;
  std::vector<double> us;
  us.reserve(stalls.size());
  for (const Stall& stall : stalls) us.push_back(stall.ns / 1e3);
  (*values)["stall_p50"] = Quantile(us, 0.5);
  (*values)["stall_p99"] = Quantile(us, 0.99);
  (*values)["stall_p999"] = Quantile(us, 0.999);
  (*values)["stall_max"] = us.back();
}

// Why pages came is known from who had to wait for them: the kernel does not say.
json Picture(const Sampler& sampler, const PageBitmap& nonzero, const std::string& contestant,
             const Workload& workload, const std::vector<Stall>& stalls) {
  std::vector<bool> waited_for(nonzero.size());
  for (const Stall& stall : stalls) waited_for[stall.page] = true;
  std::vector<bool> recorded(nonzero.size());
  if (contestant == "ramjet-ws") {
    for (const auto& pages : workload.pages) {
      for (const uint32_t page : pages) recorded[page] = true;
    }
  }
  const bool all_at_once = contestant == "full-read";
  const auto why = [&](uint64_t page) {
    if (all_at_once) return "present";
    if (waited_for[page]) return "demand";
    return recorded[page] ? "working-set" : "eager";
  };
  return {{"resident", sampler.Resident()},
          {"stalls", StallDistribution(stalls)},
          {"map", sampler.Map([&](uint64_t page) { return !nonzero.Test(page); }, why)}};
}

absl::StatusOr<WatchedRun> Measure(const VmBenchOptions& options) {
  absl::StatusOr<File> file = File::Open(options.snapshot);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  if (!snapshot.ok()) return snapshot.status();
  const std::vector<SnapshotBlock>& blocks = (*snapshot)->blocks();
  const auto largest = std::max_element(blocks.begin(), blocks.end(),
                                        [](const SnapshotBlock& one, const SnapshotBlock& other) {
                                          return one.used_length < other.used_length;
                                        });
  const auto block = static_cast<size_t>(largest - blocks.begin());
  const PageBitmap& nonzero = (*snapshot)->nonzero(block);
  const absl::StatusOr<Workload> workload =
      MakeWorkload(options.of.workload, PagesOf(nonzero), options.vcpus);
  if (!workload.ok()) return workload.status();
  const absl::StatusOr<absl::Span<uint8_t>> memory = ReserveGuestRam(largest->used_length);
  if (!memory.ok()) return memory.status();
  const VmSource source = {.path = options.snapshot,
                           .block = block,
                           .idstr = largest->idstr,
                           .memory = *memory,
                           .working_set = options.working_set,
                           .record = options.record};
  const absl::StatusOr<std::unique_ptr<VmLoad>> load = MakeVmLoad(options.of.contestant, source);
  if (!load.ok()) return load.status();
  absl::StatusOr<std::vector<std::unique_ptr<Toucher>>> touchers =
      MakeTouchers(options.vcpu, *workload, *memory, largest->page_size);
  if (!touchers.ok()) return touchers.status();
  Vcpus vcpus(*std::move(touchers));

  // In this order: the warm-up must not push the file out of the cache again.
  WarmHostMemory(BytesToWarm(largest->nonzero_pages * largest->page_size));
  const absl::Status prepared = SetCacheState(
      options.snapshot, options.of.cache == "cold" ? CacheState::kCold : CacheState::kWarm);
  if (!prepared.ok()) return prepared;
  const AddressRange ram = {reinterpret_cast<uintptr_t>(memory->data()), memory->size()};
  std::optional<Sampler> sampler;
  if (options.picture) sampler.emplace(getpid(), ram);
  const ProcessBaseline baseline(getpid(), ram, {});

  WatchedRun result;
  result.run.of = options.of;
  std::map<std::string, double>& values = result.run.values;
  const uint64_t start = MonotonicNs();
  const auto since_start = [&](uint64_t ns) { return static_cast<double>(ns - start) / 1e9; };
  if (sampler) sampler->SetStart(start);
  const absl::Status begun = (*load)->Begin();
  if (!begun.ok()) return begun;
  const double to_resume = since_start(MonotonicNs());
  values["to_resume"] = to_resume;
  vcpus.Release();
  const absl::StatusOr<bool> resident = (*load)->WaitResident();
  if (!resident.ok()) Die(resident.status());  // the vCPUs wait for ever
  if (*resident) {
    values["to_resident"] =
        options.of.contestant == "full-read" ? to_resume : since_start(MonotonicNs());
  }
  vcpus.Join();
  const absl::Status ended = (*load)->End();
  if (!ended.ok()) return ended;

  std::vector<Stall> stalls;
  double vcpu_cpu_seconds = 0;
  uint64_t kernel_faults = 0;
  uint64_t done_ns = 0;
  for (const std::unique_ptr<Toucher>& toucher : vcpus.touchers()) {
    stalls.insert(stalls.end(), toucher->stalls().begin(), toucher->stalls().end());
    vcpu_cpu_seconds += toucher->cpu_seconds();
    kernel_faults += toucher->kernel_faults();
    done_ns = std::max(done_ns, toucher->done_ns());
  }
  values["cpu"] = std::max(baseline.CpuSeconds() - vcpu_cpu_seconds, 0.0);
  values["read_bytes"] = static_cast<double>(baseline.ReadBytes());
  values["peak_bytes"] = static_cast<double>(baseline.PeakBytesBeyondRam());
  values["huge_bytes"] = static_cast<double>(FiguresOf(getpid(), ram).huge_bytes);
  values["demand_faults"] = static_cast<double>((*load)->FaultedPages().value_or(kernel_faults));
  if (!workload->pages.front().empty()) {
    values["to_first_work"] = since_start(vcpus.touchers().front()->first_work_ns());
    values["to_workload"] = since_start(done_ns);
    AddStalls(stalls, &values);
  }
  if (sampler) {
    sampler->Stop();
    result.picture = Picture(*sampler, nonzero, options.of.contestant, *workload, stalls);
  }
  return result;
}

}  // namespace

absl::StatusOr<WatchedRun> RunVm(const std::string& ramjet, const VmBenchOptions& options) {
  std::vector<std::string> argv = {ramjet,
                                   "bench-vm",
                                   options.snapshot,
                                   "--contestant",
                                   options.of.contestant,
                                   "--workload",
                                   options.of.workload,
                                   "--cache",
                                   options.of.cache,
                                   "--vcpus",
                                   absl::StrCat(options.vcpus),
                                   "--vcpu",
                                   options.vcpu};
  if (!options.working_set.empty()) {
    argv.insert(argv.end(), {"--working-set", options.working_set});
  }
  if (!options.record.empty()) argv.insert(argv.end(), {"--record", options.record});
  if (options.picture) argv.emplace_back("--picture");
  const absl::StatusOr<CommandResult> command = RunCommand(argv, absl::Now() + kTimeout);
  if (!command.ok()) return command.status();
  if (command->exit_status != 0) {
    return absl::InternalError(
        absl::StrCat("exit status ", command->exit_status, ": ", command->err));
  }
  const json line = json::parse(command->out, nullptr, /*allow_exceptions=*/false);
  if (line.is_discarded()) {
    return absl::InternalError(absl::StrCat("it printed no JSON object: ", command->out));
  }
  absl::StatusOr<Run> run = RunFromJson(line);
  if (!run.ok()) return run.status();
  run->of = options.of;
  return WatchedRun{*std::move(run), line.value("picture", json())};
}

int RunVmProcess(const VmBenchOptions& options) {
  const absl::StatusOr<WatchedRun> result = Measure(options);
  if (!result.ok()) Die(result.status());
  json line = ToJson(result->run);
  line["picture"] = result->picture;
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace ramjet::bench
