// Which block of guest RAM an address lies in.
#ifndef RAMJET_LOADER_RAM_MAP_H_
#define RAMJET_LOADER_RAM_MAP_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "loader/ram_block.h"

namespace ramjet {

// A sorted table of blocks that grows while it is searched.
//
// A search is a binary search that starts again if the table changed meanwhile (a sequence lock):
// readers take no lock and write nothing. Blocks are never removed; they outlive the map.
//
// Threads: Find() may be called concurrently with everything; Insert() by one thread at a time.
class RamMap {
 public:
  explicit RamMap(size_t capacity);

  // REQUIRES: fewer than `capacity` blocks are in the map, and `block` overlaps none of them.
  void Insert(RamBlock& block);

  // The block that contains `addr`, or nullptr.
  RamBlock* Find(uintptr_t addr) const;

  // The first block that ends behind `addr`, or nullptr.
  RamBlock* FindFrom(uintptr_t addr) const;

  // That have not arrived, of all blocks together.
  uint64_t MissingPages() const;

  size_t size() const { return size_.load(std::memory_order_acquire); }

 private:
  RamBlock* Search(uintptr_t addr) const;

  const std::unique_ptr<std::atomic<RamBlock*>[]> blocks_;  // [0, size_) by rising host address
  std::atomic<size_t> size_{0};
  std::atomic<uint64_t> version_{0};  // odd while Insert() is at work
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_RAM_MAP_H_
