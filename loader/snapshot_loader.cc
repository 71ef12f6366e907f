#include "loader/snapshot_loader.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "loader/outcome.h"
#include "loader/page_buffer.h"
#include "loader/read_block.h"
#include "loader/replace_file.h"
#include "loader/thread.h"
#include "loader/window_loader.h"
#include "loader/working_set.h"
#include "mappedram/snapshot_digest.h"
#include "uffd/mappings.h"

namespace ramjet {
namespace {

constexpr int kCollapseAttempts = 3;
constexpr int kMadvCollapse = 25;  // Linux 6.1 include/uapi/asm-generic/mman-common.h

uint64_t SystemPageSize() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

uint64_t RoundUp(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Whether `length` bytes from `a` in one mapping and from `b` in the other are the same of one
// file.
bool SameBytes(const KernelMapping& one, uintptr_t a, const KernelMapping& other, uintptr_t b,
               uint64_t length) {
  return other.shared && one.inode == other.inode && one.device_major == other.device_major &&
         one.device_minor == other.device_minor &&
         one.offset + (a - one.start) == other.offset + (b - other.start) &&
         other.end - b >= length && one.page_bytes == other.page_bytes;
}

// Whether a page that was there, or had content to come, is not: the guest has given it up, during
// the load or since, and a huge page would bring its memory back.
bool AnyDiscarded(const RamBlock& block, PageRun window) {
  std::vector<unsigned char> resident(window.count);
  if (mincore(reinterpret_cast<void*>(block.AddrOf(window.first)), block.BytesOf(window.count),
              resident.data()) != 0) {
    return true;  // unmapped, in part at least
  }
  for (uint64_t i = 0; i < window.count; ++i) {
    const uint64_t page = window.first + i;
    if ((resident[i] & 1) == 0 && (block.nonzero(page) || block.received(page))) return true;
  }
  return false;
}

uint64_t DeadlineNs(absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return Moments::kNever;
  return MonotonicNs() +
         static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Nanoseconds(timeout), 0));
}

// Makes every access to the range a SIGSEGV. A seccomp filter may deny mprotect(2), and the kernel
// refuses it to a process that has as many mappings as it may; only munmap(2) needs no new one.
void TakeAway(uintptr_t start, uintptr_t end) {
  void* const memory = reinterpret_cast<void*>(start);
  if (mprotect(memory, end - start, PROT_NONE) == 0) return;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(memory, end - start, PROT_NONE, kFlags, -1, 0) != MAP_FAILED) return;
  (void)munmap(memory, end - start);
}

absl::Status AttachedError(const SnapshotBlock& block) {
  return absl::AlreadyExistsError(absl::StrCat("block \"", block.idstr, "\" is attached"));
}

absl::StatusOr<std::optional<BoundChecksums>> BindChecksums(const std::string& path,
                                                            const Snapshot& snapshot) {
  if (path.empty()) return std::nullopt;
  absl::StatusOr<BoundChecksums> bound = BoundChecksums::Read(path, snapshot);
  if (!bound.ok()) return bound.status();
  return *std::move(bound);
}

std::optional<CheckedSource> Check(const PageSource& source,
                                   const std::optional<BoundChecksums>& checksums) {
  return checksums ? std::make_optional<CheckedSource>(source, *checksums) : std::nullopt;
}

