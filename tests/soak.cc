// Loads snapshots again and again under guests that do everything a guest may do, and compares
// every byte with a model.
//
//   bazel run //tests:soak -- --seconds 60 [--seed S] [--guests N] [--eager-threads N]
//       [--memory-mib N] [--kinds private,shared] [--from-load N]
//
// Every page of a load belongs to one guest thread, which alone writes and discards it and knows
// what it must hold, or to nobody: then it never changes and all may read it. So the model needs no
// lock. What a guest does not own it still touches, for the sake of the faults, and checks that the
// content is one that the page had at some time. In each load the seed decides how the memory is
// mapped, which reads fail or stall, when eager loading starts and how the load ends: waited for,
// destroyed or abandoned while the guests run. `--from-load N` begins with load N of that seed.
//
// Prints one line. Exit status: 0 all is well, or this process may not serve page faults (the line
// says so); 1 a byte differs, a guest is stuck, or something is left over; 2 usage.
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loader/snapshot_loader.h"
#include "mappedram/file.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_writer.h"
#include "tests/loader_testing.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr int64_t kStuckNs = 20'000'000'000;
constexpr uint64_t kLoadsOfALayout = 8;  // writing a snapshot costs more than loading it
constexpr size_t kSlots = 8;             // a page is written whole or a slot at a time

struct Config {
  uint64_t seconds = 10;
  uint64_t seed = 0;
  unsigned guests = 3;
  unsigned eager_threads = 2;
  uint64_t memory_mib = 48;
  uint64_t from_load = 0;
  std::vector<BlockMemory> kinds = {BlockMemory::kPrivate, BlockMemory::kShared};
};

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t z = a * 0x9e3779b97f4a7c15 + b + 0x632be59bd9b4e019;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// The same on every machine, which the standard's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() { return Mix(state_, ++count_); }
  uint64_t Below(uint64_t limit) { return Next() % limit; }
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }
  bool Percent(uint64_t percent) { return Below(100) < percent; }

 private:
  uint64_t state_;
  uint64_t count_ = 0;
};

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

// --- content ---

using Word = uint64_t;

size_t WordsPerPage() { return HostPageBytes() / sizeof(Word); }

// Versions: 0 is a zero, this is what the file holds, and guests count their writes from 1.
constexpr uint32_t kOriginal = 0x80000000;

// The upper half says where the word belongs, so that one in a wrong place is never taken for
// right; the lower half says who wrote it.
struct PageWords {
  PageWords(uint64_t salt, size_t block, uint64_t page)
      : place(Mix(salt, (uint64_t{block} << 40) + page)) {}
  Word At(size_t i, uint32_t version) const {
    if (version == 0) return 0;
    return Word{static_cast<uint32_t>((place + i * 0x9e3779b97f4a7c15) >> 32) | 1} << 32 | version;
  }
  uint64_t place;
};

// What a page is to hold: `base` with newer slots over it.
struct PageModel {
  uint32_t base = 0;  // kOriginal, or 0 for zeros
  std::array<uint32_t, kSlots> written{};
  bool unmapped = false;
  uint32_t VersionOf(size_t i) const {
    const uint32_t version = written[i / (WordsPerPage() / kSlots)];
    return version != 0 ? version : base;
  }
};

// How storage treats a page.
enum class Fate : uint8_t {
  kSound,   // arrives; reads may fail once or twice before that
  kShaky,   // fails so often that it may be poisoned
  kBroken,  // never arrives
};

// --- snapshots ---

struct Layout {
  struct Block {
    uint64_t pages;
    std::vector<PageRun> nonzero;
    std::vector<bool> has;  // by page
  };
  uint64_t salt = 0;
  std::vector<Block> blocks;
  int fd = -1;  // of the snapshot, which has no name any more

  Layout(const Config& config, uint64_t layout_seed);
  ~Layout() { close(fd); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  std::shared_ptr<Snapshot> Open() const;
};

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "soak: %s\n", why.c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

void CheckOk(const absl::Status& status, const char* what) {
  if (!status.ok()) Die(absl::StrCat(what, ": ", status.ToString()));
}

Layout::Layout(const Config& config, uint64_t layout_seed) : salt(layout_seed) {
  Random random(layout_seed);
  const uint64_t pages = std::max<uint64_t>(config.memory_mib << 20, 4 << 20) / HostPageBytes();
  const uint64_t huge = kHugeBytes / HostPageBytes();
  const auto add = [&](uint64_t count, uint64_t longest_run, uint64_t longest_gap) {
    Block block{.pages = count, .nonzero = {}, .has = std::vector<bool>(count)};
    for (uint64_t at = random.Below(longest_gap); at < count && longest_run > 0;) {
      const uint64_t run = std::min(random.Between(1, longest_run), count - at);
      block.nonzero.push_back({at, run});
      std::fill_n(block.has.begin() + static_cast<int64_t>(at), run, true);
      at += run + random.Between(1, longest_gap);
    }
    blocks.push_back(std::move(block));
  };
  add(std::max(pages * 5 / 8 / huge, uint64_t{1}) * huge, 3 * huge, 40);  // dense, whole huge pages
  add(pages / 4 | 1, 60, 60);
  add(pages / 12 | 1, 4, 200);  // sparse
  add(1, 1, 1);
  add(random.Between(2, 9), 9, 2);
  add(random.Between(500, 700), 700, 5);
  add(33, 0, 2);  // nothing in the file

  SnapshotContent content;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto fill = [this, i](uint64_t page, absl::Span<uint8_t> to) {
      const PageWords words(salt, i, page);
      for (size_t w = 0; w < WordsPerPage(); ++w) {
        const Word word = words.At(w, kOriginal);
        std::memcpy(to.data() + w * sizeof(Word), &word, sizeof(Word));
      }
    };
    content.blocks.push_back({.idstr = absl::StrCat("block", i),
                              .used_length = blocks[i].pages * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = blocks[i].nonzero,
                              .fill = fill});
  }
  const char* const directory = std::getenv("TEST_TMPDIR");
  std::string path = absl::StrCat(directory != nullptr ? directory : "/tmp", "/soak.XXXXXX");
  const int created = mkstemp(path.data());
  if (created < 0) Die("cannot create a snapshot in " + path);
  close(created);
  const absl::Status written = WriteSnapshot(content, path);
  fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  unlink(path.c_str());
  CheckOk(written, "snapshot");
}

