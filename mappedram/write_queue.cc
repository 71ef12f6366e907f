#include "mappedram/write_queue.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace ramjet {

WriteQueue::WriteQueue(const NewFile& file) : file_(file) {
  if (file_.direct_fd_ < 0) return;
  if (syscall(SYS_io_setup, writes_.size(), &context_) != 0) context_ = 0;
  for (size_t i = 0; i < writes_.size(); ++i) free_.push_back(i);
}

WriteQueue::~WriteQueue() {
  if (context_ == 0) return;
  while (IsUnderWay(put_)) (void)Reap();
  // Nothing of ours is in it any more, but the kernel takes a grace period of RCU, 30 ms, to end
  // it: nobody waits for that.
  const auto destroy = [](void* context) -> void* {
    syscall(SYS_io_destroy, context);
    return nullptr;
  };
  void* const context = reinterpret_cast<void*>(context_);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  if (pthread_create(&thread, nullptr, destroy, context) == 0) {
    pthread_setname_np(thread, "ramjet-aio-end");
    pthread_detach(thread);
  } else {
    destroy(context);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

absl::Status WriteQueue::Put(uint64_t offset, absl::Span<const uint8_t> bytes) {
  ++put_;
  if (context_ == 0 || !file_.CanBeDirect(offset, bytes)) return file_.WriteAt(offset, bytes);
  if (absl::Status status = file_.CheckWrite(offset, bytes.size()); !status.ok()) return status;
  while (free_.empty()) {
    if (absl::Status status = Reap(); !status.ok()) return status;
  }
  const size_t slot = free_.back();
  Write& write = writes_[slot];
  write = {.number = put_, .offset = offset, .bytes = bytes};
  write.control.aio_data = slot;
  write.control.aio_lio_opcode = IOCB_CMD_PWRITE;
  write.control.aio_fildes = static_cast<uint32_t>(file_.direct_fd_);
  write.control.aio_buf = reinterpret_cast<uintptr_t>(bytes.data());
  write.control.aio_nbytes = bytes.size();
  write.control.aio_offset = static_cast<int64_t>(offset);
  iocb* const one = &write.control;
  if (syscall(SYS_io_submit, context_, 1, &one) != 1) {
    // Whatever is the matter, the plain way says it, or does it.
    write.number = 0;
    return file_.WriteAt(offset, bytes);
  }
  free_.pop_back();
  return absl::OkStatus();
}

absl::Status WriteQueue::WaitFor(uint64_t count) {
  while (IsUnderWay(count)) {
    if (absl::Status status = Reap(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

bool WriteQueue::IsUnderWay(uint64_t count) const {
  return std::any_of(writes_.begin(), writes_.end(), [count](const Write& write) {
    return write.number != 0 && write.number <= count;
  });
}

absl::Status WriteQueue::Reap() {
  std::array<io_event, std::tuple_size_v<decltype(writes_)>> events;
  long ended;
  do {
    ended = syscall(SYS_io_getevents, context_, 1, events.size(), events.data(), nullptr);
  } while (ended < 0 && errno == EINTR);
  if (ended < 0) {
    const int error = errno;
    syscall(SYS_io_destroy, std::exchange(context_, 0));  // waits for all that is under way
    for (Write& write : writes_) write.number = 0;
    return file_.Error(error, "cannot be written");
  }
  absl::Status status;
  for (const io_event& event : absl::MakeConstSpan(events).first(static_cast<size_t>(ended))) {
    Write& write = writes_[event.data];
    const auto done = static_cast<uint64_t>(std::max<int64_t>(event.res, 0));
    // An error, or the disk was full half-way: the plain way says it, or does it.
    if (done < write.bytes.size()) {
      status.Update(file_.WriteAt(write.offset + done, write.bytes.subspan(done)));
    }
    write.number = 0;
    free_.push_back(event.data);
  }
  return status;
}

}  // namespace ramjet