const PageSource& Either(const std::optional<CheckedSource>& checked, const PageSource& plain) {
  return checked ? static_cast<const PageSource&>(*checked) : plain;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotLoader>> SnapshotLoader::Create(
    std::shared_ptr<Snapshot> snapshot, const Options& options, const PageSource* source) {
  absl::StatusOr<std::unique_ptr<VmStop>> vm_stop =
      VmStop::Create(options.stop_vm, options.kill_pid);
  if (!vm_stop.ok()) return vm_stop.status();
  absl::StatusOr<Userfaultfd> uffd =
      options.uffd >= 0 ? Userfaultfd::Adopt(options.uffd) : Userfaultfd::Open(options.device_fd);
  if (!uffd.ok()) return uffd.status();
  absl::StatusOr<std::optional<BoundChecksums>> checksums =
      BindChecksums(options.checksums, *snapshot);
  if (!checksums.ok()) return checksums.status();
  // Its bitmaps would be gone: every page would be one of zeros.
  if (!snapshot->OpenBulk(options.direct)) {
    return absl::FailedPreconditionError(
        absl::StrCat(snapshot->file().name(),
                     ": this Snapshot is, or was, another loader's: open the file anew"));
  }
  snapshot->file().WatchForWrites();
  std::unique_ptr<SnapshotLoader> self(new SnapshotLoader(std::move(snapshot), options, source,
                                                          *std::move(checksums),
                                                          *std::move(vm_stop), *std::move(uffd)));
  if (options.tell_errors) self->stats_.TellErrors();
  if (options.record) self->StartRecord();
  absl::StatusOr<std::unique_ptr<FaultThread>> fault_thread =
      FaultThread::Start({.uffd = *self->uffd_,
                          .map = self->map_,
                          .loader = *self->loader_,
                          .eager_queue = self->eager_queue_,
                          .gate = self->gate_,
                          .stats = self->stats_,
                          .vm_stop = *self->vm_stop_,
                          .record = self->record_.get()});
  if (!fault_thread.ok()) return fault_thread.status();
  self->fault_thread_ = *std::move(fault_thread);
  if (!options.working_set.empty()) {
    absl::StatusOr<std::unique_ptr<WorkingSetThread>> thread =
        WorkingSetThread::Start(options.working_set, {.snapshot = *self->snapshot_,
                                                      .source = self->pacer_.bulk(),
                                                      .loader = *self->loader_,
                                                      .queue = self->eager_queue_,
                                                      .stats = self->stats_});
    if (thread.ok()) {
      absl::MutexLock lock(&self->mu_);
      self->working_set_thread_ = *std::move(thread);
    } else {
      self->stats_.AddError(thread.status());
    }
  }
  return self;
}

SnapshotLoader::SnapshotLoader(std::shared_ptr<Snapshot> snapshot, const Options& options,
                               const PageSource* source, std::optional<BoundChecksums> checksums,
                               std::unique_ptr<VmStop> vm_stop, Userfaultfd uffd)
    : snapshot_(std::move(snapshot)),
      options_(options),
      created_ns_(MonotonicNs()),
      vm_stop_(std::move(vm_stop)),
      checksums_(std::move(checksums)),
      checked_demand_(Check(source != nullptr ? *source : *snapshot_, checksums_)),
      checked_bulk_(Check(source != nullptr ? *source : snapshot_->bulk(), checksums_)),
      demand_(Either(checked_demand_, source != nullptr ? *source : *snapshot_)),
      pacer_(demand_, Either(checked_bulk_, source != nullptr ? *source : snapshot_->bulk())),
      map_(snapshot_->blocks().size()),
      attached_(snapshot_->blocks().size()),
      readers_(snapshot_->blocks().size()),
      uffd_(std::move(uffd)),
      loader_(PageLoader::Parts{.demand = pacer_.demand(),
                                .demand_bulk = pacer_.demand_bulk(),
                                .bulk = pacer_.bulk(),
                                .uffd = *uffd_,
                                .gate = gate_,
                                .stats = stats_,
                                .progress = progress_,
                                .vm_stop = *vm_stop_,
                                .may_poison = options_.on_unreadable == OnUnreadable::kPoison}),
      eager_queue_(snapshot_->blocks().size(), options_.eager_bytes_per_s) {}

SnapshotLoader::~SnapshotLoader() {
  (void)Finish();
  // What the VM was to be stopped for cannot be loaded, and must not become zeros now.
  if (!Detach().ok()) Abandon();
}

absl::Status SnapshotLoader::Attach(size_t block, const BlockMapping& mapping) {
  if (block >= snapshot_->blocks().size()) {
    return absl::NotFoundError(absl::StrCat("the snapshot has no block ", block));
  }
  const SnapshotBlock& stored = snapshot_->blocks()[block];
  absl::MutexLock lock(&mu_);
  // A reader needs the bitmap that the block takes along.
  const auto unread = [this, block]()
                          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return readers_[block] == 0; };
  mu_.Await(absl::Condition(&unread));
  if (!uffd_) return absl::FailedPreconditionError("the load has ended");
  if (attached_[block]) return AttachedError(stored);
  const absl::StatusOr<HostMemory> host = CheckMapping(stored, mapping);
  if (!host.ok()) return host.status();
  const uint64_t page_size = host->page_size;
  const RamBlock::Memory memory{.host = reinterpret_cast<uintptr_t>(mapping.host),
                                .page_size = page_size,
                                .alias = reinterpret_cast<uintptr_t>(mapping.alias),
                                .zeroable = page_size == SystemPageSize(),
                                .poisonable = mapping.memory == BlockMemory::kPrivate};
  if (!memory.zeroable) {
    absl::Status ready = loader_->PrepareZeros(page_size);
    if (ready.ok()) ready = fault_thread_->Grow(page_size);
    if (!ready.ok()) return ready;
  }
  const uint64_t length = RoundUp(stored.used_length, page_size);
  absl::Status ready = RegisterEmpty(memory, length, mapping.memory, host->anonymous);
  if (!ready.ok()) return ready;
  auto ram = std::make_unique<RamBlock>(block, stored, memory, snapshot_->TakeNonzero(block));
  map_.Insert(*ram);
  if (working_set_thread_ != nullptr) eager_queue_.Hold();
  const bool can_be_huge = mapping.memory == BlockMemory::kPrivate && uffd_->features().move &&
                           memory.page_size < HugeStaging::kBytes && length >= HugeStaging::kBytes;
  eager_queue_.Add(*ram, can_be_huge ? HugePages::kUndecided : HugePages::kNever);
  if (working_set_thread_ != nullptr) {  // which asks the queue
    working_set_thread_->Add(*ram, [this] { eager_queue_.Release(); });
  }
  attached_[block] = true;
  blocks_.push_back(std::move(ram));
  return absl::OkStatus();
}