std::shared_ptr<Snapshot> Layout::Open() const {
  absl::StatusOr<File> file = File::Open(absl::StrCat("/proc/self/fd/", fd));
  CheckOk(file.status(), "snapshot");
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  CheckOk(snapshot.status(), "snapshot");
  return *std::move(snapshot);
}

// --- storage ---

// Storage that fails for some pages, for a while or for ever, and stalls now and then.
class Storage : public PageSource {
 public:
  Storage(const Layout& layout, const Snapshot& snapshot, uint64_t seed, bool may_poison);

  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    const absl::Status status = snapshot_.ReadPages(block, offset, buffer);
    const PageRun run{offset / HostPageBytes(), buffer.size() / HostPageBytes()};
    const absl::Status injected = Inject(block, run);
    return injected.ok() ? status : injected;
  }

  Fate fate(size_t block, uint64_t page) const { return pages_[block][page].fate; }
  // From now on nothing stalls and what can be read is read at once.
  void Settle() { settled_.store(true); }

 private:
  static constexpr uint8_t kForEver = 255;
  struct Page {
    Fate fate = Fate::kSound;
    bool data_loss = false;
    mutable std::atomic<uint8_t> failures{0};  // still to come
  };
  absl::Status Inject(size_t block, PageRun run) const;

  const Snapshot& snapshot_;
  const uint64_t seed_;
  uint64_t stalls_per_10000_ = 0;
  std::vector<std::vector<Page>> pages_;        // by block
  std::vector<std::vector<uint64_t>> failing_;  // pages that ever fail, rising; by block
  mutable std::atomic<uint64_t> reads_{0};
  std::atomic<bool> settled_{false};
};

Storage::Storage(const Layout& layout, const Snapshot& snapshot, uint64_t seed, bool may_poison)
    : snapshot_(snapshot), seed_(seed) {
  Random random(seed);
  if (random.Percent(40)) stalls_per_10000_ = random.Between(1, 60);
  const uint64_t flaky = random.Percent(50) ? random.Between(1, 30) : 0;
  const uint64_t shaky = may_poison && random.Percent(30) ? random.Between(1, 10) : 0;
  const uint64_t broken = may_poison && random.Percent(40) ? random.Between(1, 20) : 0;
  for (const Layout::Block& block : layout.blocks) {
    pages_.emplace_back(block.pages);
    failing_.emplace_back();
    for (uint64_t i = 0; i < block.pages; ++i) {
      const uint64_t draw = random.Below(5000);
      if (!block.has[i] || draw >= flaky + shaky + broken) continue;
      Page& page = pages_.back()[i];
      failing_.back().push_back(i);
      if (draw < flaky) {
        page.failures = static_cast<uint8_t>(random.Between(1, 2));
      } else if (draw < flaky + shaky) {
        page.fate = Fate::kShaky;
        page.data_loss = random.Percent(30);
        page.failures = static_cast<uint8_t>(page.data_loss ? 1 : random.Between(3, 8));
      } else {
        page.fate = Fate::kBroken;
        page.data_loss = random.Percent(30);
        page.failures = kForEver;
      }
    }
  }
}

