// Reads what the kernel reports on a userfaultfd.
#ifndef RAMJET_UFFD_EVENT_READER_H_
#define RAMJET_UFFD_EVENT_READER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// Somebody sleeps on a missing page. `addr` is where it was touched, not rounded to the page.
struct MissingFault {
  uintptr_t addr;
};

// [start, end) is being discarded (madvise), or was unmapped. The thread that does it goes on, and
// drops the pages, as soon as the event has been read. Until it has gone on, every install on the
// descriptor answers kAgain.
struct RemoveEvent {
  uintptr_t start;
  uintptr_t end;
};

// One batch. Which of its faults came before which of its removes cannot be told: the kernel hands
// out faults first, and one that comes meanwhile last.
struct Events {
  absl::Span<const MissingFault> faults;
  absl::Span<const RemoveEvent> removes;
};

// Waits for and reads events, many at a time. Allocates nothing after Create().
//
// Threads: belongs to one thread, but for Poke(), which any thread may call.
class EventReader {
 public:
  static constexpr size_t kBatch = 64;  // the most events of one Read()

  // `uffd` outlives the reader.
  static absl::StatusOr<EventReader> Create(const Userfaultfd& uffd);
  EventReader(EventReader&& other) noexcept;
  EventReader& operator=(EventReader&&) = delete;
  ~EventReader();

  // Sleeps until there is something to read, somebody pokes, or `timeout_ns` has passed (negative:
  // no limit), which alone makes it return false. May also return for no reason.
  bool Wait(int64_t timeout_ns);

  // Makes the current or the next Wait() return.
  void Poke() const;

  // Reads what is there, without sleeping. The spans are valid until the next call. `more` is set
  // if the batch was full.
  Events Read(bool& more);

 private:
  EventReader(int uffd, int poke_fd) : uffd_(uffd), poke_fd_(poke_fd) {}

  int uffd_;
  int poke_fd_;
  std::array<MissingFault, kBatch> faults_;
  std::array<RemoveEvent, kBatch> removes_;
};

}  // namespace ramjet

#endif  // RAMJET_UFFD_EVENT_READER_H_