absl::Status SnapshotLoader::ReadUnattached(size_t block, absl::Span<uint8_t> to) {
  const SnapshotBlock& stored = snapshot_->blocks()[block];
  {
    absl::MutexLock lock(&mu_);
    if (attached_[block]) return AttachedError(stored);
    ++readers_[block];
  }
  absl::Status read = ReadBlock(demand_, stored, block, snapshot_->nonzero(block), to);
  absl::MutexLock lock(&mu_);
  --readers_[block];
  return read;
}

// Not before the guest is about to run: a new thread would be a rival to the one that resumes it.
void SnapshotLoader::StartLease() {
  if (lease_started_.load() || blocks_.empty() || !uffd_) return;
  lease_started_.store(true);
  absl::StatusOr<std::unique_ptr<SnapshotLease>> lease = SnapshotLease::Start(
      snapshot_->file(), {.refused = [this](const absl::Status& why) { LoadWithoutLease(why); },
                          .broken = [this] { LoadBeforeOverwritten(); }});
  if (lease.ok()) {
    lease_ = *std::move(lease);
  } else {
    LoadWithoutLease(lease.status());
  }
}

void SnapshotLoader::LoadWithoutLease(const absl::Status& why) {
  eager_queue_.LiftRate();
  Note(absl::StrCat(
      snapshot_->file().name(), ": there is no lease on it (", why.message(),
      "): whoever writes to it before it is loaded ends the VM",
      options_.eager_bytes_per_s == 0 ? "" : "; so it is loaded at full speed, whatever the rate"));
}

void SnapshotLoader::LoadBeforeOverwritten() {
  if (complete()) return;  // and about to be detached
  Note(absl::StrCat(snapshot_->file().name(),
                    ": somebody wants to write to it, and waits until the rest of it is loaded at "
                    "full speed"));
  // Nothing is given up for a writer, so Finish() is only for where there are no threads.
  const absl::Status started = Hurry();
  (void)(started.ok() ? Wait() : Finish());  // complete, or nothing of it is needed any more
}

void SnapshotLoader::Note(const std::string& note) {
  stats_.AddNote(note);
  if (options_.note != nullptr) options_.note(note);
}