absl::Status Storage::Inject(size_t block, PageRun run) const {
  if (Mix(seed_, reads_.fetch_add(1)) % 10000 < stalls_per_10000_ && !settled_.load()) {
    absl::SleepFor(absl::Microseconds(Mix(seed_, ~reads_.load()) % 50'000));
  }
  const std::vector<uint64_t>& failing = failing_[block];
  for (auto at = std::lower_bound(failing.begin(), failing.end(), run.first);
       at != failing.end() && *at < run.end(); ++at) {
    const Page& page = pages_[block][*at];
    uint8_t failures = page.failures.load();
    while (failures != 0 && failures != kForEver &&
           !page.failures.compare_exchange_weak(failures, static_cast<uint8_t>(failures - 1))) {
    }
    if (failures == 0) continue;
    const std::string what = absl::StrCat("soak: block ", block, ", page ", *at);
    return page.data_loss ? absl::DataLossError(what) : absl::UnavailableError(what);
  }
  return absl::OkStatus();
}

// --- guest memory ---

// Mapped as VMMs do it; not GuestMemory, for parts of it go away while it is in use.
class Ram {
 public:
  Ram(uint64_t pages, BlockMemory kind, bool huge, uint64_t shift_pages)
      : kind_(kind), length_(pages * HostPageBytes()) {
    void* const reservation = mmap(nullptr, length_ + 2 * kHugeBytes, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reservation == MAP_FAILED) Die("no address space");
    reservation_ = reinterpret_cast<uintptr_t>(reservation);
    addr_ =
        (reservation_ + kHugeBytes - 1) / kHugeBytes * kHugeBytes + shift_pages * HostPageBytes();
    int flags = MAP_FIXED | MAP_NORESERVE;
    if (kind == BlockMemory::kShared) {
      memfd_ = memfd_create("guest", MFD_CLOEXEC);
      if (memfd_ < 0 || ftruncate(memfd_, static_cast<off_t>(length_)) != 0) Die("no memfd");
      flags |= MAP_SHARED;
    } else {
      flags |= MAP_PRIVATE | MAP_ANONYMOUS;
    }
    if (mmap(data(), length_, PROT_READ | PROT_WRITE, flags, memfd_, 0) == MAP_FAILED) {
      Die("no guest memory");
    }
    if (huge) madvise(data(), length_, MADV_HUGEPAGE);
  }
  ~Ram() {
    absl::MutexLock lock(&mu_);
    std::sort(gone_.begin(), gone_.end());
    uintptr_t at = reservation_;
    gone_.push_back({reservation_ + length_ + 2 * kHugeBytes, 0});
    for (const auto& [from, to] : gone_) {
      if (from > at) munmap(reinterpret_cast<void*>(at), from - at);
      at = to;
    }
    if (memfd_ >= 0) close(memfd_);
  }
  Ram(const Ram&) = delete;
  Ram& operator=(const Ram&) = delete;

  BlockMemory kind() const { return kind_; }
  uint8_t* data(uint64_t page = 0) const {
    return reinterpret_cast<uint8_t*>(addr_ + page * HostPageBytes());
  }
  int memfd() const { return memfd_; }
  // `reserve`: the addresses stay ours.
  void Unmap(PageRun run, bool reserve) {
    const uint64_t length = run.count * HostPageBytes();
    if (reserve) {
      if (mmap(data(run.first), length, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
        Die("cannot map over guest memory");
      }
      return;
    }
    {
      // Before somebody else can have them.
      absl::MutexLock lock(&mu_);
      gone_.emplace_back(reinterpret_cast<uintptr_t>(data(run.first)),
                         reinterpret_cast<uintptr_t>(data(run.end())));
    }
    if (munmap(data(run.first), length) != 0) Die("cannot unmap guest memory");
  }

 private:
  const BlockMemory kind_;
  const uint64_t length_;
  uintptr_t reservation_;
  uintptr_t addr_;
  int memfd_ = -1;
  absl::Mutex mu_;
  std::vector<std::pair<uintptr_t, uintptr_t>> gone_ ABSL_GUARDED_BY(mu_);
};

// --- one load ---

enum class Ending { kDetached, kDestroyed, kAbandoned, kTouched };
enum class Eager { kAtOnce, kLate, kNever };

constexpr int kNobody = -1;

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

// What a thread is doing, for the monitor.
struct Doing {
  std::atomic<const char*> what{nullptr};
  std::atomic<uint64_t> block{0};
  std::atomic<uint64_t> page{0};
  std::atomic<int64_t> since_ns{0};
};

// nullptr in threads that are not guests. A plain pointer, as the handler of signals reads it.
thread_local Doing* doing_here = nullptr;

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

Totals& TheTotals() {
  static Totals totals;
  return totals;
}

// Faults that the loader's watchdog had to wake; 0 for a loader that has none.
template <typename Stats>
uint64_t Rescued(const Stats& stats) {
  if constexpr (requires { stats.rescued.load(); }) {
    return stats.rescued.load();
  } else {
    return 0;
  }
}

class Load {
 public:
  Load(const Config& config, const Layout& layout, uint64_t number, bool may_poison);
  void Run();
  // Called by the monitor, at any time.
  std::string Describe() const;
  void AbortIfStuck() const;

  Doing& doing(unsigned guest) { return doing_[guest]; }
  [[noreturn]] void Fail(const std::string& why) const;

 private:
  friend class Guest;

  void Divide(Block& block, Random& random);
  void AttachAll(Random& random, size_t from, size_t to);
  void AwaitOps(uint64_t ops) const;
  void Pester(uint64_t seed);
  void CompareAll(bool by_kernel);
  void CheckCounts(const LoadStats& stats);

  const Config& config_;
  const Layout& layout_;
  const uint64_t number_;
  uint64_t seed_;
  Ending ending_;
  Eager eager_;
  uint64_t ops_per_guest_;
  uint64_t signal_gap_us_;  // 0: none are sent

  std::shared_ptr<Snapshot> snapshot_;
  std::unique_ptr<Storage> storage_;
  std::vector<size_t> order_;  // of attaching
  std::vector<Block> blocks_;
  std::unique_ptr<SnapshotLoader> loader_;
  // Of the loader, for the monitor, while there is one.
  std::atomic<const LoadStats*> stats_{nullptr};
  std::vector<Doing> doing_;  // of the guests, and last of the main thread
  std::vector<std::thread> threads_;
  std::atomic<uint64_t> ops_{0};
  std::atomic<unsigned> running_{0};
  std::atomic<bool> abandoning_{false};
};

std::atomic<const Load*> current_load{nullptr};

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

// A guest thread, with what it needs for system calls.
class Guest {
 public:
  Guest(Load& load, unsigned number, uint64_t seed)
      : load_(load),
        number_(number),
        random_(seed),
        doing_(load.doing(number)),
        buffer_(WordsPerPage()),
        expected_(WordsPerPage()) {
    if (pipe2(pipe_, O_CLOEXEC) != 0) Die("no pipe");
    memfd_ = memfd_create("guest file", MFD_CLOEXEC);
    if (memfd_ < 0) Die("no memfd");
  }
  ~Guest() {
    close(pipe_[0]);
    close(pipe_[1]);
    close(memfd_);
  }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  void Run();
  // Touches the page and compares all of it, or, being refused, whether it may be.
  void CompareWhole(size_t block, uint64_t page, bool by_kernel);

 private:
  void Step();
  void Write(size_t block, uint64_t page, bool by_kernel);
  void Discard(size_t block, const Extent& extent, uint64_t page);
  void Unmap(size_t block, const Extent& extent, uint64_t page);
  void TouchForeign(size_t block, uint64_t page, bool by_kernel);
  bool KernelRead(const void* addr, void* to, size_t length);
  bool KernelWrite(void* addr, const void* from, size_t length);
  void CheckRefusal(size_t block, uint64_t page);
  PageWords WordsOf(size_t block, uint64_t page) const { return {load_.layout_.salt, block, page}; }

  Load& load_;
  const unsigned number_;
  Random random_;
  Doing& doing_;
  std::vector<Word> buffer_;
  std::vector<Word> expected_;
  uint32_t version_ = 0;
  int pipe_[2];
  int memfd_;
};

// The model is the memory's, so a sanitizer would be right to complain of a page that its owner
// writes at the same time; what it holds then is checked as far as it can be.
__attribute__((no_sanitize("thread"))) Word ReadRacing(const Word* word) {
  return *static_cast<const volatile Word*>(word);
}

void Guest::Run() {
  doing_here = &doing_;
  for (uint64_t i = 0; i < load_.ops_per_guest_; ++i) {
    Step();
    load_.ops_.fetch_add(1);
  }
  doing_here = nullptr;
}

void Guest::Step() {
  const size_t b = random_.Percent(60) ? 0 : random_.Below(load_.blocks_.size());
  Block& block = load_.blocks_[b];
  if (!block.ready.load()) return;
  const uint64_t page = random_.Below(block.model.size());
  const Extent& extent = block.extents[block.extent_of[page]];
  const bool by_kernel = load_.ending_ == Ending::kAbandoned || random_.Percent(25) ||
                         load_.storage_->fate(b, page) != Fate::kSound;
  const uint64_t draw = random_.Below(100);
  if (extent.owner == kNobody) return CompareWhole(b, page, by_kernel);
  if (extent.owner != static_cast<int>(number_)) {
    if (!extent.exclusive) TouchForeign(b, page, by_kernel);
    return;
  }
  if (block.model[page].unmapped) return;
  if (draw < 40) {
    CompareWhole(b, page, by_kernel);
  } else if (draw < 75) {
    Write(b, page, by_kernel);
  } else if (draw < 98 || !extent.exclusive) {
    Discard(b, extent, page);
  } else {
    Unmap(b, extent, page);
  }
}

void Guest::CompareWhole(size_t b, uint64_t page, bool by_kernel) {
  const NowDoing doing(doing_, by_kernel ? "system call reads" : "read", b, page);
  const Block& block = load_.blocks_[b];
  const Word* memory = reinterpret_cast<const Word*>(block.ram->data(page));
  if (by_kernel) {
    if (!KernelRead(memory, buffer_.data(), HostPageBytes())) return CheckRefusal(b, page);
    memory = buffer_.data();
  }
  const PageModel& model = block.model[page];
  const PageWords words = WordsOf(b, page);
  if (load_.storage_->fate(b, page) == Fate::kBroken && model.base == kOriginal) {
    load_.Fail(absl::StrCat("block ", b, ", page ", page,
                            " cannot be read from storage, but the guest can read it; first word ",
                            absl::Hex(memory[0])));
  }
  for (size_t i = 0; i < WordsPerPage(); ++i) expected_[i] = words.At(i, model.VersionOf(i));
  size_t differing = 0;
  size_t first = 0;
  for (size_t i = WordsPerPage(); i-- > 0;) {
    if (memory[i] != expected_[i]) ++differing, first = i;
  }
  TheTotals().bytes.fetch_add(HostPageBytes(), std::memory_order_relaxed);
  if (differing == 0) return;
  load_.Fail(absl::StrCat(
      "block ", b, " (", block.ram->kind() == BlockMemory::kShared ? "shared" : "private",
      "), page ", page, ", differing bytes ", differing * sizeof(Word), ", first at byte ",
      first * sizeof(Word), ": ", absl::Hex(memory[first]), ", expected ",
      absl::Hex(expected_[first]),
      memory[first] == words.At(first, kOriginal) ? " (it is the snapshot's content)" : "",
      by_kernel ? ", read by a system call" : "", ", guest ", number_));
}

// A read or write of a page was refused by the kernel.
void Guest::CheckRefusal(size_t b, uint64_t page) {
  TheTotals().unreadable.fetch_add(1, std::memory_order_relaxed);
  if (load_.abandoning_.load()) return;
  const Block& block = load_.blocks_[b];
  const PageModel& model = block.model[page];
  const Fate fate = load_.storage_->fate(b, page);
  // A hole in a file does not undo the poison in a mapping of it.
  const bool may_be_poisoned = fate != Fate::kSound && (model.base == kOriginal ||
                                                        block.ram->kind() == BlockMemory::kShared);
  if (may_be_poisoned) return;
  load_.Fail(absl::StrCat("block ", b, ", page ", page, ": access refused (", std::strerror(errno),
                          "), fate ", static_cast<int>(fate), ", base ", absl::Hex(model.base),
                          ", guest ", number_));
}

void Guest::Write(size_t b, uint64_t page, bool by_kernel) {
  const NowDoing doing(doing_, by_kernel ? "system call writes" : "write", b, page);
  Block& block = load_.blocks_[b];
  PageModel& model = block.model[page];
  const PageWords words = WordsOf(b, page);
  const size_t words_per_slot = WordsPerPage() / kSlots;
  const bool whole = random_.Percent(20);
  const size_t slot = whole ? 0 : random_.Below(kSlots);
  const size_t from = slot * words_per_slot;
  const size_t count = whole ? WordsPerPage() : words_per_slot;
  ++version_;
  for (size_t i = 0; i < count; ++i) buffer_[i] = words.At(from + i, version_);
  Word* const memory = reinterpret_cast<Word*>(block.ram->data(page)) + from;
  if (by_kernel) {
    if (!KernelWrite(memory, buffer_.data(), count * sizeof(Word))) return CheckRefusal(b, page);
  } else {
    std::copy_n(buffer_.begin(), count, memory);
  }
  if (whole) {
    model.written.fill(version_);
  } else {
    model.written[slot] = version_;
  }
}

void Guest::Discard(size_t b, const Extent& extent, uint64_t page) {
  Block& block = load_.blocks_[b];
  const uint64_t longest = random_.Percent(80) ? 16 : 2000;
  uint64_t count = std::min(random_.Between(1, longest), extent.run.end() - page);
  for (uint64_t i = 1; i < count; ++i) {
    if (block.model[page + i].unmapped) count = i;
  }
  for (uint64_t i = 0; i < count; ++i) block.discarded[page + i].store(true);
  uint8_t* const start = block.ram->data(page);
  const uint64_t length = count * HostPageBytes();
  // Nobody may ask a loader for anything that is about to be destroyed.
  const bool may_ask = load_.ending_ != Ending::kDestroyed;
  bool done;
  if (block.ram->kind() == BlockMemory::kPrivate) {
    const NowDoing doing(doing_, "MADV_DONTNEED", b, page);
    done = madvise(start, length, MADV_DONTNEED) == 0;
  } else if (may_ask && random_.Percent(50)) {
    const NowDoing doing(doing_, "Discard() and a hole in the file", b, page);
    load_.loader_->Discard(reinterpret_cast<uintptr_t>(start),
                           reinterpret_cast<uintptr_t>(start) + length);
    done = fallocate(block.ram->memfd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     static_cast<off_t>(page * HostPageBytes()), static_cast<off_t>(length)) == 0;
  } else {
    const NowDoing doing(doing_, "MADV_REMOVE", b, page);
    if (may_ask && random_.Percent(50)) {
      load_.loader_->Discard(reinterpret_cast<uintptr_t>(start),
                             reinterpret_cast<uintptr_t>(start) + length);
    }
    done = madvise(start, length, MADV_REMOVE) == 0;
  }
  if (!done) load_.Fail(absl::StrCat("cannot discard: ", std::strerror(errno)));
  for (uint64_t i = 0; i < count; ++i) block.model[page + i] = {};
  TheTotals().discards.fetch_add(1, std::memory_order_relaxed);
}

void Guest::Unmap(size_t b, const Extent& extent, uint64_t page) {
  const NowDoing doing(doing_, "munmap", b, page);
  Block& block = load_.blocks_[b];
  uint64_t end = page;
  while (end < extent.run.end() && !block.model[end].unmapped) {
    block.model[end++].unmapped = true;
  }
  // Abandon() makes the whole range of a block inaccessible, whatever is mapped there by then.
  const bool reserve = load_.ending_ == Ending::kAbandoned || random_.Percent(50);
  block.ram->Unmap({page, end - page}, reserve);
  TheTotals().unmaps.fetch_add(1, std::memory_order_relaxed);
}

// One word of a page that its owner may be changing right now.
void Guest::TouchForeign(size_t b, uint64_t page, bool by_kernel) {
  const NowDoing doing(doing_, by_kernel ? "system call reads another's" : "read another's", b,
                       page);
  const Block& block = load_.blocks_[b];
  const size_t i = random_.Below(WordsPerPage());
  const Word* const memory = reinterpret_cast<const Word*>(block.ram->data(page)) + i;
  Word word;
  if (by_kernel) {
    if (!KernelRead(memory, &word, sizeof(word))) {
      TheTotals().unreadable.fetch_add(1, std::memory_order_relaxed);
      if (load_.abandoning_.load() || load_.storage_->fate(b, page) != Fate::kSound) return;
      load_.Fail(absl::StrCat("block ", b, ", page ", page, ": access refused to guest ", number_));
    }
  } else {
    word = ReadRacing(memory);
  }
  TheTotals().bytes.fetch_add(sizeof(word), std::memory_order_relaxed);
  const PageWords words = WordsOf(b, page);
  const auto version = static_cast<uint32_t>(word);
  // A word that is written is of this place; a zero is the file's, or somebody's discard.
  const bool plausible =
      word == 0              ? !load_.layout_.blocks[b].has[page] || block.discarded[page].load()
      : version == kOriginal ? load_.layout_.blocks[b].has[page] && word == words.At(i, version)
                             : version < kOriginal && version != 0 && word == words.At(i, version);
  if (plausible) return;
  load_.Fail(absl::StrCat("block ", b, ", page ", page, ", differing bytes 8, at byte ",
                          i * sizeof(Word), ": ", absl::Hex(word), " never was there; guest ",
                          number_));
}

// Reads guest memory as the kernel does for a guest's I/O; false if it may not. Not through the
// C library, where a sanitizer would see a read of what another guest may be writing.
bool Guest::KernelRead(const void* addr, void* to, size_t length) {
  const auto bytes = static_cast<int64_t>(length);
  switch (random_.Below(3)) {
    case 0: {
      const iovec local{.iov_base = to, .iov_len = length};
      const iovec remote{.iov_base = const_cast<void*>(addr), .iov_len = length};
      return syscall(SYS_process_vm_readv, getpid(), &local, 1, &remote, 1, 0) == bytes;
    }
    case 1:
      return syscall(SYS_write, pipe_[1], addr, length) == bytes &&
             read(pipe_[0], to, length) == bytes;
    default:
      return syscall(SYS_pwrite64, memfd_, addr, length, 0) == bytes &&
             pread(memfd_, to, length, 0) == bytes;
  }
}

bool Guest::KernelWrite(void* addr, const void* from, size_t length) {
  const auto bytes = static_cast<int64_t>(length);
  switch (random_.Below(3)) {
    case 0: {
      const iovec local{.iov_base = const_cast<void*>(from), .iov_len = length};
      const iovec remote{.iov_base = addr, .iov_len = length};
      return syscall(SYS_process_vm_writev, getpid(), &local, 1, &remote, 1, 0) == bytes;
    }
    case 1: {
      if (write(pipe_[1], from, length) != bytes) Die("pipe");
      if (syscall(SYS_read, pipe_[0], addr, length) == bytes) return true;
      const int refused = errno;
      if (read(pipe_[0], expected_.data(), length) != bytes) Die("pipe");  // it is still there
      errno = refused;
      return false;
    }
    default:
      if (pwrite(memfd_, from, length, 0) != bytes) Die("memfd");
      return syscall(SYS_pread64, memfd_, addr, length, 0) == bytes;
  }
}

Load::Load(const Config& config, const Layout& layout, uint64_t number, bool may_poison)
    : config_(config),
      layout_(layout),
      number_(number),
      seed_(Mix(config.seed, number)),
      blocks_(layout.blocks.size()),
      doing_(config.guests + 1) {
  Random random(seed_);
  const uint64_t ending = random.Below(100);
  ending_ = ending < 45   ? Ending::kDetached
            : ending < 70 ? Ending::kDestroyed
            : ending < 90 ? Ending::kAbandoned
                          : Ending::kTouched;
  const uint64_t eager = random.Below(100);
  eager_ = ending_ == Ending::kTouched ? Eager::kNever
           : eager < 50                ? Eager::kAtOnce
           : eager < 85                ? Eager::kLate
                                       : Eager::kNever;
  ops_per_guest_ = random.Between(200, 3000);
  signal_gap_us_ = random.Percent(70) ? random.Between(50, 2000) : 0;
  snapshot_ = layout.Open();
  storage_ = std::make_unique<Storage>(layout, *snapshot_, random.Next(), may_poison);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    const Layout::Block& stored = layout.blocks[i];
    const BlockMemory kind = config.kinds[random.Below(config.kinds.size())];
    const bool huge = random.Percent(70);
    block.ram =
        std::make_unique<Ram>(stored.pages, kind, huge, random.Percent(70) ? 0 : random.Below(512));
    block.model.resize(stored.pages);
    for (uint64_t page = 0; page < stored.pages; ++page) {
      block.model[page].base = stored.has[page] ? kOriginal : 0;
    }
    block.discarded = std::vector<std::atomic<bool>>(stored.pages);
    Divide(block, random);
    order_.push_back(i);
  }
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.Below(i)]);
}

