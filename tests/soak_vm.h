// The VM that is being loaded: its memory with the model of it, and what is known of its threads.
#ifndef RAMJET_TESTS_SOAK_VM_H_
#define RAMJET_TESTS_SOAK_VM_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "loader/snapshot_loader.h"
#include "mappedram/page_bitmap.h"
#include "tests/soak_model.h"

namespace ramjet::soak {

// --- guest memory ---

// Mapped as VMMs do it; not GuestMemory, for parts of it go away while it is in use.
class Ram {
 public:
  Ram(uint64_t pages, BlockMemory kind, bool huge, uint64_t shift_pages);
  ~Ram();
  Ram(const Ram&) = delete;
  Ram& operator=(const Ram&) = delete;

  BlockMemory kind() const { return kind_; }
  uint8_t* data(uint64_t page = 0) const {
    return reinterpret_cast<uint8_t*>(addr_ + page * HostPageBytes());
  }
  int memfd() const { return memfd_; }
  // `reserve`: the addresses stay ours.
  void Unmap(PageRun run, bool reserve);

 private:
  const BlockMemory kind_;
  const uint64_t length_;
  uintptr_t reservation_;
  uintptr_t addr_;
  int memfd_ = -1;
  absl::Mutex mu_;
  std::vector<std::pair<uintptr_t, uintptr_t>> gone_ ABSL_GUARDED_BY(mu_);
};

// How a load ends, while the guests run.
enum class Ending { kDetached, kDestroyed, kAbandoned, kTouched };

inline constexpr int kNobody = -1;

struct Extent {
  PageRun run;
  int owner;
  bool exclusive;  // nobody else touches it, so that it may be unmapped
};

struct Block {
  std::unique_ptr<Ram> ram;
  std::vector<Extent> extents;
  std::vector<uint32_t> extent_of;  // by page
  std::vector<PageModel> model;     // each element belongs to the owner of the page
  // By page; set before a discard. Seen clear after a page was read: its content was still owed.
  std::vector<std::atomic<bool>> discarded;
  std::atomic<bool> ready{false};
};

// What guests see of a load. Everything but the models and the atomics is constant while they run.
struct Vm {
  // Maps the memory and says who owns which pages.
  Vm(const Layout& layout, const Storage& storage, const std::vector<BlockMemory>& kinds,
     unsigned guests, Ending ending, Random& random);
  // Says why, and what was being done; ends the program.
  [[noreturn]] void Fail(const std::string& why) const;

  const Layout& layout;
  const Storage& storage;
  const Ending ending;
  std::vector<Block> blocks;
  SnapshotLoader* loader = nullptr;  // gone before its guests are, if the load is kDestroyed
  std::function<std::string()> describe;
  std::atomic<uint64_t> ops{0};
  std::atomic<bool> abandoning{false};
};

// --- what threads do ---

int64_t NowNs();

// What a thread is doing, for the monitor.
struct Doing {
  std::atomic<const char*> what{nullptr};
  std::atomic<uint64_t> block{0};
  std::atomic<uint64_t> page{0};
  std::atomic<int64_t> since_ns{0};
};

// nullptr in threads that are not guests. A plain pointer, as the handler of signals reads it.
inline constinit thread_local Doing* doing_here = nullptr;

// Over all loads.
struct Totals {
  uint64_t loads = 0;
  uint64_t faults = 0;
  uint64_t poisoned = 0;
  uint64_t redundant = 0;
  uint64_t rescued = 0;
  std::atomic<uint64_t> discards{0};
  std::atomic<uint64_t> unmaps{0};
  std::atomic<uint64_t> unreadable{0};  // accesses that were refused
  std::atomic<uint64_t> bytes{0};
};

Totals& TheTotals();

class NowDoing {
 public:
  NowDoing(Doing& doing, const char* what, uint64_t block = 0, uint64_t page = 0) : doing_(doing) {
    doing_.block = block;
    doing_.page = page;
    doing_.since_ns = NowNs();
    doing_.what = what;
  }
  ~NowDoing() { doing_.what = nullptr; }
  NowDoing(const NowDoing&) = delete;
  NowDoing& operator=(const NowDoing&) = delete;

 private:
  Doing& doing_;
};

}  // namespace ramjet::soak

#endif  // RAMJET_TESTS_SOAK_VM_H_