absl::Status SnapshotLoader::RegisterEmpty(const RamBlock::Memory& memory, uint64_t length,
                                           BlockMemory kind, bool anonymous) {
  std::optional<HugePagesOff> huge_pages_off;
  // A write through an alias may make a huge page, of which all but that write is zeros until the
  // rest has arrived; MADV_COLLAPSE would map all of it at once, by any kernel.
  if (kind == BlockMemory::kShared && memory.zeroable &&
      (memory.alias != 0 || HugePagesFillHoles())) {
    absl::StatusOr<HugePagesOff> off = HugePagesOff::Over(memory.host, length);
    if (!off.ok()) return off.status();
    huge_pages_off.emplace(*std::move(off));
  }
  // Register first, then empty, so that nobody can put a page there in between. The discard comes
  // back as an event of our own, which has to be through before the block is in the map: there it
  // would mean that the guest has given up its memory. Most memory is empty, and all this can be
  // left out; but what is locked is to be refused even then (MLOCK_ONFAULT), and MADV_COLD, which
  // does nothing to memory that is empty, refuses it as a discard does.
  const bool unlocked =
      anonymous && madvise(reinterpret_cast<void*>(memory.host), length, MADV_COLD) == 0;
  const absl::StatusOr<RangeAbilities> abilities =
      uffd_->Register(memory.host, length, memory.alias != 0);
  if (!abilities.ok()) return abilities.status();
  const bool is_empty = unlocked && HoldsAnything(memory.host, memory.host + length) == false;
  absl::Status status = is_empty ? absl::OkStatus() : Empty(memory, length, kind);
  if (status.ok() && abilities->zero != memory.zeroable) {
    status = absl::InvalidArgumentError("its mappings are of different page sizes");
  }
  if (!status.ok()) {
    (void)uffd_->Unregister(memory.host, length);
    return status;
  }
  if (!is_empty && uffd_->features().remove_events) fault_thread_->Sync();
  if (huge_pages_off) huge_pages_off_.push_back(*std::move(huge_pages_off));
  return absl::OkStatus();
}

absl::StatusOr<SnapshotLoader::HostMemory> SnapshotLoader::CheckMapping(
    const SnapshotBlock& stored, const BlockMapping& mapping) const {
  const uintptr_t addr = reinterpret_cast<uintptr_t>(mapping.host);
  const absl::StatusOr<KernelMapping> actual = MappingAt(addr);
  if (absl::IsInvalidArgument(actual.status())) return actual.status();
  // Without /proc the caller is believed; that pages are huge, or are not, shows in
  // RegisterEmpty().
  const uint64_t page_size = actual.ok()                   ? actual->page_bytes
                             : mapping.host_page_size != 0 ? mapping.host_page_size
                                                           : SystemPageSize();
  if (actual.ok() && actual->shared != (mapping.memory == BlockMemory::kShared)) {
    return absl::InvalidArgumentError(actual->shared
                                          ? "its memory is shared, and said to be private"
                                          : "its memory is private, and said to be shared");
  }
  if (mapping.host_page_size != 0 && mapping.host_page_size != page_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "its host page size is said to be %d, and is %d", mapping.host_page_size, page_size));
  }
  const uint64_t needed = RoundUp(stored.used_length, page_size);
  const uint64_t length = mapping.length == 0 ? needed : mapping.length;
  if (addr % page_size != 0 || length % page_size != 0 || length < needed ||
      length > UINTPTR_MAX - addr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("block \"%s\" of %d bytes does not fit %d bytes at %#x in pages of %d",
                        stored.idstr, stored.used_length, length, addr, page_size));
  }
  const RamBlock* const next = map_.FindFrom(addr);
  if (next != nullptr && next->host() < addr + needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("block \"", next->idstr(), "\" is attached there"));
  }
  if (mapping.alias == nullptr) {
    return HostMemory{page_size, actual.ok() && !actual->shared && actual->inode == 0 &&
                                     actual->end >= addr + needed};
  }

  if (mapping.memory != BlockMemory::kShared) {
    return absl::InvalidArgumentError("private memory has no alias");
  }
  const auto alias = reinterpret_cast<uintptr_t>(mapping.alias);
  const absl::StatusOr<KernelMapping> other = MappingAt(alias);
  if (absl::IsInvalidArgument(other.status())) return other.status();
  // What is written there would go anywhere.
  if (actual.ok() && other.ok() && !SameBytes(*actual, addr, *other, alias, needed)) {
    return absl::InvalidArgumentError("its alias is not a mapping of the same bytes");
  }
  const bool can_continue = page_size == SystemPageSize() ? uffd_->features().minor_shmem
                                                          : uffd_->features().minor_hugetlb;
  if (!can_continue) {
    return absl::FailedPreconditionError(
        "this kernel or this userfaultfd cannot fill memory through an alias (Linux 5.14)");
  }
  return HostMemory{page_size, false};
}