// Says who owns which pages.
void Load::Divide(Block& block, Random& random) {
  const uint64_t pages = block.model.size();
  block.extent_of.resize(pages);
  for (uint64_t at = 0; at < pages;) {
    const uint64_t longest = random.Percent(50) ? 24 : 1500;
    const uint64_t count = std::min(random.Between(1, longest), pages - at);
    const int owner = random.Percent(40) ? kNobody : static_cast<int>(random.Below(config_.guests));
    // Mostly the tail of a block.
    const bool exclusive = owner != kNobody && random.Percent(at + count == pages ? 70 : 15);
    std::fill_n(block.extent_of.begin() + static_cast<int64_t>(at), count,
                static_cast<uint32_t>(block.extents.size()));
    block.extents.push_back({{at, count}, owner, exclusive});
    at += count;
  }
}

void Load::AttachAll(Random& random, size_t from, size_t to) {
  for (size_t i = from; i < to; ++i) {
    Block& block = blocks_[order_[i]];
    if (random.Percent(30)) *block.ram->data(0) = 1;  // what was there before is dropped
    CheckOk(loader_->Attach(order_[i], {.host = block.ram->data(), .memory = block.ram->kind()}),
            "Attach");
    block.ready.store(true);
  }
}

// Until the guests have done so much, or all they do.
void Load::AwaitOps(uint64_t ops) const {
  while (ops_.load() < ops && running_.load() > 0) absl::SleepFor(absl::Microseconds(100));
}

