// Claimed windows that vCPUs wait for. While the fault thread loads one, eager threads may take the
// others.
#ifndef RAMJET_LOADER_WINDOW_OFFERS_H_
#define RAMJET_LOADER_WINDOW_OFFERS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "loader/ram_block.h"
#include "loader/window_trip.h"

namespace ramjet {

// A claimed window, and the page for which a thread waits.
struct WaitedWindow {
  ClaimedWindow window;
  uint64_t page;     // that somebody sleeps on, and that has content
  uint64_t read_ns;  // when the event of that was read, by MonotonicNs()
};

// Holds the windows of one batch of faults until that is served. Without it each of several vCPUs
// would wait for the windows of all before it, while eager threads load others that nobody waits
// for.
//
// Threads: one offers, any number take. Takes no lock and allocates nothing.
class WindowOffers {
 public:
  // At a time: twice as many as threads that load ahead by default, and few enough to be looked at.
  static constexpr size_t kMost = 8;

  // False: there is no room, and `waited` is as it was.
  bool Give(WaitedWindow&& waited) {
    for (Slot& slot : slots_) {
      if (slot.state.load(std::memory_order_acquire) != State::kEmpty) continue;
      slot.waited.emplace(std::move(waited));
      slot.state.store(State::kOffered, std::memory_order_release);
      return true;
    }
    return false;
  }

  // One that nobody has taken.
  std::optional<WaitedWindow> Take() {
    for (Slot& slot : slots_) {
      if (slot.Begin()) return slot.End();
    }
    return std::nullopt;
  }
  // That of the block which begins with `first_page`. By the thread that offers.
  std::optional<WaitedWindow> Take(const RamBlock& block, uint64_t first_page) {
    for (Slot& slot : slots_) {
      if (!slot.Begin()) continue;
      if (&slot.waited->window.block() == &block && slot.waited->window.run().first == first_page) {
        return slot.End();
      }
      slot.state.store(State::kOffered, std::memory_order_release);
    }
    return std::nullopt;
  }

 private:
  enum class State : uint8_t { kEmpty, kOffered, kInHand };
  struct Slot {
    std::atomic<State> state{State::kEmpty};
    std::optional<WaitedWindow> waited;  // belongs to the thread that has set the state

    bool Begin() {
      State offered = State::kOffered;
      return state.load(std::memory_order_relaxed) == offered &&
             state.compare_exchange_strong(offered, State::kInHand, std::memory_order_acquire);
    }
    std::optional<WaitedWindow> End() {
      std::optional<WaitedWindow> taken(std::move(*waited));
      waited.reset();
      state.store(State::kEmpty, std::memory_order_release);
      return taken;
    }
  };
  std::array<Slot, kMost> slots_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_WINDOW_OFFERS_H_
