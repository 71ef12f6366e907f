#include "loader/snapshot_loader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ramjet {
namespace {

// Whether the host has transparent huge pages at all, for memory that asks for them.
bool HostHasHugePages() {
  std::array<char, 128> text{};
  const int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t length = read(fd, text.data(), text.size());
  close(fd);
  return length > 0 && std::string_view(text.data(), static_cast<size_t>(length)).find("[never]") ==
                           std::string_view::npos;
}

size_t LargestPage(const Snapshot& snapshot) {
  size_t largest = 0;
  for (const SnapshotBlock& block : snapshot.blocks()) {
    largest = std::max<size_t>(largest, block.page_size);
  }
  return largest;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotLoader>> SnapshotLoader::Create(
    std::shared_ptr<Snapshot> snapshot, Options options, const PageSource* source) {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open(options.device_fd);
  if (!uffd.ok()) return uffd.status();
  std::unique_ptr<SnapshotLoader> self(
      new SnapshotLoader(std::move(snapshot), options, source, *std::move(uffd)));
  absl::StatusOr<std::unique_ptr<FaultThread>> fault_thread =
      FaultThread::Start(*self->uffd_, self->map_, *self->loader_, self->gate_, self->stats_,
                         LargestPage(*self->snapshot_));
  if (!fault_thread.ok()) return fault_thread.status();
  self->fault_thread_ = *std::move(fault_thread);
  return self;
}

SnapshotLoader::SnapshotLoader(std::shared_ptr<Snapshot> snapshot, Options options,
                               const PageSource* source, Userfaultfd uffd)
    : snapshot_(std::move(snapshot)),
      options_(options),
      created_(absl::Now()),
      map_(snapshot_->blocks().size()),
      attached_(snapshot_->blocks().size()),
      uffd_(std::move(uffd)),
      loader_(std::in_place, source != nullptr ? *source : *snapshot_, *uffd_, gate_, stats_,
              progress_) {}

SnapshotLoader::~SnapshotLoader() {
  if (!abandoned_.load() && !complete()) {
    (void)StartEager();
    (void)Wait();
  }
  (void)Detach();
}

absl::Status SnapshotLoader::Attach(size_t block, const BlockMapping& mapping) {
  if (block >= snapshot_->blocks().size()) {
    return absl::NotFoundError(absl::StrCat("the snapshot has no block ", block));
  }
  const SnapshotBlock& stored = snapshot_->blocks()[block];
  absl::MutexLock lock(&mu_);
  if (!uffd_) return absl::FailedPreconditionError("the load has ended");
  if (attached_[block]) {
    return absl::AlreadyExistsError(absl::StrCat("block \"", stored.idstr, "\" is attached"));
  }
  const uintptr_t addr = reinterpret_cast<uintptr_t>(mapping.host);
  // The kernel installs whole pages of its own, so the block's must consist of such.
  const auto host_page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (stored.page_size % host_page_bytes != 0 || addr % stored.page_size != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("its pages of %d bytes at %#x do not fit the host's of %d",
                        stored.page_size, addr, host_page_bytes));
  }
  auto ram = std::make_unique<RamBlock>(block, stored.idstr, addr, stored.used_length,
                                        stored.page_size, snapshot_->TakeNonzero(block));
  // Register first, then empty, so that nobody can put a page there in between. The discard comes
  // back as an event of our own, which has to be through before the block is in the map: there it
  // would mean that the guest has given up its memory.
  absl::Status status = uffd_->Register(addr, ram->length());
  if (!status.ok()) return status;
  status = Empty(*ram, mapping.memory);
  if (!status.ok()) {
    (void)uffd_->Unregister(addr, ram->length());
    return status;
  }
  if (uffd_->features().remove_events) fault_thread_->Sync();
  map_.Insert(*ram);
  eager_queue_.Add(*ram, HugeWelcome(mapping.memory));
  attached_[block] = true;
  blocks_.push_back(std::move(ram));
  return absl::OkStatus();
}

absl::Status SnapshotLoader::Empty(const RamBlock& block, BlockMemory memory) const {
  // MADV_DONTNEED would leave the pages of shared memory in the page cache, where the next fault
  // finds them. The system call itself, for in a preloaded process madvise() is ours, and means the
  // guest.
  const int advice = memory == BlockMemory::kShared ? MADV_REMOVE : MADV_DONTNEED;
  if (syscall(SYS_madvise, block.host(), block.length(), advice) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      errno == EINVAL ? std::string("it is locked in memory (mlock)")
                      : absl::StrCat("it cannot be emptied: ", std::strerror(errno)));
}

bool SnapshotLoader::HugeWelcome(BlockMemory memory) const {
  return memory == BlockMemory::kPrivate && uffd_->features().move && HostHasHugePages();
}

absl::Status SnapshotLoader::StartEager() {
  absl::MutexLock lock(&mu_);
  if (!uffd_) return absl::OkStatus();
  while (eager_threads_.size() < options_.eager_threads) {
    absl::StatusOr<std::unique_ptr<EagerThread>> thread =
        EagerThread::Start(eager_queue_, *loader_, stats_, LargestPage(*snapshot_));
    if (!thread.ok()) return thread.status();
    eager_threads_.push_back(*std::move(thread));
  }
  return absl::OkStatus();
}

void SnapshotLoader::Discard(uintptr_t start, uintptr_t end) {
  for (uintptr_t at = start; at < end;) {
    RamBlock* const block = map_.FindFrom(at);
    if (block == nullptr || block->host() >= end) return;
    loader_->Discard(*block, start, end);
    at = block->host() + block->length();
  }
}

bool SnapshotLoader::complete() const {
  absl::MutexLock lock(&mu_);
  return std::all_of(blocks_.begin(), blocks_.end(),
                     [](const auto& block) { return block->remaining_pages() == 0; });
}

absl::Status SnapshotLoader::Wait(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    const uint64_t moments = progress_.moments();
    if (complete()) return absl::OkStatus();
    if (abandoned_.load()) return absl::CancelledError("the load was abandoned");
    if (loader_->unanswerable()) {
      return absl::AbortedError("a page cannot be read, and this kernel cannot poison it");
    }
    if (!progress_.AwaitNext(moments, deadline)) {
      return absl::DeadlineExceededError("the load is not complete yet");
    }
  }
}