// Signals without SA_RESTART, to guests and to the process as a whole.
void Load::Pester(uint64_t seed) {
  Random random(seed);
  while (running_.load() > 0) {
    if (random.Percent(90)) {
      pthread_kill(threads_[random.Below(threads_.size())].native_handle(), SIGUSR1);
    } else {
      kill(getpid(), SIGUSR1);
    }
    absl::SleepFor(absl::Microseconds(random.Below(2 * signal_gap_us_)));
  }
}

void Load::Run() {
  Random random(Mix(seed_, 1));
  Doing& doing = doing_.back();
  const int uffds_before = OpenUserfaultfds();
  auto created =
      SnapshotLoader::Create(snapshot_, {.eager_threads = config_.eager_threads}, storage_.get());
  CheckOk(created.status(), "Create");
  loader_ = *std::move(created);
  stats_ = &loader_->stats();
  current_load = this;

  const size_t first_half = random.Between(1, order_.size());
  AttachAll(random, 0, first_half);
  if (eager_ == Eager::kAtOnce) CheckOk(loader_->StartEager(), "StartEager");
  running_ = config_.guests;
  for (unsigned guest = 0; guest < config_.guests; ++guest) {
    threads_.emplace_back([this, guest] {
      Guest(*this, guest, Mix(seed_, 100 + guest)).Run();
      running_.fetch_sub(1);
    });
  }
  std::thread pest([this] {
    if (signal_gap_us_ > 0) Pester(Mix(seed_, 2));
  });
  {
    const NowDoing attaching(doing, "Attach");
    AttachAll(random, first_half, order_.size());
  }

  const uint64_t ops = ops_per_guest_ * config_.guests;
  if (eager_ == Eager::kLate) {
    AwaitOps(random.Below(ops));
    CheckOk(loader_->StartEager(), "StartEager");
  }
  if (ending_ != Ending::kTouched) AwaitOps(ops_.load() + random.Below(ops));
  LoadStats const& stats = loader_->stats();
  const auto collect = [&] {
    TheTotals().faults += stats.faults;
    TheTotals().poisoned += stats.poisoned;
    TheTotals().redundant += stats.redundant;
    TheTotals().rescued += Rescued(stats);
  };
  switch (ending_) {
    case Ending::kDetached: {
      CheckOk(loader_->StartEager(), "StartEager");
      const NowDoing ending(doing, "Wait() and Detach()");
      CheckOk(loader_->Wait(), "Wait");
      CheckOk(loader_->Detach(), "Detach");
      CheckCounts(stats);
      collect();
      break;
    }
    case Ending::kDestroyed: {
      const NowDoing ending(doing, "destructor");
      collect();
      stats_ = nullptr;
      loader_.reset();
      break;
    }
    case Ending::kAbandoned: {
      const NowDoing ending(doing, "Abandon()");
      abandoning_ = true;
      loader_->Abandon();
      collect();
      break;
    }
    case Ending::kTouched:
      break;
  }
  if (ending_ != Ending::kTouched) {
    if (OpenUserfaultfds() != uffds_before) Fail("a userfaultfd is left after the end");
    // A thread that was joined is in /proc for a moment more.
    const absl::Time deadline = absl::Now() + absl::Seconds(1);
    while (!OurThreads().empty()) {
      if (absl::Now() > deadline) Fail("a thread is left after the end");
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  AwaitOps(~uint64_t{0});
  pest.join();
  for (std::thread& thread : threads_) thread.join();

  storage_->Settle();
  CompareAll(ending_ == Ending::kAbandoned);
  if (ending_ == Ending::kTouched) {
    // What was unmapped nobody can touch.
    const NowDoing ending(doing, "Wait() and Detach() after all was touched");
    CheckOk(loader_->StartEager(), "StartEager");
    CheckOk(loader_->Wait(), "Wait");
    CheckOk(loader_->Detach(), "Detach");
    CheckCounts(stats);
    collect();
  }
  current_load = nullptr;
  ++TheTotals().loads;
  if (TheTotals().rescued > 0) Fail("the watchdog had to wake a fault: a wake was lost");
}

void Load::CompareAll(bool by_kernel) {
  Guest reader(*this, config_.guests, Mix(seed_, 3));
  doing_here = &doing_.back();
  for (size_t b = 0; b < blocks_.size(); ++b) {
    for (uint64_t page = 0; page < blocks_[b].model.size(); ++page) {
      if (blocks_[b].model[page].unmapped) continue;
      reader.CompareWhole(b, page, by_kernel || storage_->fate(b, page) != Fate::kSound);
    }
  }
  doing_here = nullptr;
}

// Each page with content came to one end. A thread counts a page after its arrival, so this is for
// when the threads have ended.
void Load::CheckCounts(const LoadStats& stats) {
  const uint64_t nonzero = loader_->attached_pages().nonzero;
  const uint64_t ends = stats.eager + stats.faulted + stats.removed + stats.poisoned;
  if (ends == nonzero) return;
  Fail(absl::StrCat("of ", nonzero, " pages with content ", ends, " are accounted for"));
}

std::string Load::Describe() const {
  constexpr const char* kEndings[] = {"detached", "destroyed", "abandoned", "touched"};
  constexpr const char* kEagers[] = {"at once", "late", "never"};
  std::string text = absl::StrCat(
      "seed ", config_.seed, ", load ", number_, " (ending ", kEndings[static_cast<int>(ending_)],
      ", eager ", kEagers[static_cast<int>(eager_)], "; --seed ", config_.seed, " --from-load ",
      number_, " --guests ", config_.guests, " --eager-threads ", config_.eager_threads,
      " --memory-mib ", config_.memory_mib, "), operations ", ops_.load());
  for (size_t i = 0; i < doing_.size(); ++i) {
    const char* const what = doing_[i].what.load();
    absl::StrAppend(&text, "\n  ", i < config_.guests ? absl::StrCat("guest ", i) : "main", ": ");
    if (what == nullptr) {
      absl::StrAppend(&text, "nothing");
    } else {
      absl::StrAppend(&text, what, ", block ", doing_[i].block.load(), ", page ",
                      doing_[i].page.load(), ", for ", (NowNs() - doing_[i].since_ns) / 1'000'000,
                      " ms");
    }
  }
  const LoadStats* const stats = stats_.load();
  if (stats != nullptr) {
    absl::StrAppend(&text, "\n  stats: faults ", stats->faults.load(), ", eager ",
                    stats->eager.load(), ", faulted ", stats->faulted.load(), ", zeroed ",
                    stats->zeroed.load(), ", removed ", stats->removed.load(), ", poisoned ",
                    stats->poisoned.load(), ", redundant ", stats->redundant.load(), ", in_flight ",
                    stats->in_flight.load(), ", parked ", stats->parked.load(), ", rescued ",
                    Rescued(*stats));
  }
  // What the kernel says of the userfaultfd: faults unread, and all that sleep.
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry.path(), error) != "anon_inode:[userfaultfd]") continue;
    std::ifstream info("/proc/self/fdinfo/" + entry.path().filename().string());
    for (std::string line; std::getline(info, line);) absl::StrAppend(&text, "\n  uffd ", line);
  }
  return text;
}

