// What single steps cost, each alone: parsing a snapshot, bitmaps, claims, statistics, installs,
// device state.
//
//   bazel run //tests:micro_benchmark -- [--benchmark_filter=Claim] [--benchmark_repetitions=5]
//
// Where userfaultfd is not permitted, the installs are skipped, and say why. What a whole load
// costs is told by `ramjet bench`, what faults cost by fault_benchmark.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "loader/install_gate.h"
#include "loader/load_progress.h"
#include "loader/load_stats.h"
#include "loader/page_buffer.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/ram_map.h"
#include "loader/vm_stop.h"
#include "loader/window_trip.h"
#include "mappedram/file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"
#include "mappedram/vmstate/device.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr uint64_t kPages = 1 << 20;  // of a bitmap or a block: 4 GiB of small pages

void SetItems(benchmark::State& state, uint64_t each) {
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(each));
}
void SetBytes(benchmark::State& state, uint64_t each) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(each));
}

// Calls `step` with one run of `count` pages after the other; `renew`, which is not counted, makes
// all of them fresh. Items are pages.
template <typename Step, typename Renew>
void ForEachRun(benchmark::State& state, uint64_t pages, uint64_t count, Step step, Renew renew) {
  renew();
  uint64_t first = 0;
  for ([[maybe_unused]] const auto _ : state) {
    if (first + count > pages) {
      state.PauseTiming();
      renew();
      first = 0;
      state.ResumeTiming();
    }
    step(PageRun{first, count});
    first += count;
  }
  SetItems(state, count);
}

// --- the file ---

// Equally many pages with content in every size. Bytes are those of the bitmap.
void BM_OpenSnapshot(benchmark::State& state) {
  constexpr uint64_t kRuns = 1024;
  const uint64_t ram_bytes = static_cast<uint64_t>(state.range(0)) << 30;
  const uint64_t pages = ram_bytes / HostPageBytes();
  BlockContent block = {
      .idstr = "ram", .used_length = ram_bytes, .page_size = HostPageBytes(), .nonzero = {}};
  for (uint64_t i = 0; i < kRuns; ++i) block.nonzero.push_back({pages / kRuns * i, 4});
  SnapshotContent content;
  content.blocks.push_back(std::move(block));
  const char* const directory = std::getenv("TEST_TMPDIR");
  const std::string path =
      absl::StrCat(directory != nullptr ? directory : "/tmp", "/micro_benchmark.", getpid(), ".mr");
  const absl::Status written = WriteSnapshot(content, path);
  if (!written.ok()) {
    unlink(path.c_str());
    state.SkipWithError(written.ToString().c_str());
    return;
  }
  for ([[maybe_unused]] const auto _ : state) {
    absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*File::Open(path));
    if (!snapshot.ok()) {
      state.SkipWithError(snapshot.status().ToString().c_str());
      break;
    }
    benchmark::DoNotOptimize(*snapshot);
  }
  unlink(path.c_str());
  SetBytes(state, pages / 8);
}
BENCHMARK(BM_OpenSnapshot)->ArgName("GiB")->Arg(1)->Arg(64)->Unit(benchmark::kMicrosecond);

// --- bitmaps ---

// Runs of range(0) set pages, every range(1) pages.
PageBitmap Striped(uint64_t set, uint64_t every) {
  PageBitmap bitmap(kPages);
  for (uint64_t page = 0; page < kPages; page += every) bitmap.SetRun({page, set});
  return bitmap;
}

// All runs of a bitmap.
void BM_FindRun(benchmark::State& state) {
  const PageBitmap bitmap =
      Striped(static_cast<uint64_t>(state.range(0)), static_cast<uint64_t>(state.range(1)));
  for ([[maybe_unused]] const auto _ : state) {
    uint64_t page = 0;
    while (const std::optional<PageRun> run = bitmap.FindRun(true, page, kPages)) {
      page = run->end();
    }
    benchmark::DoNotOptimize(page);
  }
  SetItems(state, kPages);
}
BENCHMARK(BM_FindRun)
    ->ArgNames({"set", "of"})
    ->Args({1, 4096})     // sparse
    ->Args({4095, 4096})  // dense
    ->Args({8, 16})
    ->Unit(benchmark::kMicrosecond);

