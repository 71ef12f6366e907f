#include "tools/bench/limits.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/bench/workload.h"
#include "tools/fd.h"
#include "tools/page_cache.h"
#include "uffd/userfaultfd.h"

namespace ramjet::bench {
namespace {

constexpr uint64_t kAreaBytes = uint64_t{256} << 20;
constexpr uint64_t kCopyBytes = 256 << 10;
constexpr uint64_t kHugePageBytes = 2 << 20;
constexpr uint64_t kReadBytes = kHugePageBytes;
constexpr uint64_t kBlockBytes = 4096;  // divides kReadBytes
constexpr unsigned kReadsAtOnce = 8;
constexpr int kThreadStarts = 15;
constexpr int kThreadWakes = 200;
// More content than that says nothing new.
constexpr uint64_t kMostFileBytes = uint64_t{1} << 30;

// Anonymous memory, aligned to a huge page.
class Area {
 public:
  // `present`: in huge pages where there are any.
  Area(uint64_t length, bool present) : mapped_length_(length + kHugePageBytes) {
    mapped_ = static_cast<uint8_t*>(mmap(nullptr, mapped_length_, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    const uintptr_t address = reinterpret_cast<uintptr_t>(mapped_);
    data_ = mapped_ + ((address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes - address);
    if (!present) return;
    madvise(data_, length, MADV_HUGEPAGE);
    std::memset(data_, 1, length);
  }
  ~Area() { munmap(mapped_, mapped_length_); }
  Area(const Area&) = delete;
  Area& operator=(const Area&) = delete;

  uint8_t* data() const { return data_; }
  uintptr_t address() const { return reinterpret_cast<uintptr_t>(data_); }

 private:
  const uint64_t mapped_length_;
  uint8_t* mapped_;
  uint8_t* data_;
};

// Has `threads` threads do it, each with its number; GB/s if all of them together move `bytes`.
double Rate(uint64_t bytes, unsigned threads, const std::function<void(unsigned)>& work) {
  const uint64_t start = MonotonicNs();
  std::vector<std::thread> running;
  for (unsigned i = 0; i < threads; ++i) running.emplace_back(work, i);
  for (std::thread& thread : running) thread.join();
  return static_cast<double>(bytes) / static_cast<double>(MonotonicNs() - start);
}

double MemcpyRate() {
  const Area from(kAreaBytes, true);
  const Area to(kAreaBytes, true);
  return Rate(kAreaBytes, 1, [&](unsigned) { std::memcpy(to.data(), from.data(), kAreaBytes); });
}

// Negative: the kernel refused.
double UffdioCopyRate(const Userfaultfd& uffd, unsigned threads) {
  const Area from(kCopyBytes * threads, true);
  const Area to(kAreaBytes, false);
  if (!uffd.Register(to.address(), kAreaBytes).ok()) return -1;
  const uint64_t share = kAreaBytes / threads / kCopyBytes * kCopyBytes;
  std::atomic<bool> refused{false};
  const double rate = Rate(share * threads, threads, [&](unsigned thread) {
    for (uint64_t offset = 0; offset < share; offset += kCopyBytes) {
      const Installed installed = uffd.Copy(to.address() + thread * share + offset,
                                            from.data() + thread * kCopyBytes, kCopyBytes);
      if (installed.result != InstallResult::kDone) refused = true;
    }
  });
  // Nobody reads events here, and an unmapping would wait for that.
  if (!uffd.Unregister(to.address(), kAreaBytes).ok()) return -1;
  return refused ? -1 : rate;
}

double UffdioMoveRate(const Userfaultfd& uffd) {
  const Area from(kAreaBytes, true);
  const Area to(kAreaBytes, false);
  madvise(to.data(), kAreaBytes, MADV_HUGEPAGE);
  if (!uffd.Register(to.address(), kAreaBytes).ok()) return -1;
  bool refused = false;
  const double rate = Rate(kAreaBytes, 1, [&](unsigned) {
    for (uint64_t offset = 0; offset < kAreaBytes; offset += kHugePageBytes) {
      const Installed installed =
          uffd.Move(to.address() + offset, from.data() + offset, kHugePageBytes);
      if (installed.result != InstallResult::kDone) refused = true;
    }
  });
  if (!uffd.Unregister(to.address(), kAreaBytes).ok()) return -1;
  return refused ? -1 : rate;
}

// What is read at a time: at most kReadBytes that have content, aligned for O_DIRECT.
struct Piece {
  off_t begin;
  size_t length;
  uint64_t place;  // where it goes, if each byte has its own: one behind the other

  // O_DIRECT takes no odd length, and the file ends where it ends.
  size_t whole_length() const { return (length + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }
  uint64_t place_end() const { return place + whole_length(); }
};

std::vector<Piece> PiecesOf(int file) {
  std::vector<Piece> pieces;
  uint64_t place = 0;
  off_t begin = 0;
  while (place < kMostFileBytes && (begin = lseek(file, begin, SEEK_DATA)) >= 0) {
    const off_t end = lseek(file, begin, SEEK_HOLE);
    for (; begin < end; begin += kReadBytes) {
      pieces.push_back({begin, std::min<size_t>(kReadBytes, end - begin), place});
      place = pieces.back().place_end();
    }
    begin = end;
  }
  return pieces;
}

enum class Into {
  kPresent,      // memory, the same again and again
  kFreshWindows  // huge pages that are still to be laid in, each byte to its own place
};

// Reads all of it, piece by piece; negative: `path` cannot be read so.
double ReadRate(const std::string& path, int flags, unsigned threads, Into into = Into::kPresent) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
  if (!file.valid()) return -1;
  const std::vector<Piece> pieces = PiecesOf(file.get());
  if (pieces.empty()) return -1;
  const bool fresh = into == Into::kFreshWindows;
  const uint64_t length = fresh ? pieces.back().place_end() : kReadBytes * threads;
  if (fresh) WarmHostMemory(BytesToWarm(length));  // as before any load
  const Area to(length, !fresh);
  if (fresh) madvise(to.data(), length, MADV_HUGEPAGE);
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  uint64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.length;
  const double rate = Rate(bytes, threads, [&](unsigned thread) {
    size_t i;
    while ((i = next++) < pieces.size()) {
      const Piece& piece = pieces[i];
      uint8_t* const place = to.data() + (fresh ? piece.place : thread * kReadBytes);
      if (pread(file.get(), place, piece.whole_length(), piece.begin) <
          static_cast<ssize_t>(piece.length)) {
        failed = true;
      }
    }
  });
  return failed ? -1 : rate;
}

double ThreadStartUs() {
  std::vector<double> us;
  for (int i = 0; i < kThreadStarts; ++i) {
    const uint64_t start = MonotonicNs();
    std::thread thread([] {});
    us.push_back(static_cast<double>(MonotonicNs() - start) / 1e3);
    thread.join();
  }
  return SpreadOf(std::move(us)).median;
}

void StayOn(int cpu) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(cpu, &only);
  pthread_setaffinity_np(pthread_self(), sizeof(only), &only);
}

// Two threads wake each other in turn.
double ThreadWakeUs(int one_cpu, int other_cpu) {
  const UniqueFd ping(eventfd(0, EFD_CLOEXEC));
  const UniqueFd pong(eventfd(0, EFD_CLOEXEC));
  const auto answer = [](int cpu, int wait_for, int wake) {
    StayOn(cpu);
    for (int i = 0; i < kThreadWakes; ++i) {
      eventfd_t value;
      eventfd_read(wait_for, &value);
      eventfd_write(wake, 1);
    }
  };
  std::thread one(answer, one_cpu, ping.get(), pong.get());
  std::thread other(answer, other_cpu, pong.get(), ping.get());
  const uint64_t start = MonotonicNs();
  eventfd_write(ping.get(), 1);
  one.join();
  other.join();
  return static_cast<double>(MonotonicNs() - start) / 1e3 / (2 * kThreadWakes);
}

// The first two on which we may run.
std::vector<int> TwoCpus() {
  std::vector<int> cpus;
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof(usable), &usable) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(cpu, &usable)) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace

absl::Status Limits::Measure(const std::string& snapshot) {
  const absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open();
  if (!uffd.ok()) return uffd.status();
  WarmHostMemory();
  Add("memcpy", 1, MemcpyRate());
  const unsigned cpus = std::max(std::thread::hardware_concurrency(), 1u);
  for (unsigned threads = 1; threads <= cpus; threads *= 2) {
    Add("uffdio-copy", static_cast<int>(threads), UffdioCopyRate(*uffd, threads));
  }
  if (uffd->features().move) Add("uffdio-move", 1, UffdioMoveRate(*uffd));
  WarmHostMemory();  // which the last ones may have given back
  absl::Status cached = SetCacheState(snapshot, CacheState::kWarm);
  if (!cached.ok()) return cached;
  Add("pread", 1, ReadRate(snapshot, 0, 1));
  for (unsigned threads = 1; threads <= cpus; threads *= 2) {
    Add("fill", static_cast<int>(threads), ReadRate(snapshot, 0, threads, Into::kFreshWindows));
  }
  cached = SetCacheState(snapshot, CacheState::kCold);
  if (!cached.ok()) return cached;
  for (const unsigned reads : {1u, kReadsAtOnce}) {
    Add("disk-direct", static_cast<int>(reads), ReadRate(snapshot, O_DIRECT, reads));
  }
  for (const unsigned threads : {1u, 2u, 4u}) {
    Add("fill-direct", static_cast<int>(threads),
        ReadRate(snapshot, O_DIRECT, threads, Into::kFreshWindows));
  }
  Add("thread-start", 1, ThreadStartUs());
  const std::vector<int> two_cpus = TwoCpus();
  for (size_t i = 0; i < two_cpus.size(); ++i) {
    Add("thread-wake", static_cast<int>(i) + 1, ThreadWakeUs(two_cpus[0], two_cpus[i]));
  }
  return absl::OkStatus();
}

void Limits::Add(const std::string& name, int threads, double value) {
  if (value > 0) samples_[{name, threads}].push_back(value);
}

std::optional<Spread> Limits::Find(const std::string& name, int threads) const {
  const auto found = samples_.find({name, threads});
  if (found == samples_.end()) return std::nullopt;
  return SpreadOf(found->second);
}

nlohmann::json Limits::AsJson() const {
  nlohmann::json limits = nlohmann::json::array();
  for (const auto& [what, values] : samples_) {
    nlohmann::json limit = ToJson(SpreadOf(values));
    limit["name"] = what.first;
    limit["threads"] = what.second;
    const bool is_time =
        absl::StartsWith(what.first, "fault-loop") || absl::StartsWith(what.first, "thread-");
    limit["unit"] = is_time ? "us" : "GB/s";
    limits.push_back(std::move(limit));
  }
  return limits;
}

}  // namespace ramjet::bench