void Load::Fail(const std::string& why) const {
  static std::atomic<bool> failed{false};
  if (failed.exchange(true)) pause();  // one is enough, and it is about to end the process
  Die(absl::StrCat(why, "\n  ", Describe()));
}

void Load::AbortIfStuck() const {
  for (const Doing& doing : doing_) {
    const bool busy = doing.what.load() != nullptr;
    if (busy && NowNs() - doing.since_ns.load() > kStuckNs) {
      std::fprintf(stderr, "soak: stuck\n  %s\n", Describe().c_str());
      std::abort();
    }
  }
}

// --- the program ---

void OnSignal(int) {}

// Of a guest, an access that should have been possible.
void OnFault(int number, siginfo_t* info, void*) {
  const Doing* const doing = doing_here;
  const Load* const load = current_load.load();
  // Not safe in a handler, but this one does not return.
  if (doing != nullptr && load != nullptr) {
    load->Fail(absl::StrCat(number == SIGBUS ? "SIGBUS" : "SIGSEGV", " at ",
                            absl::Hex(reinterpret_cast<uintptr_t>(info->si_addr)), ", block ",
                            doing->block.load(), ", page ", doing->page.load()));
  }
  std::signal(number, SIG_DFL);
}

void InstallHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigaction(SIGUSR1, &action, nullptr);
  action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  sigaction(SIGSEGV, &action, nullptr);
}

