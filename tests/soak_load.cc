#include "tests/soak_load.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/loader_testing.h"
#include "tests/soak_guest.h"

namespace ramjet::soak {
namespace {

constexpr int64_t kStuckNs = 20'000'000'000;

// Faults that the loader's watchdog had to wake; 0 for a loader that has none.
template <typename Stats>
uint64_t Rescued(const Stats& stats) {
  if constexpr (requires { stats.rescued.load(); }) {
    return stats.rescued.load();
  } else {
    return 0;
  }
}

}  // namespace

Load::Load(const Config& config, const Layout& layout, uint64_t number, bool may_poison)
    : config_(config), number_(number), seed_(Mix(config.seed, number)), doing_(config.guests + 1) {
  Random random(seed_);
  const uint64_t end = random.Below(100);
  const Ending ending = end < 45   ? Ending::kDetached
                        : end < 70 ? Ending::kDestroyed
                        : end < 90 ? Ending::kAbandoned
                                   : Ending::kTouched;
  const uint64_t eager = random.Below(100);
  eager_ = ending == Ending::kTouched ? Eager::kNever
           : eager < 50               ? Eager::kAtOnce
           : eager < 85               ? Eager::kLate
                                      : Eager::kNever;
  ops_per_guest_ = random.Between(200, 3000);
  if (random.Percent(50)) working_set_ = layout.working_set;
  signal_gap_us_ = random.Percent(70) ? random.Between(50, 2000) : 0;
  snapshot_ = layout.Open();
  storage_ = std::make_unique<Storage>(layout, *snapshot_, random.Next(), may_poison);
  vm_ = std::make_unique<Vm>(layout, *storage_, config.kinds, config.guests, ending, random);
  vm_->describe = [this] { return Describe(); };
  for (size_t i = 0; i < vm_->blocks.size(); ++i) order_.push_back(i);
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.Below(i)]);
}

void Load::AttachAll(Random& random, size_t from, size_t to) {
  for (size_t i = from; i < to; ++i) {
    Block& block = vm_->blocks[order_[i]];
    if (random.Percent(30)) *block.ram->data(0) = 1;  // what was there before is dropped
    CheckOk(loader_->Attach(order_[i], {.host = block.ram->data(), .memory = block.ram->kind()}),
            "Attach");
    block.ready.store(true);
  }
}

// Until the guests have done so much, or all they do.
void Load::AwaitOps(uint64_t ops) const {
  while (vm_->ops.load() < ops && running_.load() > 0) absl::SleepFor(absl::Microseconds(100));
}

// Signals without SA_RESTART, to guests and to the process as a whole.
void Load::Pester(uint64_t seed) {
  Random random(seed);
  while (running_.load() > 0) {
    if (random.Percent(90)) {
      pthread_kill(threads_[random.Below(threads_.size())].native_handle(), SIGUSR1);
    } else {
      kill(getpid(), SIGUSR1);
    }
    absl::SleepFor(absl::Microseconds(random.Below(2 * signal_gap_us_)));
  }
}

