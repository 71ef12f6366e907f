#include "loader/snapshot_loader.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "loader/load_finisher.h"
#include "loader/page_buffer.h"
#include "loader/read_block.h"
#include "loader/replace_file.h"
#include "loader/thread.h"
#include "loader/working_set.h"
#include "mappedram/snapshot_digest.h"
#include "uffd/mappings.h"

namespace ramjet {
namespace {

uint64_t DeadlineNs(absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return Moments::kNever;
  return MonotonicNs() +
         static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Nanoseconds(timeout), 0));
}

absl::Status NoBlockError(size_t block) {
  return absl::NotFoundError(absl::StrCat("the snapshot has no block ", block));
}

absl::Status AttachedError(const SnapshotBlock& block) {
  return absl::AlreadyExistsError(absl::StrCat("block \"", block.idstr, "\" is attached"));
}

std::optional<CheckedSource> Check(const PageSource& source,
                                   const std::optional<BoundChecksums>& checksums) {
  return checksums ? std::make_optional<CheckedSource>(source, *checksums) : std::nullopt;
}

const PageSource& Either(const std::optional<CheckedSource>& checked, const PageSource& plain) {
  return checked ? static_cast<const PageSource&>(*checked) : plain;
}

}  // namespace

absl::StatusOr<std::optional<BoundChecksums>> SnapshotLoader::BindChecksums(
    const std::string& path, const Snapshot& snapshot) {
  if (path.empty()) return std::nullopt;
  absl::StatusOr<BoundChecksums> bound = BoundChecksums::Read(path, snapshot);
  if (bound.ok()) return *std::move(bound);
  // Which is not about what this process may do.
  if (!absl::IsFailedPrecondition(bound.status())) return bound.status();
  return absl::InvalidArgumentError(bound.status().message());
}

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
                          .window_trip = *self->window_trip_,
                          .eager_queue = self->eager_queue_,
                          .huge_pages = self->huge_pages_,
                          .offers = self->offers_,
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
                                                      .window_trip = *self->window_trip_,
                                                      .queue = self->eager_queue_,
                                                      .huge_pages = self->huge_pages_,
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
      window_trip_(*loader_),
      huge_pages_(snapshot_->blocks().size()),
      eager_queue_(snapshot_->blocks().size(), options_.eager_bytes_per_s) {}

SnapshotLoader::~SnapshotLoader() {
  (void)Finish();
  // What the VM was to be stopped for cannot be loaded, and must not become zeros now.
  if (!Detach().ok()) Abandon();
}

absl::Status SnapshotLoader::Attach(size_t block, const BlockMapping& mapping) {
  if (block >= snapshot_->blocks().size()) return NoBlockError(block);
  const SnapshotBlock& stored = snapshot_->blocks()[block];
  absl::MutexLock lock(&mu_);
  // A reader needs the bitmap that the block takes along.
  const auto unread = [this, block]()
                          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return readers_[block] == 0; };
  mu_.Await(absl::Condition(&unread));
  if (!uffd_) return absl::FailedPreconditionError("the load has ended");
  if (attached_[block]) return AttachedError(stored);
  const absl::StatusOr<HostMemory> host = CheckMapping(stored, mapping, uffd_->features(), map_);
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
  absl::StatusOr<EmptyMemory> empty =
      RegisterEmpty(*uffd_, memory, host->length, mapping.memory, host->anonymous);
  if (!empty.ok()) return empty.status();
  // The discard comes back as an event of our own, which has to be through before the block is in
  // the map: there it would mean that the guest has given up its memory.
  if (empty->discarded && uffd_->features().remove_events) fault_thread_->Sync();
  if (empty->huge_pages_off) huge_pages_off_.push_back(*std::move(empty->huge_pages_off));
  auto ram = std::make_unique<RamBlock>(block, stored, memory, snapshot_->TakeNonzero(block));
  map_.Insert(*ram);
  if (working_set_thread_ != nullptr) eager_queue_.Hold();
  const bool can_be_huge = mapping.memory == BlockMemory::kPrivate && uffd_->features().move &&
                           memory.page_size < HugeStaging::kBytes &&
                           host->length >= HugeStaging::kBytes;
  huge_pages_.Add(*ram, can_be_huge ? HugePages::kUndecided : HugePages::kNever);
  eager_queue_.Add(*ram);
  if (working_set_thread_ != nullptr) {  // which asks the queue
    working_set_thread_->Add(*ram, [this] { eager_queue_.Release(); });
  }
  attached_[block] = true;
  blocks_.push_back(std::move(ram));
  return absl::OkStatus();
}

absl::Status SnapshotLoader::ReadUnattached(size_t block, absl::Span<uint8_t> to) {
  if (block >= snapshot_->blocks().size()) return NoBlockError(block);
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
  if (options_.whole_windows && !eager_queue_.has_limit()) huge_pages_.AllowWhole();
  if (working_set_thread_ != nullptr) working_set_thread_->Hurry();
  const unsigned processors = UsableProcessors();
  const unsigned wanted =
      options_.eager_threads != 0 ? options_.eager_threads : std::clamp(processors - 1, 2u, 4u);
  while (eager_threads_.size() < wanted) {
    const bool spare = options_.eager_threads == 0 && !eager_threads_.empty() &&
                       eager_threads_.size() + 1 >= processors;
    absl::StatusOr<std::unique_ptr<EagerThread>> thread =
        EagerThread::Start({.queue = eager_queue_,
                            .huge_pages = huge_pages_,
                            .offers = offers_,
                            .loader = *loader_,
                            .window_trip = *window_trip_,
                            .pacer = pacer_,
                            .stats = stats_},
                           spare);
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
bool SnapshotLoader::complete() const { return map_.MissingPages() == 0; }

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
    LoadFinisher({.loader = *loader_,
                  .window_trip = *window_trip_,
                  .queue = eager_queue_,
                  .huge_pages = huge_pages_,
                  .map = map_,
                  .vm_stop = *vm_stop_,
                  .progress = progress_,
                  .stats = stats_})
        .Run();
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
  for (const auto& block : blocks_) {
    if (!CollapseWindows(*block, huge_pages_)) return;
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
