#include "loader/thread.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

uint64_t ReadClockNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

unsigned UsableProcessors() {
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof(usable), &usable) == 0) {
    return static_cast<unsigned>(CPU_COUNT(&usable));
  }
  return std::max(1u, std::thread::hardware_concurrency());  // more than a cpu_set_t can tell
}

absl::StatusOr<std::unique_ptr<Thread>> Thread::Start(std::string name, std::function<void()> run,
                                                      size_t stack_bytes) {
  std::unique_ptr<Thread> thread(new Thread(std::move(name), std::move(run)));
  absl::Status created = thread->Create(stack_bytes);
  if (!created.ok()) return created;
  return thread;
}

absl::Status Thread::StartDetached(std::string name, std::function<void()> run) {
  std::unique_ptr<Thread> thread(new Thread(std::move(name), std::move(run)));
  thread->detached_ = true;
  absl::Status created = thread->Create(kStackBytes);
  if (created.ok()) (void)thread.release();  // Main() deletes it
  return created;
}

absl::Status Thread::Create(size_t stack_bytes) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  // A thread inherits the mask of its creator, so no signal can come between its start and a mask
  // of its own.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  joined_ = false;  // before there is another thread to see it
  const int error = pthread_create(&id_, &attributes, Main, this);
  if (error != 0) joined_ = true;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error == 0) return absl::OkStatus();
  if (error == EPERM) {
    return absl::FailedPreconditionError(absl::StrCat("thread ", name_, " is not permitted"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot start thread ", name_, ": ", std::strerror(error)));
}

void* Thread::Main(void* self) {
  auto* const thread = static_cast<Thread*>(self);
  pthread_setname_np(pthread_self(), thread->name_.c_str());
  thread->run_();
  if (thread->detached_) {
    pthread_detach(pthread_self());
    thread->joined_ = true;
    delete thread;
    return nullptr;
  }
  thread->final_cpu_ns_.store(ReadClockNs(CLOCK_THREAD_CPUTIME_ID) | 1);
  return nullptr;
}

void Thread::Join() {
  if (std::exchange(joined_, true)) return;
  pthread_join(id_, nullptr);
}

uint64_t Thread::cpu_ns() const {
  clockid_t clock;
  const uint64_t final_ns = final_cpu_ns_.load();
  if (final_ns != 0 || joined_ || pthread_getcpuclockid(id_, &clock) != 0) return final_ns;
  return ReadClockNs(clock);
}

}  // namespace ramjet
