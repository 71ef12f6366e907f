#include "uffd/event_reader.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <utility>

#include "uffd/uapi.h"

namespace ramjet {

absl::StatusOr<EventReader> EventReader::Create(const Userfaultfd& uffd) {
  const int poke_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (poke_fd < 0) {
    const int error = errno;
    if (error == EPERM) return absl::FailedPreconditionError("eventfd2(2) is not permitted");
    return absl::ErrnoToStatus(error, "eventfd");
  }
  return EventReader(uffd.fd(), poke_fd);
}

EventReader::EventReader(EventReader&& other) noexcept
    : uffd_(other.uffd_), poke_fd_(std::exchange(other.poke_fd_, -1)) {}

EventReader::~EventReader() {
  if (poke_fd_ >= 0) close(poke_fd_);
}

bool EventReader::Wait(int64_t timeout_ns) {
  constexpr int64_t kSecond = 1'000'000'000;
  const timespec timeout{.tv_sec = timeout_ns / kSecond, .tv_nsec = timeout_ns % kSecond};
  pollfd fds[] = {{.fd = uffd_, .events = POLLIN, .revents = 0},
                  {.fd = poke_fd_, .events = POLLIN, .revents = 0}};
  const int ready = ppoll(fds, 2, timeout_ns < 0 ? nullptr : &timeout, nullptr);
  if (ready > 0 && (fds[1].revents & POLLIN) != 0) {
    uint64_t pokes;
    (void)!read(poke_fd_, &pokes, sizeof(pokes));
  }
  return ready != 0;
}

void EventReader::Poke() const {
  const uint64_t one = 1;
  (void)!write(poke_fd_, &one, sizeof(one));  // fails only when 2^64 - 2 pokes are pending
}

Events EventReader::Read(bool& more) {
  std::array<uapi::Message, kBatch> messages;
  const ssize_t length = read(uffd_, messages.data(), sizeof(messages));
  // EAGAIN: the fault was resolved before it was read. EINTR: poll() will say so again.
  const size_t count = length > 0 ? static_cast<size_t>(length) / sizeof(uapi::Message) : 0;
  more = count == kBatch;
  size_t faults = 0;
  size_t removes = 0;
  for (size_t i = 0; i < count; ++i) {
    const uapi::Message& message = messages[i];
    if (message.event == uapi::kEventPageFault) {
      faults_[faults++] = {message.arg.pagefault.address};
    } else if (message.event == uapi::kEventRemove || message.event == uapi::kEventUnmap) {
      removes_[removes++] = {message.arg.remove.start, message.arg.remove.end};
    }
    // Nothing else is asked for in Userfaultfd::Open.
  }
  return {absl::MakeConstSpan(faults_.data(), faults),
          absl::MakeConstSpan(removes_.data(), removes)};
}

}  // namespace ramjet
