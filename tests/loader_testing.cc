#include "tests/loader_testing.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <utility>

#include "mappedram/file.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

uint64_t HostPageBytes() {
  static const auto bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

bool IsShared(MemoryKind kind) { return kind != MemoryKind::kPrivate; }

GuestMemory::GuestMemory(uint64_t length, MemoryKind kind) : length_(length) {
  void* const reservation = mmap(nullptr, length + kHugeBytes, PROT_NONE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EXPECT_NE(reservation, MAP_FAILED);
  reservation_ = static_cast<uint8_t*>(reservation);
  memory_ = reservation_ + (kHugeBytes - reinterpret_cast<uintptr_t>(reservation_) % kHugeBytes);
  int flags = MAP_FIXED | MAP_NORESERVE;
  if (IsShared(kind)) {
    memfd_ = memfd_create("guest", MFD_CLOEXEC);
    EXPECT_EQ(ftruncate(memfd_, static_cast<off_t>(length)), 0);
    flags |= MAP_SHARED;
  } else {
    flags |= MAP_PRIVATE | MAP_ANONYMOUS;
  }
  EXPECT_EQ(mmap(memory_, length, PROT_READ | PROT_WRITE, flags, memfd_, 0), memory_);
  madvise(memory_, length, MADV_HUGEPAGE);  // as QEMU does; no harm where there are none
  if (kind == MemoryKind::kAliased) {
    alias_ =
        static_cast<uint8_t*>(mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, memfd_, 0));
    EXPECT_NE(alias_, MAP_FAILED);
  }
}

GuestMemory::~GuestMemory() {
  munmap(reservation_, length_ + kHugeBytes);
  if (alias_ != nullptr) munmap(alias_, length_);
  if (memfd_ >= 0) close(memfd_);
}

BlockMapping GuestMemory::mapping() const {
  return {.host = memory_,
          .length = length_,
          .memory = memfd_ >= 0 ? BlockMemory::kShared : BlockMemory::kPrivate,
          .alias = alias_};
}

bool GuestMemory::HoldsPattern(uint64_t page) const {
  std::vector<uint8_t> expected(HostPageBytes());
  FillPagePattern(page, absl::MakeSpan(expected));
  return std::equal(expected.begin(), expected.end(), memory_ + page * HostPageBytes());
}

bool GuestMemory::HoldsZeros(uint64_t page) const {
  const uint8_t* const start = memory_ + page * HostPageBytes();
  return std::all_of(start, start + HostPageBytes(), [](uint8_t byte) { return byte == 0; });
}

void GuestMemory::MadviseDontNeed(uint64_t page, uint64_t pages) const {
  EXPECT_EQ(madvise(memory_ + page * HostPageBytes(), pages * HostPageBytes(), MADV_DONTNEED), 0);
}

void PutStaleData(const std::string& path) {
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*File::Open(path));
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  for (size_t i = 0; i < (*snapshot)->blocks().size(); ++i) {
    const SnapshotBlock& block = (*snapshot)->blocks()[i];
    if (!block.in_file()) continue;
    const PageBitmap nonzero = (*snapshot)->TakeNonzero(i);
    const std::vector<uint8_t> stale(block.page_size, 0xdd);
    const auto put = [&](uint64_t page) {
      const auto at = static_cast<off_t>(block.pages_offset + page * block.page_size);
      EXPECT_EQ(pwrite(fd, stale.data(), stale.size(), at), static_cast<ssize_t>(stale.size()));
    };
    for (auto run = nonzero.FindRun(true, 0, nonzero.size()); run;
         run = nonzero.FindRun(true, run->end(), nonzero.size())) {
      if (run->first > 0) put(run->first - 1);
      if (run->end() < nonzero.size()) put(run->end());
    }
  }
  close(fd);
}

std::unique_ptr<Snapshot> OneBlockSnapshot(uint64_t pages, std::vector<PageRun> nonzero) {
  static std::atomic<int> counter{0};
  const std::string path = ::testing::TempDir() + "/loader_testing." + std::to_string(getpid()) +
                           "." + std::to_string(counter++) + ".mr";
  SnapshotContent content;
  content.blocks.push_back({.idstr = "ram",
                            .used_length = pages * HostPageBytes(),
                            .page_size = HostPageBytes(),
                            .nonzero = std::move(nonzero)});
  const absl::Status written = WriteSnapshot(content, path);
  EXPECT_TRUE(written.ok()) << written;
  PutStaleData(path);
  absl::StatusOr<File> file = File::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  unlink(path.c_str());
  return *std::move(snapshot);
}

