// What the tests of loader/ share: guest memory, snapshots in it, and a page source that waits or
// fails when told to.
#ifndef RAMJET_TESTS_LOADER_TESTING_H_
#define RAMJET_TESTS_LOADER_TESTING_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "loader/snapshot_loader.h"
#include "mappedram/page_source.h"
#include "mappedram/read_queue.h"
#include "mappedram/snapshot.h"
#include "tests/snapshot_content.h"

namespace ramjet {

inline constexpr uint64_t kHugeBytes = 2 << 20;

// The size of the pages that userfaultfd deals in here.
uint64_t HostPageBytes();

// Skips the test, saying why, where this process may not serve page faults.
#define SKIP_WITHOUT_USERFAULTFD()                                                  \
  if (const absl::Status can = ::ramjet::Userfaultfd::Open().status(); !can.ok()) { \
    GTEST_SKIP() << can;                                                            \
  }

// Skips the test, saying why, where nothing can arrive as a huge page.
#define SKIP_WITHOUT_HUGE_WINDOWS()                                         \
  if (const std::string why = ::ramjet::WhyNoHugeWindows(); !why.empty()) { \
    GTEST_SKIP() << why;                                                    \
  }
std::string WhyNoHugeWindows();

enum class MemoryKind {
  kPrivate,
  kShared,   // of a memfd
  kAliased,  // of a memfd, with a second mapping to fill it through
};
bool IsShared(MemoryKind kind);

// Memory as a VMM maps it for a guest, aligned to a huge page.
class GuestMemory {
 public:
  GuestMemory(uint64_t length, MemoryKind kind);
  GuestMemory(uint64_t length, BlockMemory kind)
      : GuestMemory(length,
                    kind == BlockMemory::kShared ? MemoryKind::kShared : MemoryKind::kPrivate) {}
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  ~GuestMemory();

  uint8_t* data() const { return memory_; }
  uint64_t length() const { return length_; }
  uintptr_t addr(uint64_t page = 0) const {
    return reinterpret_cast<uintptr_t>(memory_) + page * HostPageBytes();
  }
  // Touches the page, and compares all of it.
  bool HoldsPattern(uint64_t page) const;
  bool HoldsZeros(uint64_t page) const;
  void MadviseDontNeed(uint64_t page, uint64_t pages) const;
  int memfd() const { return memfd_; }
  BlockMapping mapping() const;

 private:
  uint64_t length_;
  uint8_t* reservation_;
  uint8_t* memory_;
  uint8_t* alias_ = nullptr;
  int memfd_ = -1;
};

// Puts garbage into the file where its bitmaps are clear: what an older save has left there. Into
// the neighbours of pages with content only, which are the likeliest to be read by mistake.
void PutStaleData(const std::string& path);

// A snapshot of one block of `pages` host pages, of which those of `nonzero` hold
// FillPagePattern(). The others hold stale data. The file is unlinked.
std::unique_ptr<Snapshot> OneBlockSnapshot(uint64_t pages, std::vector<PageRun> nonzero);

// Reads a snapshot's pages, but waits or fails where it is told to.
class FaultySource : public PageSource {
 public:
  explicit FaultySource(const Snapshot& snapshot) : snapshot_(snapshot) {}

  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override;
  // Which EndRead() reads, and may have to wait for.
  bool BeginRead(ReadQueue&, size_t, size_t, uint64_t offset,
                 absl::Span<uint8_t> buffer) const override {
    if (queued_.load()) begun_to_.store((offset + buffer.size() - 1) / HostPageBytes());
    return queued_.load();
  }
  void Prefetch(size_t block, uint64_t offset, uint64_t length) const override
      ABSL_LOCKS_EXCLUDED(mu_);
  uint64_t CachedBytes(size_t, uint64_t, uint64_t length) const override {
    return cached_.load() ? length : 0;
  }

  // What Prefetch() was called for.
  std::vector<PageRun> prefetched() const ABSL_LOCKS_EXCLUDED(mu_);

  // Whether all of it is said to be in the page cache; not at first.
  void SetCached(bool cached) { cached_.store(cached); }
  // Whether reads are as slow as those of a disk, and begin before anybody waits for them; not at
  // first. The last page of the last that has begun.
  void SetQueued(bool queued) { queued_.store(queued); }
  uint64_t begun_to() const { return begun_to_.load(); }
  // Reads of runs with `page` in them wait, after the content is in the buffer, until
  // Release(page).
  void Hold(uint64_t page) ABSL_LOCKS_EXCLUDED(mu_);
  void Release(uint64_t page) ABSL_LOCKS_EXCLUDED(mu_);
  // Waits until a read waits for `page`; says which run it reads.
  PageRun AwaitHeld(uint64_t page) ABSL_LOCKS_EXCLUDED(mu_);
  // The next `times` reads of runs with `page` in them fail, those that wait among them.
  void Fail(uint64_t page, absl::Status status, int times) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Failure {
    absl::Status status;
    int times;
  };
  const Snapshot& snapshot_;
  std::atomic<bool> cached_{false};
  std::atomic<bool> queued_{false};
  mutable std::atomic<uint64_t> begun_to_{0};
  mutable absl::Mutex mu_;
  std::set<uint64_t> held_ ABSL_GUARDED_BY(mu_);
  mutable std::map<uint64_t, PageRun> waiting_ ABSL_GUARDED_BY(mu_);
  mutable std::map<uint64_t, Failure> failures_ ABSL_GUARDED_BY(mu_);
  mutable std::vector<PageRun> prefetched_ ABSL_GUARDED_BY(mu_);
};

// One block being loaded into memory of its own through a faulty source. Every wake is to come from
// where it belongs: what the watchdog has to wake is a failure of the test.
struct OneBlockLoad {
  OneBlockLoad(uint64_t pages, std::vector<PageRun> nonzero, MemoryKind kind,
               const SnapshotLoader::Options& options = {});
  ~OneBlockLoad();
  // The memory outlives the loader.
  GuestMemory memory;
  std::unique_ptr<FaultySource> source;
  std::unique_ptr<SnapshotLoader> loader;
};

// Whether the byte at `addr` cannot be read because its page is poisoned.
bool IsPoisoned(const uint8_t* addr);

// Names of this process's threads that begin with "ramjet", and how many userfaultfds it has open.
std::vector<std::string> OurThreads();
// The same once they have ended: one that was joined stays in the kernel's list for a moment.
std::vector<std::string> ThreadsLeft();
int OpenUserfaultfds();

// Faults on this process's only userfaultfd that nobody has read, by the kernel's word.
uint64_t UnreadFaults();

}  // namespace ramjet

#endif  // RAMJET_TESTS_LOADER_TESTING_H_
