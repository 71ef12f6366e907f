// A thread of ours inside somebody else's process.
#ifndef RAMJET_LOADER_THREAD_H_
#define RAMJET_LOADER_THREAD_H_

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ramjet {

// How many processors the calling thread, and those that it starts, may run on. At least 1. Unlike
// std::thread::hardware_concurrency() it respects affinity, and reads no file.
unsigned UsableProcessors();

// Runs a function to its end; joins on destruction. All signals are blocked in it, so the host
// program's handlers never run there, and its stack is small unless somebody else's code is to run
// on it. Unlike std::thread, failing to start is an error and not an exception.
class Thread {
 public:
  static constexpr size_t kStackBytes = 256 << 10;

  // `name` is what `ps -T` shows: at most 15 characters.
  static absl::StatusOr<std::unique_ptr<Thread>> Start(std::string name, std::function<void()> run,
                                                       size_t stack_bytes = kStackBytes);
  // The same for one that nobody joins: it ends when `run` does, or with the process.
  static absl::Status StartDetached(std::string name, std::function<void()> run);
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  // The caller has told the function to end.
  ~Thread() { Join(); }

  // Waits for the end. Not from the thread itself.
  void Join();

  // Sends it a signal. Requires that it has not ended, so `run` waits for what this tells it.
  void Signal(int signal) const { pthread_kill(id_, signal); }

  // Processor time it has used. May be called by any thread that does not race with Join().
  uint64_t cpu_ns() const;

 private:
  Thread(std::string name, std::function<void()> run)
      : name_(std::move(name)), run_(std::move(run)) {}
  absl::Status Create(size_t stack_bytes);
  static void* Main(void* self);

  const std::string name_;
  const std::function<void()> run_;
  pthread_t id_{};
  bool detached_ = false;
  bool joined_ = true;                     // there is nothing to join before it is created
  std::atomic<uint64_t> final_cpu_ns_{0};  // 0 until run_ has returned
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_THREAD_H_