std::string WhyNoHugeWindows() {
  if (!Userfaultfd::Open()->features().move) return "this kernel has no UFFDIO_MOVE";
  std::string mode;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), mode);
  if (mode.empty() || mode.find("[never]") != std::string::npos) {
    return "this host has no transparent huge pages";
  }
  return "";
}

absl::Status FaultySource::ReadPages(size_t block, uint64_t offset,
                                     absl::Span<uint8_t> buffer) const {
  const absl::Time begun = absl::Now();
  absl::Status status = snapshot_.ReadPages(block, offset, buffer);
  const absl::Duration of_a_disk = absl::Nanoseconds(buffer.size());
  while (queued_.load() && absl::Now() - begun < of_a_disk) continue;
  const PageRun run{offset / HostPageBytes(), buffer.size() / HostPageBytes()};
  absl::MutexLock lock(&mu_);
  if (const auto held = held_.lower_bound(run.first); held != held_.end() && *held < run.end()) {
    const uint64_t page = *held;
    waiting_[page] = run;
    const auto released = [&]()
                              ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !held_.contains(page); };
    mu_.Await(absl::Condition(&released));
  }
  for (auto& [page, failure] : failures_) {
    if (page >= run.first && page < run.end() && failure.times > 0) {
      --failure.times;
      return failure.status;
    }
  }
  return status;
}

void FaultySource::Prefetch(size_t, uint64_t offset, uint64_t length) const {
  absl::MutexLock lock(&mu_);
  prefetched_.push_back({offset / HostPageBytes(), length / HostPageBytes()});
}

std::vector<PageRun> FaultySource::prefetched() const {
  absl::MutexLock lock(&mu_);
  return prefetched_;
}

void FaultySource::Hold(uint64_t page) {
  absl::MutexLock lock(&mu_);
  held_.insert(page);
}

void FaultySource::Release(uint64_t page) {
  absl::MutexLock lock(&mu_);
  held_.erase(page);
}

PageRun FaultySource::AwaitHeld(uint64_t page) {
  absl::MutexLock lock(&mu_);
  const auto waits = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return waiting_.contains(page); };
  mu_.Await(absl::Condition(&waits));
  return waiting_[page];
}

void FaultySource::Fail(uint64_t page, absl::Status status, int times) {
  absl::MutexLock lock(&mu_);
  failures_[page] = {std::move(status), times};
}

OneBlockLoad::OneBlockLoad(uint64_t pages, std::vector<PageRun> nonzero, MemoryKind kind,
                           const SnapshotLoader::Options& options)
    : memory(pages * HostPageBytes(), kind) {
  std::unique_ptr<Snapshot> snapshot = OneBlockSnapshot(pages, std::move(nonzero));
  source = std::make_unique<FaultySource>(*snapshot);
  auto created = SnapshotLoader::Create(std::move(snapshot), options, source.get());
  EXPECT_TRUE(created.ok()) << created.status();
  loader = *std::move(created);
  const absl::Status attached = loader->Attach(0, memory.mapping());
  EXPECT_TRUE(attached.ok()) << attached;
}

OneBlockLoad::~OneBlockLoad() {
  if (loader != nullptr) {
    EXPECT_EQ(loader->stats().rescued, 0u) << "a fault was forgotten";
  }
}

bool IsPoisoned(const uint8_t* addr) {
  // The kernel answers its own access with an error, so no signal handler is needed.
  int pipe_fds[2];
  EXPECT_EQ(pipe(pipe_fds), 0);
  const bool poisoned = write(pipe_fds[1], addr, 1) != 1;
  close(pipe_fds[0]);
  close(pipe_fds[1]);
  return poisoned;
}

std::vector<std::string> OurThreads() {
  std::vector<std::string> names;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::ifstream(task.path() / "comm") >> name;
    if (name.rfind("ramjet", 0) == 0) names.push_back(name);
  }
  return names;
}

std::vector<std::string> ThreadsLeft() {
  for (int i = 0; i < 1000 && !OurThreads().empty(); ++i) usleep(1000);
  return OurThreads();
}

uint64_t UnreadFaults() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry.path(), error) != "anon_inode:[userfaultfd]") continue;
    std::ifstream info("/proc/self/fdinfo/" + entry.path().filename().string());
    for (std::string line; std::getline(info, line);) {
      uint64_t pending = 0;
      if (std::sscanf(line.c_str(), "pending: %lu", &pending) == 1) return pending;
    }
  }
  return 0;
}

int OpenUserfaultfds() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error);
    count += target == "anon_inode:[userfaultfd]";
  }
  return count;
}

}  // namespace ramjet
