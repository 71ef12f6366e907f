// Wakes threads that wait for something to happen, or for a time.
#ifndef RAMJET_LOADER_MOMENTS_H_
#define RAMJET_LOADER_MOMENTS_H_

#include <atomic>
#include <cstdint>

namespace ramjet {

// A counter of moments at which a waiting thread should look again.
//
//   const uint32_t seen = moments.count();   // before the look
//   if (there is nothing to do) moments.AwaitNext(seen, deadline_ns);
//
// Deadlines are of MonotonicNs(): Abseil's waits, up to 2022 at least, follow the clock of the day,
// and a clock that is set back by an hour makes them an hour longer.
//
// Threads: every method may be called concurrently. Takes no lock; Note() makes a system call only
// if a thread waits. Memory order: what was written before Note() is visible to a thread that has
// seen it in count() or AwaitNext().
class Moments {
 public:
  static constexpr uint64_t kNever = UINT64_MAX;

  void Note();
  uint32_t count() const { return count_.load(); }
  // Sleeps until count() differs from `seen`, or until `deadline_ns`, which may be kNever. False:
  // the deadline has come first.
  bool AwaitNext(uint32_t seen, uint64_t deadline_ns) const;

 private:
  // Sequentially consistent: of a thread that notes and one that begins to wait at the same time,
  // at least one sees the other.
  std::atomic<uint32_t> count_{0};
  mutable std::atomic<uint32_t> waiters_{0};
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_MOMENTS_H_