void BM_SetLeadingClear(benchmark::State& state) {
  PageBitmap bitmap(kPages);
  ForEachRun(
      state, kPages, static_cast<uint64_t>(state.range(0)),
      [&](PageRun run) { benchmark::DoNotOptimize(bitmap.SetLeadingClear(run)); },
      [&] {
        bitmap.ClearRun({0, kPages});
      });
}
BENCHMARK(BM_SetLeadingClear)->ArgName("pages")->Arg(1)->Arg(16)->Arg(512);

void BM_CountRun(benchmark::State& state) {
  const PageBitmap bitmap = Striped(8, 16);
  ForEachRun(
      state, kPages, static_cast<uint64_t>(state.range(0)),
      [&](PageRun run) { benchmark::DoNotOptimize(bitmap.CountRun(run)); }, [] {});
}
BENCHMARK(BM_CountRun)->ArgName("pages")->Arg(16)->Arg(512)->Arg(kPages);

// --- blocks ---

std::unique_ptr<RamBlock> FullBlock(uintptr_t host, uint64_t pages) {
  PageBitmap nonzero(pages);
  nonzero.SetRun({0, pages});
  SnapshotBlock stored;
  stored.idstr = "ram";
  stored.used_length = pages * HostPageBytes();
  stored.page_size = HostPageBytes();
  return std::make_unique<RamBlock>(
      0, stored, RamBlock::Memory{.host = host, .page_size = HostPageBytes()}, std::move(nonzero));
}

// A page's states from first to last, without its content.
void BM_FindClaimReceive(benchmark::State& state) {
  std::unique_ptr<RamBlock> block;
  ForEachRun(
      state, kPages, static_cast<uint64_t>(state.range(0)),
      [&](PageRun run) {
        const PageRun pending = block->FindPending(run.first, run.end());
        benchmark::DoNotOptimize(block->Claim(pending));
        benchmark::DoNotOptimize(block->MarkReceived(pending));
      },
      [&] { block = FullBlock(1 << 30, kPages); });
}
BENCHMARK(BM_FindClaimReceive)->ArgName("pages")->Arg(1)->Arg(16)->Arg(512);

void BM_RamMapFind(benchmark::State& state) {
  constexpr uint64_t kBlockPages = 64;
  const auto count = static_cast<size_t>(state.range(0));
  const uintptr_t start = 1 << 30;
  const uint64_t stride = 2 * kBlockPages * HostPageBytes();  // a gap follows each block
  std::vector<std::unique_ptr<RamBlock>> blocks;
  RamMap map(count);
  for (size_t i = 0; i < count; ++i) {
    blocks.push_back(FullBlock(start + i * stride, kBlockPages));
    map.Insert(*blocks.back());
  }
  std::mt19937_64 random(1);
  std::vector<uintptr_t> addresses(4096);
  for (uintptr_t& address : addresses) {
    address = start + random() % count * stride + random() % (stride / 2);
  }
  size_t next = 0;
  for ([[maybe_unused]] const auto _ : state) {
    benchmark::DoNotOptimize(map.Find(addresses[next++ % addresses.size()]));
  }
  SetItems(state, 1);
}
BENCHMARK(BM_RamMapFind)->ArgName("blocks")->Arg(1)->Arg(64)->Arg(4096);

// --- what threads share ---

void BM_HistogramAdd(benchmark::State& state) {
  static LatencyHistogram histogram;
  uint64_t ns = 1000;
  for ([[maybe_unused]] const auto _ : state) {
    histogram.Add(ns);
    ns = ns * 5 % 1'000'003;
  }
  SetItems(state, 1);
}
BENCHMARK(BM_HistogramAdd)->Threads(1)->Threads(2)->UseRealTime();