absl::Status SnapshotLoader::Empty(const RamBlock::Memory& memory, uint64_t length,
                                   BlockMemory kind) {
  // MADV_DONTNEED would leave the pages of shared memory in the page cache, where the next fault
  // finds them.
  const int advice = kind == BlockMemory::kShared ? MADV_REMOVE : MADV_DONTNEED;
  if (madvise(reinterpret_cast<void*>(memory.host), length, advice) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      errno != EINVAL ? absl::StrCat("it cannot be emptied: ", std::strerror(errno))
      : memory.zeroable
          ? std::string("it is locked in memory (mlock)")
          : std::string("it is locked, or this kernel cannot empty huge pages (Linux 5.18)"));
}

void SnapshotLoader::StartRecord() {
  uint64_t pages = 0;
  for (const SnapshotBlock& block : snapshot_->blocks()) {
    pages += block.nonzero_pages * std::max<uint64_t>(1, block.page_size / SystemPageSize());
  }
  absl::StatusOr<std::unique_ptr<TouchRecord>> record = TouchRecord::Create(pages);
  if (!record.ok()) {
    stats_.AddError(record.status());
  } else if (snapshot_->blocks().size() <= TouchRecord::kMaxBlocks) {
    record_ = *std::move(record);
  }
}

absl::Status SnapshotLoader::SaveWorkingSet(const std::string& path) const {
  if (record_ == nullptr) return absl::FailedPreconditionError("nothing was recorded");
  const absl::StatusOr<uint64_t> digest = DigestSnapshot(*snapshot_);
  if (!digest.ok()) return digest.status();
  // Taken first: whatever was touched by now is of an attached block.
  const absl::Span<const TouchRecord::Touch> touches = record_->touches();
  std::vector<uint64_t> page_bytes(snapshot_->blocks().size());
  {
    absl::MutexLock lock(&mu_);
    for (const auto& block : blocks_) page_bytes[block->index()] = block->page_size();
  }
  return ReplaceFile(
      path, EncodeWorkingSet(ToWorkingSet(touches, snapshot_->blocks(), page_bytes, *digest)));
}

absl::Status SnapshotLoader::StartEager() {
  if (record_ != nullptr) record_->Stop();
  absl::MutexLock lock(&mu_);
  if (!uffd_) return absl::OkStatus();
  StartLease();
  if (options_.whole_windows) eager_queue_.AllowWindows();
  if (working_set_thread_ != nullptr) working_set_thread_->Hurry();
  const unsigned processors = UsableProcessors();
  const unsigned wanted =
      options_.eager_threads != 0 ? options_.eager_threads : std::clamp(processors - 1, 2u, 4u);
  while (eager_threads_.size() < wanted) {
    const bool spare = options_.eager_threads == 0 && !eager_threads_.empty() &&
                       eager_threads_.size() + 1 >= processors;
    absl::StatusOr<std::unique_ptr<EagerThread>> thread = EagerThread::Start(
        {.queue = eager_queue_, .loader = *loader_, .pacer = pacer_, .stats = stats_}, spare);
    if (!thread.ok()) return thread.status();
    eager_threads_.push_back(*std::move(thread));
  }
  return absl::OkStatus();
}

absl::Status SnapshotLoader::Hurry() {
  eager_queue_.Hurry();
  pacer_.Hurry();
  return StartEager();
}

void SnapshotLoader::Discard(uintptr_t start, uintptr_t end) {
  for (uintptr_t at = start; at < end;) {
    RamBlock* const block = map_.FindFrom(at);
    if (block == nullptr || block->host() >= end) return;
    loader_->Discard(*block, start, end);
    at = block->host() + block->length();
  }
}

// Without mu_, which Abandon() holds until the read in hand has ended: who waits learns of it at
// once.
bool SnapshotLoader::complete() const { return MissingPages() == 0; }

absl::Status SnapshotLoader::Wait(absl::Duration timeout) {
  return WaitUntil(DeadlineNs(timeout), false);
}

absl::Status SnapshotLoader::WaitOrError(absl::Duration timeout) {
  return WaitUntil(DeadlineNs(timeout), true);
}

