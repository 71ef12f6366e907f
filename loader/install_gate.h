// Keeps the installing of pages and the discarding of them apart.
#ifndef RAMJET_LOADER_INSTALL_GATE_H_
#define RAMJET_LOADER_INSTALL_GATE_H_

#include <atomic>
#include <cstdint>
#include <ctime>

namespace ramjet {

// Open, any number of threads may be inside at once, each for one installing ioctl. Closed, nobody
// is.
//
// Why: a thread that discards guest memory (balloon, free page reporting) sleeps until its REMOVE
// event is read, and drops the pages right then, perhaps before the reader has noted what the event
// said. An install in that moment would bring content back that the guest has given up, and nothing
// could take it away again, for the guest may have written since. So events are read, and their
// removes noted, with the gate closed; an install looks once inside whether its pages are still
// wanted. Installs fail with EAGAIN while an event is unread, so nobody stays inside for a closed
// gate's sake.
//
// The longest wait in Close() is one ioctl of another thread: 64 KiB are copied, or one huge page
// moved or, in memory of hugetlb, copied (20 us; 2 MiB of hugetlb 300 us, 1 GiB some tenths of
// a second). Enter() waits for one read(2) of events. No wait includes file I/O.
//
// Threads: every method may be called concurrently, also Close() by several threads.
// Memory order: what was written before Open() is visible after the next Enter(), and before
// Leave() after the next Close().
class InstallGate {
 public:
  void Enter() {
    for (;;) {
      AwaitZero(closers_);
      // Sequentially consistent with the pair in Close(): of a thread that enters and one that
      // closes at the same time, at least one sees the other.
      inside_.fetch_add(1);
      if (closers_.load() == 0) return;
      Leave();
    }
  }
  void Leave() {
    if (inside_.fetch_sub(1) == 1 && closers_.load() != 0) inside_.notify_all();
  }

  void Close() {
    closers_.fetch_add(1);
    AwaitZero(inside_);
  }
  void Open() {
    if (closers_.fetch_sub(1) == 1) closers_.notify_all();
  }

 private:
  // Looks for as long as an ioctl or a read takes, for to sleep and be woken takes longer; and then
  // sleeps, for the thread inside may not be running.
  static void AwaitZero(const std::atomic<int>& value) {
    if (value.load() == 0) return;
    const int64_t deadline_ns = NowNs() + kLookNs;
    do {
      for (int i = 0; i < 16; ++i) {
        if (value.load() == 0) return;
        Pause();
      }
    } while (NowNs() < deadline_ns);
    for (int now = value.load(); now != 0; now = value.load()) value.wait(now);
  }

  static constexpr int64_t kLookNs = 30'000;
  static int64_t NowNs() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  }
  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
  }

  std::atomic<int> closers_{0};
  std::atomic<int> inside_{0};
};

// Inside, for the life of the object.
class InsideGate {
 public:
  explicit InsideGate(InstallGate& gate) : gate_(gate) { gate_.Enter(); }
  ~InsideGate() { gate_.Leave(); }
  InsideGate(const InsideGate&) = delete;
  InsideGate& operator=(const InsideGate&) = delete;

 private:
  InstallGate& gate_;
};

// Closed, for the life of the object.
class GateClosed {
 public:
  explicit GateClosed(InstallGate& gate) : gate_(gate) { gate_.Close(); }
  ~GateClosed() { gate_.Open(); }
  GateClosed(const GateClosed&) = delete;
  GateClosed& operator=(const GateClosed&) = delete;

 private:
  InstallGate& gate_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_INSTALL_GATE_H_