void ProgressLine(bool last) {
  const Totals& totals = TheTotals();
  std::fprintf(stderr, "\r%llu loads, %llu discards, %llu MiB compared%s",
               static_cast<unsigned long long>(totals.loads),
               static_cast<unsigned long long>(totals.discards.load()),
               static_cast<unsigned long long>(totals.bytes.load() >> 20), last ? "\n" : "   ");
}

bool ParseArgs(int argc, char** argv, Config& config) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const absl::string_view flag = argv[i];
    const absl::string_view value = argv[i + 1];
    if (flag == "--kinds") {
      config.kinds.clear();
      for (const absl::string_view kind : absl::StrSplit(value, ',')) {
        if (kind != "private" && kind != "shared") return false;
        config.kinds.push_back(kind == "shared" ? BlockMemory::kShared : BlockMemory::kPrivate);
      }
      continue;
    }
    uint64_t number;
    if (!absl::SimpleAtoi(value, &number)) return false;
    if (flag == "--seconds") {
      config.seconds = number;
    } else if (flag == "--seed") {
      config.seed = number;
    } else if (flag == "--guests" && number >= 1 && number <= 1000) {
      config.guests = static_cast<unsigned>(number);
    } else if (flag == "--eager-threads" && number >= 1 &&
               number <= SnapshotLoader::kMaxEagerThreads) {
      config.eager_threads = static_cast<unsigned>(number);
    } else if (flag == "--memory-mib" && number >= 1) {
      config.memory_mib = number;
    } else if (flag == "--from-load") {
      config.from_load = number;
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
}