absl::Status SnapshotLoader::WaitUntil(uint64_t deadline_ns, bool or_error) {
  // Abandon() holds mu_ until the read in hand has ended, and whoever waits learns of it at once.
  for (; !lease_started_.load() && !abandoned_.load(); absl::SleepFor(absl::Microseconds(50))) {
    if (!mu_.TryLock()) continue;
    StartLease();
    mu_.Unlock();
    break;
  }
  for (;;) {
    const uint32_t moments = progress_.moments();
    if (abandoned_.load()) return absl::CancelledError("the load was abandoned");
    if (vm_stop_->stopped()) {
      return absl::AbortedError(
          absl::StrCat("the VM has to be stopped: ", vm_stop_->why().message()));
    }
    if (or_error && stats_.any_untold()) return absl::UnavailableError("");
    if (complete()) return absl::OkStatus();
    if (!progress_.AwaitNext(moments, deadline_ns)) {
      return absl::DeadlineExceededError("the load is not complete yet");
    }
  }
}

absl::Status SnapshotLoader::Finish() {
  if (abandoned_.load() || complete()) return Wait();
  (void)Hurry();  // where no thread can be had, this one has to do
  if (BeginFinishing()) {
    LoadWhatIsLeft();
    absl::MutexLock lock(&finishing_mu_);
    --finishing_;
  }
  return Wait();
}

// False: the load has ended. Else End() waits until the caller has ended, too.
bool SnapshotLoader::BeginFinishing() {
  absl::MutexLock lock(&mu_);
  if (!uffd_) return false;
  absl::MutexLock count(&finishing_mu_);
  ++finishing_;
  return true;
}

// Returns when everything is there, or the load has ended in another way. Other threads may have
// claimed the rest, or the disk may not give it: then it is looked for again and again.
void SnapshotLoader::LoadWhatIsLeft() {
  constexpr uint64_t kPauseNs = 2'000'000;
  WindowLoader windows(*loader_, eager_queue_, stats_);
  std::map<size_t, FailingPages> failing;  // by the block's index
  while (!complete() && !vm_stop_->stopped() && !loader_->quitting()) {
    const uint32_t moments = progress_.moments();
    while (std::optional<EagerQueue::Window> window = eager_queue_.TryNext()) {
      windows.LoadWindow(*std::move(window));
    }
    while (windows.any_begun()) windows.EndOldest();
    for (RamBlock* block = map_.FindFrom(0); block != nullptr;
         block = map_.FindFrom(block->host() + block->length())) {
      FailingPages& pages = failing.try_emplace(block->index(), block->pages()).first->second;
      if (pages.pages() != block->pages()) pages = FailingPages(block->pages());
      windows.LoadAwaited(*block, pages);
    }
    (void)progress_.AwaitNext(moments, MonotonicNs() + kPauseNs);
  }
}

uint64_t SnapshotLoader::MissingPages() const {
  uint64_t missing = 0;
  for (const RamBlock* block = map_.FindFrom(0); block != nullptr;
       block = map_.FindFrom(block->host() + block->length())) {
    missing += block->remaining_pages();
  }
  return missing;
}

absl::Status SnapshotLoader::Detach() {
  std::unique_ptr<SnapshotLease> lease;
  absl::MutexLock lock(&mu_);  // a block that is being attached counts
  if (!abandoned_.load() && !complete()) {
    return absl::FailedPreconditionError("pages are still owed to the guest");
  }
  End();
  lease = std::move(lease_);
  return absl::OkStatus();
}

void SnapshotLoader::Collapse() {
  absl::MutexLock lock(&mu_);
  if (uffd_ || abandoned_.load()) return;
  for (const auto& ram : blocks_) {
    const RamBlock& block = *ram;
    const HugePages huge = eager_queue_.huge(block);
    if (huge == HugePages::kUndecided || huge == HugePages::kNever) continue;
    const uint64_t window_pages = HugeStaging::kBytes / block.page_size();
    const uint64_t first = RoundUp(block.host(), HugeStaging::kBytes);
    for (uintptr_t at = first; at + HugeStaging::kBytes <= block.host() + block.length();
         at += HugeStaging::kBytes) {
      const PageRun window{block.PageOf(at), window_pages};
      if (!IsHugeWindow(block, window, huge) || AnyDiscarded(block, window)) continue;
      int result = 0;
      for (int i = 0; i < kCollapseAttempts; ++i) {  // somebody may be looking at one of the pages
        result = madvise(reinterpret_cast<void*>(at), HugeStaging::kBytes, kMadvCollapse);
        if (result == 0 || errno != EAGAIN) break;
      }
      if (result != 0 && errno == EINVAL) return;  // the kernel does not know it
    }
  }
}

