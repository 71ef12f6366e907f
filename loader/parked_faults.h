// Page faults, and those that cannot be answered yet.
#ifndef RAMJET_LOADER_PARKED_FAULTS_H_
#define RAMJET_LOADER_PARKED_FAULTS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "loader/outcome.h"
#include "loader/ram_block.h"

namespace ramjet {

// A thread sleeps on a page. Times are of MonotonicNs(); 0: never.
struct Fault {
  uintptr_t addr = 0;
  RamBlock* block = nullptr;  // nullptr: its block is not in the map yet
  uint64_t page = 0;          // of the block
  uint64_t read_ns = 0;       // when its event was read
  uint32_t attempts = 0;
  FailingSince failing = {};
  uint64_t retry_ns = 0;    // not tried again before
  uint64_t tell_by_ns = 0;  // its page is lost, and given up then at the latest,
  uint64_t errors = 0;      // or when so many errors are told
};

// Faults that are asked for again. One answer wakes all threads that sleep on a page, so one fault
// stands for all of them: a thread with a signal pending faults on its page again and again,
// without an end. Faults that find no room are to be woken later, and come again.
//
// Threads: belongs to one. Allocates nothing.
class ParkedFaults {
 public:
  static constexpr size_t kMost = 1024;

  bool empty() const { return count_ == 0; }
  size_t count() const { return count_; }

  // With one attempt more. False: a fault on its page is parked already, or there is no room.
  bool Park(const Fault& fault) {
    if (Has(fault)) return false;
    if (count_ == kMost) {
      overflowed_ = true;
      return false;
    }
    faults_[count_] = fault;
    ++faults_[count_++].attempts;
    return true;
  }

  // Calls `serve` with each fault whose time has come; it may park it again, and no other.
  template <typename Serve>
  void Retry(uint64_t now_ns, Serve serve) {
    // What stays moves to the front, and never gets ahead of what is read.
    const size_t count = std::exchange(count_, 0);
    for (size_t i = 0; i < count; ++i) {
      if (faults_[i].retry_ns <= now_ns) {
        serve(Fault(faults_[i]));
      } else {
        faults_[count_++] = faults_[i];
      }
    }
  }

  // Whether faults have found no room, and there is room again. Once.
  bool TakeOverflow() {
    if (!overflowed_ || count_ >= kMost / 2) return false;
    overflowed_ = false;
    return true;
  }

 private:
  bool Has(const Fault& fault) const {
    return std::any_of(faults_.begin(), faults_.begin() + static_cast<ptrdiff_t>(count_),
                       [&](const Fault& parked) {
                         if (fault.block == nullptr) return parked.addr == fault.addr;
                         // Parked before its block was in the map, it stands for the page, too.
                         if (parked.block == nullptr) {
                           return fault.block->Contains(parked.addr) &&
                                  fault.block->PageOf(parked.addr) == fault.page;
                         }
                         return parked.block == fault.block && parked.page == fault.page;
                       });
  }

  std::array<Fault, kMost> faults_;
  size_t count_ = 0;
  bool overflowed_ = false;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_PARKED_FAULTS_H_