void Load::Run() {
  Random random(Mix(seed_, 1));
  Doing& doing = doing_.back();
  const int uffds_before = OpenUserfaultfds();
  SnapshotLoader::Options options;
  options.eager_threads = config_.eager_threads;
  options.working_set = working_set_;
  auto created = SnapshotLoader::Create(snapshot_, options, storage_.get());
  CheckOk(created.status(), "Create");
  loader_ = *std::move(created);
  vm_->loader = loader_.get();
  stats_ = &loader_->stats();
  current_load = this;

  const size_t first_half = random.Between(1, order_.size());
  AttachAll(random, 0, first_half);
  if (eager_ == Eager::kAtOnce) CheckOk(loader_->StartEager(), "StartEager");
  running_ = config_.guests;
  for (unsigned guest = 0; guest < config_.guests; ++guest) {
    threads_.emplace_back([this, guest] {
      Guest(*vm_, guest, Mix(seed_, 100 + guest), doing_[guest]).Run(ops_per_guest_);
      running_.fetch_sub(1);
    });
  }
  std::thread pest([this] {
    if (signal_gap_us_ > 0) Pester(Mix(seed_, 2));
  });
  {
    const NowDoing attaching(doing, "Attach");
    AttachAll(random, first_half, order_.size());
  }

  const uint64_t ops = ops_per_guest_ * config_.guests;
  if (eager_ == Eager::kLate) {
    AwaitOps(random.Below(ops));
    CheckOk(loader_->StartEager(), "StartEager");
  }
  if (vm_->ending != Ending::kTouched) AwaitOps(vm_->ops.load() + random.Below(ops));
  LoadStats const& stats = loader_->stats();
  const auto collect = [&] {
    TheTotals().faults += stats.faults;
    TheTotals().poisoned += stats.poisoned;
    TheTotals().redundant += stats.redundant;
    TheTotals().rescued += Rescued(stats);
  };
  switch (vm_->ending) {
    case Ending::kDetached: {
      const NowDoing ending(doing, "Finish() and Detach()");
      CheckOk(loader_->Finish(), "Finish");
      CheckOk(loader_->Detach(), "Detach");
      CheckCounts(stats);
      collect();
      break;
    }
    case Ending::kDestroyed: {
      const NowDoing ending(doing, "destructor");
      collect();
      stats_ = nullptr;
      loader_.reset();
      break;
    }
    case Ending::kAbandoned: {
      const NowDoing ending(doing, "Abandon()");
      vm_->abandoning = true;
      loader_->Abandon();
      collect();
      break;
    }
    case Ending::kTouched:
      break;
  }
  if (vm_->ending != Ending::kTouched) {
    if (OpenUserfaultfds() != uffds_before) Fail("a userfaultfd is left after the end");
    // A thread that was joined is in /proc for a moment more.
    const absl::Time deadline = absl::Now() + absl::Seconds(1);
    while (!OurThreads().empty()) {
      if (absl::Now() > deadline) Fail("a thread is left after the end");
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  AwaitOps(~uint64_t{0});
  pest.join();
  for (std::thread& thread : threads_) thread.join();

  storage_->Settle();
  CompareAll(vm_->ending == Ending::kAbandoned);
  if (vm_->ending == Ending::kDetached || vm_->ending == Ending::kDestroyed) CompareOtherMappings();
  if (vm_->ending == Ending::kTouched) {
    // What was unmapped nobody can touch.
    const NowDoing ending(doing, "Finish() and Detach() after all was touched");
    CheckOk(loader_->Finish(), "Finish");
    CheckOk(loader_->Detach(), "Detach");
    CheckCounts(stats);
    collect();
  }
  current_load = nullptr;
  ++TheTotals().loads;
  if (TheTotals().rescued > 0) Fail("the watchdog had to wake a fault: a wake was lost");
}

void Load::CompareAll(bool by_kernel) {
  Guest reader(*vm_, config_.guests, Mix(seed_, 3), doing_.back());
  doing_here = &doing_.back();
  for (size_t b = 0; b < vm_->blocks.size(); ++b) {
    for (uint64_t page = 0; page < vm_->blocks[b].model.size(); ++page) {
      if (vm_->blocks[b].model[page].unmapped) continue;
      reader.CompareWhole(b, page, by_kernel || storage_->fate(b, page) != Fate::kSound);
    }
  }
  doing_here = nullptr;
}

// Whoever maps shared memory after the load sees what the guest sees.
void Load::CompareOtherMappings() {
  for (size_t b = 0; b < vm_->blocks.size(); ++b) {
    const Block& block = vm_->blocks[b];
    if (block.ram->kind() != BlockMemory::kShared) continue;
    const uint64_t length = block.model.size() * HostPageBytes();
    void* const mapping = mmap(nullptr, length, PROT_READ, MAP_SHARED, block.ram->memfd(), 0);
    if (mapping == MAP_FAILED) Fail("shared memory cannot be mapped once more");
    for (uint64_t page = 0; page < block.model.size(); ++page) {
      if (block.model[page].unmapped) continue;
      const void* const other = static_cast<uint8_t*>(mapping) + page * HostPageBytes();
      if (std::memcmp(other, block.ram->data(page), HostPageBytes()) != 0) {
        Fail(absl::StrCat("block ", b, ", page ", page, ": another mapping sees something else"));
      }
    }
    munmap(mapping, length);
  }
}

// Each page with content came to one end. A thread counts a page after its arrival, so this is for
// when the threads have ended.
void Load::CheckCounts(const LoadStats& stats) {
  const uint64_t nonzero = loader_->attached_pages().nonzero;
  const uint64_t ends = stats.eager + stats.faulted + stats.removed + stats.poisoned;
  if (ends == nonzero) return;
  Fail(absl::StrCat("of ", nonzero, " pages with content ", ends, " are accounted for"));
}

std::string Load::Describe() const {
  constexpr const char* kEndings[] = {"detached", "destroyed", "abandoned", "touched"};
  constexpr const char* kEagers[] = {"at once", "late", "never"};
  std::string text = absl::StrCat(
      "seed ", config_.seed, ", load ", number_, " (ending ",
      kEndings[static_cast<int>(vm_->ending)], ", eager ", kEagers[static_cast<int>(eager_)],
      "; --seed ", config_.seed, " --from-load ", number_, " --guests ", config_.guests,
      " --eager-threads ", config_.eager_threads, " --memory-mib ", config_.memory_mib, "), ",
      working_set_.empty() ? "no " : "a ", "working set, operations ", vm_->ops.load());
  for (size_t i = 0; i < doing_.size(); ++i) {
    const char* const what = doing_[i].what.load();
    absl::StrAppend(&text, "\n  ", i < config_.guests ? absl::StrCat("guest ", i) : "main", ": ");
    if (what == nullptr) {
      absl::StrAppend(&text, "nothing");
    } else {
      absl::StrAppend(&text, what, ", block ", doing_[i].block.load(), ", page ",
                      doing_[i].page.load(), ", for ", (NowNs() - doing_[i].since_ns) / 1'000'000,
                      " ms");
    }
  }
  const LoadStats* const stats = stats_.load();
  if (stats != nullptr) {
    absl::StrAppend(&text, "\n  stats: faults ", stats->faults.load(), ", eager ",
                    stats->eager.load(), ", faulted ", stats->faulted.load(), ", zeroed ",
                    stats->zeroed.load(), ", removed ", stats->removed.load(), ", poisoned ",
                    stats->poisoned.load(), ", redundant ", stats->redundant.load(), ", in_flight ",
                    stats->in_flight.load(), ", parked ", stats->parked.load(), ", rescued ",
                    Rescued(*stats));
  }
  // What the kernel says of the userfaultfd: faults unread, and all that sleep.
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry.path(), error) != "anon_inode:[userfaultfd]") continue;
    std::ifstream info("/proc/self/fdinfo/" + entry.path().filename().string());
    for (std::string line; std::getline(info, line);) absl::StrAppend(&text, "\n  uffd ", line);
  }
  return text;
}

void Load::AbortIfStuck() const {
  for (const Doing& doing : doing_) {
    const bool busy = doing.what.load() != nullptr;
    if (busy && NowNs() - doing.since_ns.load() > kStuckNs) {
      std::fprintf(stderr, "soak: stuck\n  %s\n", Describe().c_str());
      std::abort();
    }
  }
}

}  // namespace ramjet::soak
