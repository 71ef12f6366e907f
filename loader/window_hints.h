// Which windows somebody has touched lately.
#ifndef RAMJET_LOADER_WINDOW_HINTS_H_
#define RAMJET_LOADER_WINDOW_HINTS_H_

#include <array>
#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "loader/huge_window.h"
#include "loader/ram_block.h"

namespace ramjet {

// The last few windows that were touched, for the threads that load ahead. An old hint gives way to
// a newer one, for that is the more important.
//
// Threads: one gives hints, any number take them. Takes no lock.
class WindowHints {
 public:
  struct Hint {
    size_t block;         // its index in the snapshot
    uint64_t first_page;  // of the window, as WindowOf() has it

    friend auto operator<=>(const Hint&, const Hint&) = default;
  };

  void Give(const RamBlock& block, uint64_t page) {
    const uint64_t hint = (uint64_t{block.index()} + 1) << kPageBits | WindowOf(block, page).first;
    const size_t next = next_.load(std::memory_order_relaxed);
    if (hints_[(next + kKept - 1) % kKept].load(std::memory_order_relaxed) == hint) return;
    hints_[next].store(hint, std::memory_order_relaxed);
    next_.store((next + 1) % kKept, std::memory_order_relaxed);
  }

  // The latest that is left.
  std::optional<Hint> Take() {
    const size_t newest = next_.load(std::memory_order_relaxed) + kKept - 1;
    for (size_t age = 0; age < kKept; ++age) {
      std::atomic<uint64_t>& kept = hints_[(newest - age) % kKept];
      if (kept.load(std::memory_order_relaxed) == 0) continue;
      const uint64_t hint = kept.exchange(0, std::memory_order_relaxed);
      if (hint == 0) continue;
      return Hint{static_cast<size_t>(hint >> kPageBits) - 1,
                  hint & ((uint64_t{1} << kPageBits) - 1)};
    }
    return std::nullopt;
  }

 private:
  static constexpr size_t kKept = 16;
  static constexpr unsigned kPageBits = 48;

  // Each 0, or a block's index + 1 above kPageBits bits of page number. relaxed: what is said of
  // the block is believed only after a look at its own bits.
  std::array<std::atomic<uint64_t>, kKept> hints_{};
  std::atomic<size_t> next_{0};
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WINDOW_HINTS_H_