absl::Status SnapshotLoader::Detach() {
  if (!abandoned_.load() && !complete()) {
    return absl::FailedPreconditionError("pages are still owed to the guest");
  }
  absl::MutexLock lock(&mu_);
  End();
  return absl::OkStatus();
}

void SnapshotLoader::Abandon() {
  absl::MutexLock lock(&mu_);
  if (!uffd_) return;
  abandoned_.store(true);
  progress_.Note();
  for (const auto& block : blocks_) {
    if (block->remaining_pages() == 0) continue;
    (void)syscall(SYS_mprotect, block->host(), block->length(), PROT_NONE);
  }
  End();
}

void SnapshotLoader::End() {
  if (!uffd_) return;
  eager_queue_.Close();
  for (auto& thread : eager_threads_) ended_cpu_ns_ += thread->cpu_ns();
  eager_threads_.clear();
  // Unregistering wakes whoever sleeps on a page that has no content; the kernel gives it zeros
  // then.
  for (const auto& block : blocks_) {
    const absl::Status status = uffd_->Unregister(block->host(), block->length());
    // Memory that is gone meanwhile has nobody waiting.
    if (!status.ok()) stats_.AddError(status);
  }
  if (fault_thread_ != nullptr) ended_cpu_ns_ += fault_thread_->cpu_ns();
  fault_thread_.reset();
  uffd_.reset();
}

uint64_t SnapshotLoader::cpu_ns() const {
  absl::MutexLock lock(&mu_);
  uint64_t result = ended_cpu_ns_;
  if (fault_thread_ != nullptr) result += fault_thread_->cpu_ns();
  for (const auto& thread : eager_threads_) result += thread->cpu_ns();
  return result;
}

SnapshotLoader::PageCounts SnapshotLoader::attached_pages() const {
  absl::MutexLock lock(&mu_);
  PageCounts counts;
  for (const auto& block : blocks_) {
    counts.total += block->pages();
    counts.nonzero += block->nonzero_pages();
  }
  return counts;
}

bool SnapshotLoader::attached(size_t block) const {
  absl::MutexLock lock(&mu_);
  return attached_[block];
}

absl::Duration SnapshotLoader::to_complete() const {
  return complete() ? std::max(progress_.last() - created_, absl::ZeroDuration())
                    : absl::InfiniteDuration();
}

}  // namespace ramjet
