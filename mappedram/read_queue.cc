#include "mappedram/read_queue.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>

namespace ramjet {
namespace {

// Linux 6.0 and 6.1, include/uapi/linux/io_uring.h: answers are only noted when this thread waits
// for one, and never in the middle of something else.
constexpr uint32_t kSingleIssuer = 1 << 12;
constexpr uint32_t kDeferTaskrun = 1 << 13;

size_t RingsBytes(const io_uring_params& params) {
  return std::max<size_t>(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
                          params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
}

size_t RequestsBytes(const io_uring_params& params) {
  return params.sq_entries * sizeof(io_uring_sqe);
}

long Enter(int fd, unsigned submit, unsigned await) {
  return syscall(SYS_io_uring_enter, fd, submit, await, await > 0 ? IORING_ENTER_GETEVENTS : 0,
                 nullptr, 0);
}

// A number of a ring's, which the kernel reads or writes as we do.
std::atomic_ref<uint32_t> Number(uint8_t* rings, size_t offset) {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(rings + offset));
}

}  // namespace

ReadQueue::~ReadQueue() { TearDown(); }

bool ReadQueue::SetUp() {
  params_.flags = kSingleIssuer | kDeferTaskrun;
  long fd = syscall(SYS_io_uring_setup, kMost, &params_);
  if (fd < 0 && errno == EINVAL) {
    params_ = {};
    fd = syscall(SYS_io_uring_setup, kMost, &params_);
  }
  if (fd < 0) return false;
  fd_ = static_cast<int>(fd);
  if ((params_.features & IORING_FEAT_SINGLE_MMAP) == 0) return false;  // Linux 5.4
  const auto map = [this](size_t bytes, uint64_t what) -> void* {
    void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                              fd_, static_cast<off_t>(what));
    if (mapped == MAP_FAILED) return nullptr;
    (void)madvise(mapped, bytes, MADV_DONTFORK);  // a child has nothing to ask for here
    return mapped;
  };
  rings_ = static_cast<uint8_t*>(map(RingsBytes(params_), IORING_OFF_SQ_RING));
  requests_ = static_cast<io_uring_sqe*>(map(RequestsBytes(params_), IORING_OFF_SQES));
  return rings_ != nullptr && requests_ != nullptr;
}

void ReadQueue::TearDown() {
  if (requests_ != nullptr) munmap(requests_, RequestsBytes(params_));
  if (rings_ != nullptr) munmap(rings_, RingsBytes(params_));
  if (fd_ >= 0) close(fd_);
  requests_ = nullptr;
  rings_ = nullptr;
  fd_ = -1;
}

bool ReadQueue::Begin(size_t slot, int fd, uint64_t offset, absl::Span<uint8_t> buffer) {
  if (refused_) return false;
  if (fd_ < 0 && !SetUp()) {
    refused_ = true;
    TearDown();
    return false;
  }
  const std::atomic_ref<uint32_t> tail = Number(rings_, params_.sq_off.tail);
  const uint32_t number = tail.load(std::memory_order_relaxed);  // only we write it
  const uint32_t index = number & Number(rings_, params_.sq_off.ring_mask).load();
  io_uring_sqe& request = requests_[index];
  request = {};
  request.opcode = IORING_OP_READ;
  request.fd = fd;
  request.off = offset;
  request.addr = reinterpret_cast<uintptr_t>(buffer.data());
  request.len = static_cast<uint32_t>(buffer.size());
  request.user_data = slot;
  Number(rings_, params_.sq_off.array + index * sizeof(uint32_t)).store(index);
  slots_[slot] = {};
  tail.store(number + 1, std::memory_order_release);
  (void)Enter(fd_, 1, 0);
  // Whatever it says: what it has taken will be answered, and the rest it looks at only when asked.
  const bool taken =
      Number(rings_, params_.sq_off.head).load(std::memory_order_acquire) == number + 1;
  if (!taken) tail.store(number, std::memory_order_release);
  return taken;
}

uint64_t ReadQueue::Await(size_t slot) {
  for (Reap(); !slots_[slot].ended; Reap()) {
    if (Enter(fd_, 0, 1) >= 0 || errno == EINTR) continue;
    // The memory is the kernel's all the same.
    const timespec moment{.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&moment, nullptr);
  }
  if (slots_[slot].result < 0) refused_ = true;
  return static_cast<uint64_t>(std::max(slots_[slot].result, 0));
}

void ReadQueue::Reap() {
  const std::atomic_ref<uint32_t> head = Number(rings_, params_.cq_off.head);
  const uint32_t mask = Number(rings_, params_.cq_off.ring_mask).load();
  const auto* const answers = reinterpret_cast<const io_uring_cqe*>(rings_ + params_.cq_off.cqes);
  const uint32_t tail =
      Number(rings_, params_.cq_off.tail).load(std::memory_order_acquire);  // the kernel's
  uint32_t next = head.load(std::memory_order_relaxed);
  for (; next != tail; ++next) {
    const io_uring_cqe& answer = answers[next & mask];
    slots_[answer.user_data] = {.ended = true, .result = answer.res};
  }
  head.store(next, std::memory_order_release);
}

}  // namespace ramjet
