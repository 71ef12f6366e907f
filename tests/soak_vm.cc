#include "tests/soak_vm.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "tests/loader_testing.h"

namespace ramjet::soak {
namespace {

void Divide(Block& block, unsigned guests, Random& random) {
  const uint64_t pages = block.model.size();
  block.extent_of.resize(pages);
  for (uint64_t at = 0; at < pages;) {
    const uint64_t longest = random.Percent(50) ? 24 : 1500;
    const uint64_t count = std::min(random.Between(1, longest), pages - at);
    const int owner = random.Percent(40) ? kNobody : static_cast<int>(random.Below(guests));
    // Mostly the tail of a block.
    const bool exclusive = owner != kNobody && random.Percent(at + count == pages ? 70 : 15);
    std::fill_n(block.extent_of.begin() + static_cast<int64_t>(at), count,
                static_cast<uint32_t>(block.extents.size()));
    block.extents.push_back({{at, count}, owner, exclusive});
    at += count;
  }
}

}  // namespace

Ram::Ram(uint64_t pages, BlockMemory kind, bool huge, uint64_t shift_pages)
    : kind_(kind), length_(pages * HostPageBytes()) {
  void* const reservation = mmap(nullptr, length_ + 2 * kHugeBytes, PROT_NONE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reservation == MAP_FAILED) Die("no address space");
  reservation_ = reinterpret_cast<uintptr_t>(reservation);
  addr_ = (reservation_ + kHugeBytes - 1) / kHugeBytes * kHugeBytes + shift_pages * HostPageBytes();
  int flags = MAP_FIXED | MAP_NORESERVE;
  if (kind == BlockMemory::kShared) {
    memfd_ = memfd_create("guest", MFD_CLOEXEC);
    if (memfd_ < 0 || ftruncate(memfd_, static_cast<off_t>(length_)) != 0) Die("no memfd");
    flags |= MAP_SHARED;
  } else {
    flags |= MAP_PRIVATE | MAP_ANONYMOUS;
  }
  if (mmap(data(), length_, PROT_READ | PROT_WRITE, flags, memfd_, 0) == MAP_FAILED) {
    Die("no guest memory");
  }
  if (huge) madvise(data(), length_, MADV_HUGEPAGE);
}

Ram::~Ram() {
  absl::MutexLock lock(&mu_);
  std::sort(gone_.begin(), gone_.end());
  uintptr_t at = reservation_;
  gone_.push_back({reservation_ + length_ + 2 * kHugeBytes, 0});
  for (const auto& [from, to] : gone_) {
    if (from > at) munmap(reinterpret_cast<void*>(at), from - at);
    at = to;
  }
  if (memfd_ >= 0) close(memfd_);
}

void Ram::Unmap(PageRun run, bool reserve) {
  const uint64_t length = run.count * HostPageBytes();
  if (reserve) {
    if (mmap(data(run.first), length, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
      Die("cannot map over guest memory");
    }
    return;
  }
  {
    // Before somebody else can have them.
    absl::MutexLock lock(&mu_);
    gone_.emplace_back(reinterpret_cast<uintptr_t>(data(run.first)),
                       reinterpret_cast<uintptr_t>(data(run.end())));
  }
  if (munmap(data(run.first), length) != 0) Die("cannot unmap guest memory");
}

Vm::Vm(const Layout& from, const Storage& stored_on, const std::vector<BlockMemory>& kinds,
       unsigned guests, Ending will_end, Random& random)
    : layout(from), storage(stored_on), ending(will_end), blocks(from.blocks.size()) {
  for (size_t i = 0; i < blocks.size(); ++i) {
    Block& block = blocks[i];
    const Layout::Block& stored = layout.blocks[i];
    // Where shared memory has a page that cannot be read the VM is stopped.
    const BlockMemory drawn = kinds[random.Below(kinds.size())];
    const BlockMemory kind = storage.any_broken(i) ? BlockMemory::kPrivate : drawn;
    const bool huge = random.Percent(70);
    block.ram =
        std::make_unique<Ram>(stored.pages, kind, huge, random.Percent(70) ? 0 : random.Below(512));
    block.model.resize(stored.pages);
    for (uint64_t page = 0; page < stored.pages; ++page) {
      block.model[page].base = stored.has[page] ? kOriginal : 0;
    }
    block.discarded = std::vector<std::atomic<bool>>(stored.pages);
    Divide(block, guests, random);
  }
}

void Vm::Fail(const std::string& why) const {
  static std::atomic<bool> failed{false};
  if (failed.exchange(true)) pause();  // one is enough, and it is about to end the process
  Die(absl::StrCat(why, "\n  ", describe()));
}

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

Totals& TheTotals() {
  static Totals totals;
  return totals;
}

}  // namespace ramjet::soak