void BM_InstallGate(benchmark::State& state) {
  static InstallGate gate;
  for ([[maybe_unused]] const auto _ : state) {
    gate.Enter();
    gate.Leave();
  }
  SetItems(state, 1);
}
BENCHMARK(BM_InstallGate)->Threads(1)->Threads(2)->UseRealTime();

// --- pages, from the cached file into memory ---

// A block of private memory that can be loaded again and again.
class LoadedBlock {
 public:
  static constexpr uint64_t kBytes = 64 << 20;

  explicit LoadedBlock(Userfaultfd uffd)
      : uffd_(std::move(uffd)),
        snapshot_(OneBlockSnapshot(pages(), {{0, pages()}})),
        loader_(PageLoader::Parts{.demand = *snapshot_,
                                  .demand_bulk = *snapshot_,
                                  .bulk = *snapshot_,
                                  .uffd = uffd_,
                                  .gate = gate_,
                                  .stats = stats_,
                                  .progress = progress_,
                                  .vm_stop = *vm_stop_}) {
    // A host backs a VM's memory at its first touch, which is not to be measured.
    std::fill_n(memory_.data(), memory_.length(), 1);
  }

  static uint64_t pages() { return kBytes / HostPageBytes(); }

  // Empty memory of which nothing is claimed.
  void Renew() {
    // Registered, the discard would be an event, and wait for its reader.
    if (block_ != nullptr && !uffd_.Unregister(memory_.addr(), kBytes).ok()) std::abort();
    memory_.MadviseDontNeed(0, pages());
    if (!uffd_.Register(memory_.addr(), kBytes).ok()) std::abort();
    block_ = FullBlock(memory_.addr(), pages());
  }

  PageLoader& loader() { return loader_; }
  RamBlock& block() { return *block_; }

 private:
  GuestMemory memory_{kBytes, BlockMemory::kPrivate};
  Userfaultfd uffd_;
  std::unique_ptr<Snapshot> snapshot_;
  std::unique_ptr<RamBlock> block_;
  InstallGate gate_;
  LoadStats stats_;
  LoadProgress progress_;
  std::unique_ptr<VmStop> vm_stop_ = *VmStop::Create(nullptr, 0);
  PageLoader loader_;
};

// Loads runs of `bytes` with `load`.
template <typename Load>
void LoadRuns(benchmark::State& state, uint64_t bytes, Load load) {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open();
  if (!uffd.ok()) {
    state.SkipWithError(uffd.status().ToString().c_str());
    return;
  }
  LoadedBlock loaded(*std::move(uffd));
  ForEachRun(
      state, LoadedBlock::pages(), bytes / HostPageBytes(),
      [&](PageRun run) { load(loaded.loader(), loaded.block(), run); }, [&] { loaded.Renew(); });
  SetBytes(state, bytes);
}

void BM_LoadFaulted(benchmark::State& state) {
  PageBuffer buffer = *PageBuffer::Create(HostPageBytes());
  LoadRuns(state, HostPageBytes(), [&](PageLoader& loader, RamBlock& block, PageRun run) {
    benchmark::DoNotOptimize(loader.LoadFaulted(block, run.first, buffer));
  });
}
BENCHMARK(BM_LoadFaulted);

void BM_LoadAhead(benchmark::State& state) {
  const auto bytes = static_cast<uint64_t>(state.range(0)) << 10;
  PageBuffer buffer = *PageBuffer::Create(bytes);
  LoadRuns(state, bytes, [&](PageLoader& loader, RamBlock& block, PageRun run) {
    loader.LoadAhead(block, run, buffer);
  });
}
BENCHMARK(BM_LoadAhead)->ArgName("KiB")->Arg(4)->Arg(64)->Arg(2048);