// Watches the loads, and says how far they are if somebody looks on.
class Monitor {
 public:
  Monitor() : thread_([this] { Run(); }) {}
  ~Monitor() {
    stop_ = true;
    thread_.join();
  }
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  // Around the life of a load.
  void Watch(const Load* load) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    load_ = load;
  }

 private:
  void Run() {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    for (int tick = 1; !stop_; ++tick) {
      absl::SleepFor(absl::Milliseconds(100));
      {
        absl::MutexLock lock(&mu_);
        if (load_ != nullptr) load_->AbortIfStuck();
      }
      if (terminal && tick % 10 == 0) ProgressLine(false);
    }
    if (terminal) ProgressLine(true);
  }

  absl::Mutex mu_;
  const Load* load_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

int Soak(const Config& config) {
  bool may_poison = false;
  if (const absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open(); uffd.ok()) {
    may_poison = uffd->features().poison;
  } else {
    std::printf("soak: skipped: %s\n", uffd.status().ToString().c_str());
    return 0;
  }
  InstallHandlers();
  const absl::Time end = absl::Now() + absl::Seconds(config.seconds);
  {
    Monitor monitor;
    std::unique_ptr<Layout> layout;
    for (uint64_t number = config.from_load; absl::Now() < end; ++number) {
      if (layout == nullptr || number % kLoadsOfALayout == 0) {
        layout = std::make_unique<Layout>(config, Mix(~config.seed, number / kLoadsOfALayout));
      }
      Load load(config, *layout, number, may_poison);
      monitor.Watch(&load);
      load.Run();
      monitor.Watch(nullptr);
    }
  }
  const Totals& totals = TheTotals();
  std::printf(
      "soak: seed %llu, %llu loads, %llu faults, %llu discards, %llu unmapped, %llu poisoned, "
      "%llu accesses refused, %llu redundant, %llu bytes compared, differing bytes 0, stuck 0, "
      "watchdog %llu\n",
      static_cast<unsigned long long>(config.seed), static_cast<unsigned long long>(totals.loads),
      static_cast<unsigned long long>(totals.faults),
      static_cast<unsigned long long>(totals.discards.load()),
      static_cast<unsigned long long>(totals.unmaps.load()),
      static_cast<unsigned long long>(totals.poisoned),
      static_cast<unsigned long long>(totals.unreadable.load()),
      static_cast<unsigned long long>(totals.redundant),
      static_cast<unsigned long long>(totals.bytes.load()),
      static_cast<unsigned long long>(totals.rescued));
  return 0;
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  ramjet::Config config;
  config.seed = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  if (!ramjet::ParseArgs(argc, argv, config)) {
    std::fprintf(stderr,
                 "usage: soak [--seconds N] [--seed S] [--guests N] [--eager-threads N] "
                 "[--memory-mib N] [--kinds private,shared] [--from-load N]\n");
    return 2;
  }
  return ramjet::Soak(config);
}