void SnapshotLoader::Abandon() {
  std::unique_ptr<SnapshotLease> lease;
  absl::MutexLock lock(&mu_);
  if (!uffd_) return;
  for (const auto& block : blocks_) {
    if (block->remaining_pages() == 0) continue;
    abandoned_.store(true);
    MakeInaccessible(*block);
  }
  progress_.Note();
  End();
  lease = std::move(lease_);
}

// What was unmapped in the block, and may be somebody else's by now, stays as it is.
void SnapshotLoader::MakeInaccessible(const RamBlock& block) {
  const absl::StatusOr<std::vector<RegisteredRange>> ranges =
      RegisteredRanges(block.host(), block.host() + block.length());
  if (!ranges.ok()) {
    TakeAway(block.host(), block.host() + block.length());
    return;
  }
  for (const RegisteredRange& range : *ranges) TakeAway(range.start, range.end);
}

void SnapshotLoader::End() {
  if (!uffd_) return;
  eager_queue_.Close();
  loader_->Quit();
  {
    absl::MutexLock lock(&finishing_mu_);
    const auto none = [this]()
                          ABSL_EXCLUSIVE_LOCKS_REQUIRED(finishing_mu_) { return finishing_ == 0; };
    finishing_mu_.Await(absl::Condition(&none));
  }
  if (working_set_thread_ != nullptr) {
    ended_cpu_ns_ += working_set_thread_->cpu_ns();
    working_set_thread_.reset();
  }
  for (auto& thread : eager_threads_) ended_cpu_ns_ += thread->cpu_ns();
  eager_threads_.clear();
  // Unregistering wakes whoever sleeps on a page that has no content; the kernel gives it zeros
  // then.
  for (const auto& block : blocks_) {
    if (uffd_->Unregister(block->host(), block->length()).ok()) continue;
    // Some of it was unmapped (a DIMM was removed): nobody waits there. The rest is ours.
    const absl::StatusOr<std::vector<RegisteredRange>> left =
        RegisteredRanges(block->host(), block->host() + block->length());
    if (!left.ok()) stats_.AddError(left.status());
    for (const RegisteredRange& range : left.value_or(std::vector<RegisteredRange>())) {
      const absl::Status status = uffd_->Unregister(range.start, range.end - range.start);
      if (!status.ok()) stats_.AddError(status);
    }
  }
  huge_pages_off_.clear();
  lease_started_.store(true);
  if (lease_ != nullptr) ended_cpu_ns_ += lease_->cpu_ns();
  if (fault_thread_ != nullptr) ended_cpu_ns_ += fault_thread_->cpu_ns();
  fault_thread_.reset();
  uffd_.reset();
}

uint64_t SnapshotLoader::cpu_ns() const {
  absl::MutexLock lock(&mu_);
  uint64_t result = ended_cpu_ns_;
  if (fault_thread_ != nullptr) result += fault_thread_->cpu_ns();
  if (working_set_thread_ != nullptr) result += working_set_thread_->cpu_ns();
  if (uffd_ && lease_ != nullptr) result += lease_->cpu_ns();
  for (const auto& thread : eager_threads_) result += thread->cpu_ns();
  return result;
}

SnapshotLoader::PageCounts SnapshotLoader::attached_pages() const {
  absl::MutexLock lock(&mu_);
  PageCounts counts;
  for (const auto& block : blocks_) {
    counts.total += block->pages();
    counts.nonzero += block->nonzero_pages();
    counts.missing += block->remaining_pages();
  }
  return counts;
}

bool SnapshotLoader::attached(size_t block) const {
  absl::MutexLock lock(&mu_);
  return attached_[block];
}

absl::Duration SnapshotLoader::to_complete() const {
  if (!complete()) return absl::InfiniteDuration();
  const uint64_t last_ns = std::max(progress_.last_ns(), created_ns_);
  return absl::Nanoseconds(static_cast<int64_t>(last_ns - created_ns_));
}

}  // namespace ramjet
