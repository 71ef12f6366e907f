#include "loader/ram_map.h"

namespace ramjet {

RamMap::RamMap(size_t capacity) : blocks_(new std::atomic<RamBlock*>[capacity]()) {}

void RamMap::Insert(RamBlock& block) {
  version_.fetch_add(1);
  // relaxed: the version, on both sides of the changes, orders them for readers.
  size_t at = size_.load(std::memory_order_relaxed);
  for (; at > 0; --at) {
    RamBlock* const before = blocks_[at - 1].load(std::memory_order_relaxed);
    if (before->host() < block.host()) break;
    blocks_[at].store(before, std::memory_order_release);
  }
  blocks_[at].store(&block, std::memory_order_release);
  size_.fetch_add(1);
  version_.fetch_add(1);
}

RamBlock* RamMap::Find(uintptr_t addr) const {
  RamBlock* const block = FindFrom(addr);
  return block != nullptr && block->Contains(addr) ? block : nullptr;
}

RamBlock* RamMap::FindFrom(uintptr_t addr) const {
  for (;;) {
    const uint64_t version = version_.load();
    RamBlock* const found = Search(addr);
    // The acquiring loads of the search keep this one behind them.
    if (version % 2 == 0 && version_.load() == version) return found;
  }
}

RamBlock* RamMap::Search(uintptr_t addr) const {
  size_t low = 0;
  size_t high = size();
  RamBlock* found = nullptr;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    RamBlock* const block = blocks_[middle].load(std::memory_order_acquire);
    if (block->host() + block->length() > addr) {
      found = block;
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return found;
}

uint64_t RamMap::MissingPages() const {
  uint64_t missing = 0;
  for (const RamBlock* block = FindFrom(0); block != nullptr;
       block = FindFrom(block->host() + block->length())) {
    missing += block->remaining_pages();
  }
  return missing;
}

}  // namespace ramjet
