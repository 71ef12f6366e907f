// Sleeps between attempts.
#ifndef RAMJET_LOADER_BACKOFF_H_
#define RAMJET_LOADER_BACKOFF_H_

#include <algorithm>
#include <cstdint>
#include <ctime>

namespace ramjet {

// Sleeps a little longer each time.
class Backoff {
 public:
  // False once the sleeps add up to about a second.
  bool Sleep() {
    timespec time{.tv_sec = 0, .tv_nsec = sleep_ns_};
    nanosleep(&time, nullptr);
    slept_ns_ += sleep_ns_;
    sleep_ns_ = std::min(sleep_ns_ * 2, kMaxSleepNs);
    return slept_ns_ < 1'000'000'000;
  }

 private:
  static constexpr int64_t kMaxSleepNs = 2'000'000;
  int64_t sleep_ns_ = 50'000;
  int64_t slept_ns_ = 0;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_BACKOFF_H_
