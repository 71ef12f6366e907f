#include "tools/embedded_restore.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "mappedram/file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot.h"
#include "nlohmann/json.hpp"
#include "tools/demo_vm/demo_vm.h"
#include "tools/page_cache.h"

namespace ramjet {
namespace {

using demo_vm::DemoVm;
using demo_vm::Operation;

constexpr uint32_t kWorkPercent = 1;  // of the pages, by all vCPUs together

// One operation for each vCPU, by the part of memory that is its own.
template <typename MakeOperation>
absl::StatusOr<std::vector<uint32_t>> OnAllParts(DemoVm& vm, demo_vm::MemoryRange range,
                                                 MakeOperation make) {
  std::vector<Operation> operations;
  for (int i = 0; i < vm.vcpus(); ++i) {
    operations.push_back(make(DemoVm::Part(range, i, vm.vcpus()), static_cast<uint32_t>(i)));
  }
  return vm.RunAll(operations);
}

// What a VMM does without ramjet: reads every page that the file has, in long runs, from the first
// to the last.
absl::Status ReadWholeRam(const std::string& path, absl::Span<uint8_t> memory) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  if (!snapshot.ok()) return snapshot.status();
  const SnapshotBlock& block = (*snapshot)->blocks().front();  // its only one
  const PageBitmap nonzero = (*snapshot)->TakeNonzero(0);
  for (uint64_t page = 0; page < block.pages();) {
    const std::optional<PageRun> run = nonzero.FindRun(true, page, block.pages());
    if (!run) break;
    const uint64_t offset = run->first * block.page_size;
    absl::Status read = (*snapshot)->file().ReadAt(
        block.pages_offset + offset, memory.subspan(offset, run->count * block.page_size));
    if (!read.ok()) return read;
    page = run->end();
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> SaveRandomGuest(uint64_t memory_mib, int vcpus,
                                         const std::string& snapshot, const ShowStep& show_step,
                                         EmbeddedRestores* result) {
  show_step(absl::StrCat("filling a guest of ", memory_mib, " MiB"));
  const absl::StatusOr<std::unique_ptr<DemoVm>> vm =
      DemoVm::Create({.vcpus = vcpus, .memory_bytes = memory_mib << 20});
  if (!vm.ok()) return vm.status();
  result->backend = demo_vm::NameOf((*vm)->backend());
  result->backend_reason = (*vm)->backend_reason();
  const absl::Status filled = OnAllParts(**vm, (*vm)->free_memory(), demo_vm::Fill).status();
  if (!filled.ok()) return filled;
  const absl::StatusOr<uint32_t> sum = (*vm)->SumOfMemory();
  if (!sum.ok()) return sum.status();
  show_step("saving it");
  const absl::Status saved = (*vm)->Save(snapshot);
  if (!saved.ok()) return saved;
  return *sum;
}

struct TimedRestore {
  Restore restore;
  uint32_t sum = 0;
};

absl::StatusOr<TimedRestore> TimeOne(const std::string& snapshot, Loader loader, CacheState cache,
                                     uint64_t memory_mib) {
  // In this order: the warm-up must not push the file out of the cache again.
  WarmHostMemory(2 * (memory_mib << 20));
  const absl::Status prepared = SetCacheState(snapshot, cache);
  if (!prepared.ok()) return prepared;
  demo_vm::RestoreOptions options;
  if (loader == Loader::kStock) options.read_ram = ReadWholeRam;

  const absl::Time start = absl::Now();
  const auto since_start = [&] { return absl::ToDoubleSeconds(absl::Now() - start); };
  const absl::StatusOr<std::unique_ptr<DemoVm>> restored = DemoVm::Restore(snapshot, options);
  if (!restored.ok()) return restored.status();
  DemoVm& vm = **restored;
  const absl::Status ran = vm.Run(0, demo_vm::Hello()).status();
  if (!ran.ok()) return ran;
  TimedRestore timed;
  Restore& times = timed.restore;
  times.cache = cache;
  times.loader = loader;
  times.to_resume_s = since_start();

  absl::Status worked;
  std::thread work([&] {
    worked = OnAllParts(vm, vm.whole_memory(), [](demo_vm::MemoryRange part, uint32_t seed) {
               const uint32_t touches = std::max(part.pages() * kWorkPercent / 100, 1u);
               return demo_vm::RandomTouch(part, touches, seed);
             }).status();
    times.to_first_work_s = since_start();
  });
  const absl::Status finished = vm.FinishLoad();
  times.to_resident_s = loader == Loader::kStock ? times.to_resume_s : since_start();
  work.join();
  if (!finished.ok()) return finished;
  if (!worked.ok()) return worked;

  const absl::StatusOr<uint32_t> sum = vm.SumOfMemory();
  if (!sum.ok()) return sum.status();
  timed.sum = *sum;
  if (loader == Loader::kRamjet) {
    times.stats = nlohmann::json::parse(vm.StatsJson(), nullptr, /*allow_exceptions=*/false);
  }
  return timed;
}

}  // namespace

absl::StatusOr<EmbeddedRestores> TimeEmbeddedRestores(uint64_t memory_mib, int vcpus, int rounds,
                                                      const std::string& snapshot,
                                                      const ShowStep& show_step) {
  EmbeddedRestores result;
  const absl::StatusOr<uint32_t> saved_sum =
      SaveRandomGuest(memory_mib, vcpus, snapshot, show_step, &result);
  if (!saved_sum.ok()) return saved_sum.status();
  result.equal_memory = true;
  for (int round = 1; round <= rounds; ++round) {
    for (const CacheState cache : {CacheState::kWarm, CacheState::kCold}) {
      const Loader first = round % 2 == 1 ? Loader::kStock : Loader::kRamjet;
      const Loader second = round % 2 == 1 ? Loader::kRamjet : Loader::kStock;
      for (const Loader loader : {first, second}) {
        const std::string what =
            absl::StrCat(loader == Loader::kStock ? "reading all of the file first" : "ramjet",
                         ", ", cache == CacheState::kWarm ? "warm" : "cold");
        show_step(absl::StrCat("round ", round, " of ", rounds, ": ", what));
        absl::StatusOr<TimedRestore> timed = TimeOne(snapshot, loader, cache, memory_mib);
        if (!timed.ok()) {
          return absl::Status(timed.status().code(),
                              absl::StrCat(what, ": ", timed.status().message()));
        }
        timed->restore.round = round;
        result.equal_memory = result.equal_memory && timed->sum == *saved_sum;
        result.restores.push_back(std::move(timed->restore));
      }
    }
  }
  return result;
}

}  // namespace ramjet