// By UFFDIO_MOVE.
void BM_LoadAheadHuge(benchmark::State& state) {
  if (const auto uffd = Userfaultfd::Open(); uffd.ok() && !uffd->features().move) {
    state.SkipWithError("this kernel has no UFFDIO_MOVE");
    return;
  }
  HugeStaging staging = *HugeStaging::Create();
  LoadRuns(state, HugeStaging::kBytes, [&](PageLoader& loader, RamBlock& block, PageRun run) {
    WindowTrip(loader).LoadAhead(block, run, staging);
  });
}
BENCHMARK(BM_LoadAheadHuge);

// --- device state: file descriptors by name and number, as a QEMU keeps them when it replaces
// itself, in the list that they were in and in a hash map. The bytes are the same. ---

using FdKey = std::pair<std::string, int32_t>;
struct FdList {
  std::list<std::pair<FdKey, int32_t>> fds;
};
struct FdHash {
  absl::flat_hash_map<FdKey, int32_t> fds;
};

constexpr auto kFd =
    vmstate::Pair(vmstate::Pair(vmstate::CountedBuffer(), vmstate::Number()), vmstate::Number());
constexpr auto kFdList =
    vmstate::Struct<FdList>("cpr", {}, vmstate::Field("fds", &FdList::fds, vmstate::Marked(kFd)));
constexpr auto kFdHash =
    vmstate::Struct<FdHash>("cpr", {}, vmstate::Field("fds", &FdHash::fds, vmstate::Marked(kFd)));

FdKey FdKeyOf(size_t i) {
  return {absl::StrCat("0000:00:", i / 256, ".0/queue"), static_cast<int32_t>(i % 256)};
}

std::string FdBytes(size_t count) {
  FdList list;
  for (size_t i = 0; i < count; ++i) list.fds.emplace_back(FdKeyOf(i), static_cast<int32_t>(i));
  return *vmstate::Encode(kFdList, list);
}

int32_t Find(const FdList& list, const FdKey& key) {
  return std::find_if(list.fds.begin(), list.fds.end(),
                      [&key](const auto& fd) { return fd.first == key; })
      ->second;
}
int32_t Find(const FdHash& hash, const FdKey& key) { return hash.fds.find(key)->second; }

template <typename Form>
auto DecodeFds(const Form& form, const std::string& bytes) {
  return *vmstate::Decode(
      form,
      {.bytes = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, .version = 1});
}

// Each of them once, in random order.
template <typename Form>
void FindFds(benchmark::State& state, const Form& form) {
  const auto count = static_cast<size_t>(state.range(0));
  const auto fds = DecodeFds(form, FdBytes(count));
  std::vector<FdKey> keys;
  for (size_t i = 0; i < count; ++i) keys.push_back(FdKeyOf(i));
  std::shuffle(keys.begin(), keys.end(), std::mt19937_64(1));
  for ([[maybe_unused]] const auto _ : state) {
    for (const FdKey& key : keys) benchmark::DoNotOptimize(Find(fds, key));
  }
  SetItems(state, count);
}
void BM_FindInList(benchmark::State& state) { FindFds(state, kFdList); }
void BM_FindInHash(benchmark::State& state) { FindFds(state, kFdHash); }
BENCHMARK(BM_FindInList)->Arg(540)->Arg(2870)->Arg(7530)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_FindInHash)->Arg(540)->Arg(2870)->Arg(7530)->Unit(benchmark::kMicrosecond);

template <typename Form>
void DecodeAgain(benchmark::State& state, const Form& form) {
  const std::string bytes = FdBytes(static_cast<size_t>(state.range(0)));
  for ([[maybe_unused]] const auto _ : state) benchmark::DoNotOptimize(DecodeFds(form, bytes));
  SetItems(state, static_cast<uint64_t>(state.range(0)));
  SetBytes(state, bytes.size());
}
void BM_DecodeList(benchmark::State& state) { DecodeAgain(state, kFdList); }
void BM_DecodeHash(benchmark::State& state) { DecodeAgain(state, kFdHash); }
BENCHMARK(BM_DecodeList)->Arg(7530)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_DecodeHash)->Arg(7530)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace ramjet

BENCHMARK_MAIN();
