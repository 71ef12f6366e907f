#include "tools/preload/session.h"

#include <signal.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "loader/replace_file.h"
#include "mappedram/file.h"
#include "tools/error_line.h"
#include "tools/preload/process_view.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

// A block with less content than this is read faster than it is registered, emptied and faulted in.
constexpr uint64_t kMinLazyBytes = 512 << 10;

// Loading ahead begins when QEMU has read its devices' state, which it would otherwise have to
// share the disk for; but not later than this, should it dawdle.
constexpr absl::Duration kMaxEagerDelay = absl::Milliseconds(50);
// And then not before QEMU has had the processor for starting the guest, to which the eager threads
// are rivals; but before the guest touches much, for from then on its pages come by whole windows.
constexpr absl::Duration kResumeGrace = absl::Microseconds(1200);

// Firmware's flash and the ROMs of devices hold their image before a load, and QEMU reads them
// quickly. No machine has a larger one.
constexpr uint64_t kMaxImageBytes = 64 << 20;

void Say(const std::string& message) { PrintError(message); }

std::string ReadByQemu(const SnapshotBlock& block, const absl::Status& why) {
  return absl::StrCat("block \"", block.idstr, "\" is read by QEMU itself: ", why.message());
}

}  // namespace

constinit std::atomic<ino_t> Session::loading_inode_{0};

std::shared_ptr<Session> Session::Begin(int fd, uint64_t stream_offset, const Settings& settings,
                                        int device_fd, ExecGuard& guard) {
  std::shared_ptr<Session> session(new Session(settings, device_fd, guard));
  session->keep_alive_ = session;
  const absl::Status opened = session->Open(fd, stream_offset);
  if (!opened.ok() && !settings.checksums.empty()) session->Refuse(opened);
  if (!opened.ok()) {
    Say(absl::StrCat("this load is not lazy, but QEMU's own: ", opened.message()));
    {
      absl::MutexLock lock(&session->mu_);
      session->fallback_ = std::string(opened.message());
    }
    session->End();
  }
  return session;
}

Session::~Session() {
  if (Userfaultfd::IsDevice(device_fd_)) close(device_fd_);
}

// Lets go of everything: descriptors close when the last call that is under way returns.
void Session::End() {
  WriteFiles();  // before the next session can begin, and write its own
  loading_inode_.store(0, std::memory_order_release);
  over_.Notify();
  {
    absl::MutexLock lock(&mu_);
    if (guarded_) guard_.Release();
  }
  keep_alive_.reset();
}

absl::Status Session::Open(int fd, uint64_t stream_offset) {
  std::error_code error;
  const std::filesystem::path path =
      std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", fd), error);
  absl::StatusOr<File> file = File::Reopen(fd, error ? "the snapshot" : path.string());
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot =
      Snapshot::Open(*std::move(file), stream_offset);
  if (!snapshot.ok()) return snapshot.status();
  snapshot_ = *std::move(snapshot);
  const std::vector<SnapshotBlock>& blocks = snapshot_->blocks();
  blocks_ = std::make_unique<Block[]>(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].nonzero_pages > 0) by_offset_.push_back(i);
  }
  std::sort(by_offset_.begin(), by_offset_.end(),
            [&](size_t a, size_t b) { return blocks[a].pages_offset < blocks[b].pages_offset; });
  if (!settings_.checksums.empty()) {
    absl::StatusOr<BoundChecksums> bound = BoundChecksums::Read(settings_.checksums, *snapshot_);
    if (!bound.ok()) return bound.status();
    checksums_.emplace(*std::move(bound));
  }
  loading_inode_.store(snapshot_->file().inode(), std::memory_order_release);
  return absl::OkStatus();
}

std::optional<size_t> Session::FindBlock(uint64_t offset, size_t length) const {
  const std::vector<SnapshotBlock>& blocks = snapshot_->blocks();
  const auto after =
      std::upper_bound(by_offset_.begin(), by_offset_.end(), offset,
                       [&](uint64_t at, size_t i) { return at < blocks[i].pages_offset; });
  if (after == by_offset_.begin()) return std::nullopt;
  const size_t index = *(after - 1);
  const SnapshotBlock& block = blocks[index];
  const uint64_t into_block = offset - block.pages_offset;
  const bool inside = into_block < block.used_length && length <= block.used_length - into_block;
  return inside ? std::optional(index) : std::nullopt;
}

bool Session::IsSnapshotFile(int fd) const {
  struct stat status;
  return fstat(fd, &status) == 0 && status.st_dev == snapshot_->file().device() &&
         status.st_ino == snapshot_->file().inode();
}

bool Session::AnswerRead(int fd, uintptr_t to, size_t length, uint64_t offset) {
  // Behind the stream's end come only reads of the guest's, which may choose its offsets as it
  // likes.
  if (snapshot_ == nullptr || stream_ended() || fd == snapshot_->file().fd()) {
    return false;
  }
  const std::optional<size_t> index = FindBlock(offset, length);
  if (!index) return false;
  const uintptr_t host = to - (offset - snapshot_->blocks()[*index].pages_offset);
  Block& block = blocks_[*index];
  Mode mode = block.mode.load(std::memory_order_acquire);
  if (mode == Mode::kUndecided) {
    if (!IsSnapshotFile(fd)) return false;
    mode = Decide(*index, host) ? Mode::kLazy : Mode::kStock;
  }
  // A read to elsewhere is somebody's own business. To just there only the snapshot is read before
  // the guest runs.
  if (mode != Mode::kLazy || block.host != host) return false;
  last_answer_ns_.store(absl::ToInt64Nanoseconds(SinceBegun()));
  return true;
}

// What has not been put into guest memory by the loader, which checks by itself.
void Session::CheckRead(int fd, absl::Span<const uint8_t> bytes, uint64_t offset) {
  if (snapshot_ == nullptr || stream_ended() || fd == snapshot_->file().fd()) {
    return;
  }
  const std::optional<size_t> index = FindBlock(offset, bytes.size());
  if (!index || blocks_[*index].mode.load(std::memory_order_acquire) == Mode::kLazy) return;
  if (!IsSnapshotFile(fd)) return;
  // relaxed: the threads that read have met before the stream's end.
  blocks_[*index].read_bytes.fetch_add(bytes.size(), std::memory_order_relaxed);
  if (!checksums_) return;
  const absl::Status checked = checksums_->Check(
      *snapshot_, *index, offset - snapshot_->blocks()[*index].pages_offset, bytes);
  if (!checked.ok()) Refuse(checked);
}

void Session::Refuse(const absl::Status& why) {
  {
    absl::MutexLock lock(&mu_);
    fallback_ = std::string(why.message());
  }
  WriteStats();
  EndUnchecked(std::string(why.message()));
}

void Session::EndUnchecked(const std::string& why) {
  static std::atomic_flag said;  // by whichever channel comes first
  while (said.test_and_set()) pause();
  Say(absl::StrCat(why, ": the VM is ended, for it may load nothing unchecked"));
  _exit(1);
}

// Decides, once, whether the block that was first read to `host` is loaded lazily.
bool Session::Decide(size_t index, uintptr_t host) {
  absl::MutexLock lock(&mu_);
  Block& block = blocks_[index];
  const Mode decided = block.mode.load(std::memory_order_acquire);
  if (decided != Mode::kUndecided) return decided == Mode::kLazy;

  const SnapshotBlock& stored = snapshot_->blocks()[index];
  bool lazy = false;
  if (stored.nonzero_pages * stored.page_size >= kMinLazyBytes) {
    const absl::Status status = MakeLazy(index, host);
    lazy = status.ok();
    const bool is_image = absl::IsAlreadyExists(status) && stored.used_length <= kMaxImageBytes;
    if (!lazy && !is_image) {
      const std::string reason = ReadByQemu(stored, status);
      Say(reason);
      if (fallback_.empty()) fallback_ = reason;
    }
  }
  block.mode.store(lazy ? Mode::kLazy : Mode::kStock, std::memory_order_release);
  return lazy;
}

absl::Status Session::MakeLazy(size_t index, uintptr_t host) {
  const uint64_t length = snapshot_->blocks()[index].used_length;
  if (!std::exchange(looked_around_, true)) loader_status_ = CheckDescriptors();
  if (!loader_status_.ok()) return loader_status_;
  absl::StatusOr<KernelMapping> mapping = CheckGuestMemory(host, length);
  if (!mapping.ok()) return mapping.status();
  const dev_t device = makedev(static_cast<unsigned>(mapping->device_major),
                               static_cast<unsigned>(mapping->device_minor));
  if (loader_ == nullptr && loader_status_.ok()) loader_status_ = StartLoader();
  if (!loader_status_.ok()) return loader_status_;
  if (mapping->shared) {
    absl::Status guarded = GuardShared(device, mapping->inode);
    if (!guarded.ok()) return guarded;
  }
  absl::Status attached = loader_->Attach(
      index, {.host = reinterpret_cast<void*>(host),
              .memory = mapping->shared ? BlockMemory::kShared : BlockMemory::kPrivate});
  if (!attached.ok()) return attached;
  Block& block = blocks_[index];
  block.host = host;
  block.backing_device = device;
  block.backing_inode = mapping->inode;
  block.backing_offset = mapping->offset;
  return absl::OkStatus();
}

absl::Status Session::GuardShared(dev_t device, ino_t inode) {
  if (!guarded_) {
    absl::Status held = guard_.Hold([self = shared_from_this()] { self->FinishAll(); });
    if (!held.ok()) return held;
    guarded_ = true;
  }
  return guard_.Admit(device, inode);
}

absl::Status Session::StartLoader() {
  absl::StatusOr<std::unique_ptr<SnapshotLoader>> loader =
      SnapshotLoader::Create(snapshot_, {.device_fd = device_fd_,
                                         .direct = settings_.direct,
                                         .eager_threads = settings_.eager_threads,
                                         .eager_bytes_per_s = settings_.eager_bytes_per_s,
                                         .whole_windows = settings_.whole_windows,
                                         .note = Say,
                                         .working_set = settings_.working_set,
                                         .checksums = settings_.checksums,
                                         .record = !settings_.record_path.empty(),
                                         .tell_errors = true});
  if (!loader.ok()) return loader.status();
  loader_ = *std::move(loader);
  // The thread keeps the session, which may be replaced by the next one meanwhile.
  absl::Status status =
      Thread::StartDetached("ramjet-session", [self = shared_from_this()] { self->Run(); });
  if (!status.ok()) loader_.reset();
  return status;
}

bool Session::NoteStreamRead(int fd) {
  if (snapshot_ == nullptr) return false;
  if (stream_ended()) return true;
  const off_t position = lseek(fd, 0, SEEK_CUR);
  if (position <= static_cast<off_t>(snapshot_->description().eof_offset)) return false;
  CheckAllIsRead();
  EndStream();
  return true;
}

// QEMU 11.2, with postcopy-ram on, reads no pages before the stream's end, and loads them lazily
// itself afterwards. Whatever it reads then is not compared with checksums.
void Session::CheckAllIsRead() {
  mu_.Lock();
  const bool loading = loader_ != nullptr;  // and has a userfaultfd of its own
  mu_.Unlock();
  for (const size_t index : by_offset_) {
    const Block& block = blocks_[index];
    if (block.mode.load(std::memory_order_acquire) == Mode::kLazy) continue;
    const SnapshotBlock& stored = snapshot_->blocks()[index];
    const uint64_t content = stored.nonzero_pages * stored.page_size;
    const uint64_t seen = block.read_bytes.load(std::memory_order_relaxed);
    if (seen >= content) continue;
    absl::Status why = loading ? absl::OkStatus() : CheckDescriptors();
    if (why.ok()) {
      why = absl::FailedPreconditionError(absl::StrCat("QEMU has read ", seen, " of its ", content,
                                                       " bytes before the end of the snapshot"));
    }
    const std::string reason = ReadByQemu(stored, why);
    if (checksums_) Refuse(absl::FailedPreconditionError(reason));
    absl::MutexLock lock(&mu_);
    if (!fallback_.empty()) return;  // it is said already
    Say(reason);
    fallback_ = reason;
    return;
  }
}

void Session::EndStream() {
  if (stream_ending_.exchange(true)) return;
  stream_ended_.Note();
  absl::ReleasableMutexLock lock(&mu_);
  if (loader_ != nullptr) return;  // its thread does the rest
  to_complete_ = SinceBegun();
  lock.Release();
  End();
}

void Session::AwaitStreamEnd(absl::Duration timeout) const {
  (void)stream_ended_.AwaitNext(
      0, MonotonicNs() + static_cast<uint64_t>(absl::ToInt64Nanoseconds(timeout)));
}

void Session::StartEager() {
  const absl::Status started = settings_.eager ? loader_->StartEager() : absl::OkStatus();
  if (started.ok()) return;
  Say(absl::StrCat("pages come only when they are touched: ", started.message()));
}

void Session::Run() {
  bool recording = !settings_.record_path.empty();
  if (!recording) {
    AwaitStreamEnd(kMaxEagerDelay);
    absl::SleepFor(kResumeGrace);
    StartEager();
  }

  absl::Duration recorded_by = absl::InfiniteDuration();  // SinceBegun()
  bool ended = false;  // the stream: no block is attached from then on
  bool told_unread = false;
  absl::Status loaded;
  do {
    if (!ended && stream_ended()) {
      ended = true;
      if (recording) recorded_by = SinceBegun() + absl::Seconds(settings_.record_seconds);
    }
    const absl::Duration look = ended ? absl::Seconds(1) : kMaxEagerDelay;
    loaded = loader_->WaitOrError(std::min(look, recorded_by - SinceBegun()));
    TellErrors();
    if (absl::IsAborted(loaded)) EndVm();
    if (!told_unread) told_unread = TellUnread();
    if (!ended && loaded.ok()) AwaitStreamEnd(look);
    if (recording && ended && (loaded.ok() || SinceBegun() >= recorded_by)) {
      recording = false;
      WriteRecord();
      StartEager();
    }
  } while (!ended || !loaded.ok());

  {
    absl::MutexLock lock(&mu_);
    NoteCompletion();
    const absl::Status detached = loader_->Detach();
    if (!detached.ok()) Say(std::string(detached.message()));
  }
  End();
  loader_->Collapse();
}

// The reasons for what is lost, each once, and the statistics with them: a page is poisoned, of
// which the guest or QEMU itself may die, only when this has been said.
void Session::TellErrors() {
  const LoadStats::Untold errors = loader_->TakeUntold();
  const std::string stopped(loader_->stopped_why().message());  // which EndVm() says
  for (const std::string& message : errors.messages) {
    if (message != stopped) Say(message);
  }
  if (!errors.messages.empty()) WriteStats();
  loader_->MarkTold(errors);
}

// True: pages have not come ahead of need for a second and more, and this has been said.
bool Session::TellUnread() {
  const LoadStats::Unread unread = loader_->stats().unread();
  if (unread.why.empty() || unread.for_ns < 1'000'000'000) return false;
  Say(absl::StrCat("pages cannot be loaded ahead, and are tried again: ", unread.why));
  WriteStats();
  return true;
}

void Session::EndVm() {
  WriteFiles();
  Say(absl::StrCat(loader_->stopped_why().message(),
                   ": the VM is ended, for it cannot go on without that page"));
  _exit(1);
}

void Session::NotePunch(int fd, uint64_t offset, uint64_t length) {
  struct stat status;
  if (snapshot_ == nullptr || over() || fstat(fd, &status) != 0) return;
  for (const size_t index : by_offset_) {
    const Block& block = blocks_[index];
    if (block.mode.load(std::memory_order_acquire) != Mode::kLazy) continue;
    if (block.backing_inode != status.st_ino || block.backing_device != status.st_dev) continue;
    // The hole in the block's own bytes.
    const uint64_t block_length = snapshot_->blocks()[index].used_length;
    const uint64_t hole_end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
    const uint64_t start = std::max(offset, block.backing_offset) - block.backing_offset;
    const uint64_t end =
        std::min(std::max(hole_end, block.backing_offset) - block.backing_offset, block_length);
    if (start < end) loader_->Discard(block.host + start, block.host + end);
  }
}

bool Session::IsBeingLoaded(int fd) {
  const ino_t inode = loading_inode_.load(std::memory_order_acquire);
  if (inode == 0) return false;
  const int before = errno;
  struct stat status;
  const bool same = fstat(fd, &status) == 0 && status.st_ino == inode;
  errno = before;
  return same;
}

void Session::FinishBefore(int fd) {
  struct stat status;
  if (fstat(fd, &status) == 0) FinishBefore(status);
}

void Session::FinishBefore(const struct stat& file) {
  if (snapshot_ == nullptr || over()) return;
  bool ours = file.st_dev == snapshot_->file().device() && file.st_ino == snapshot_->file().inode();
  for (const size_t index : by_offset_) {
    const Block& block = blocks_[index];
    ours = ours || (block.mode.load(std::memory_order_acquire) == Mode::kLazy &&
                    block.backing_inode == file.st_ino && block.backing_device == file.st_dev);
  }
  if (ours) LoadAttached();
}

void Session::LoadAttached() {
  {
    absl::MutexLock lock(&mu_);
    if (loader_ == nullptr || over()) return;
  }
  const absl::Status loaded = loader_->Finish();
  // Nothing that the caller is about to do may happen to a guest that is not whole.
  while (absl::IsAborted(loaded)) pause();  // Run() ends the VM
}

void Session::FinishAll() {
  LoadAttached();
  if (stream_ended()) over_.WaitForNotification();
}

void Session::Retire() {
  EndStream();
  LoadAttached();
  over_.WaitForNotification();
}

// The process may end right after its last page, before the thread that waits for it has woken.
void Session::NoteCompletion() {
  if (!to_complete_ && stream_ended() && loader_ != nullptr && loader_->complete()) {
    to_complete_ = SinceBegun();
  }
}

void Session::WriteFiles() {
  WriteRecord();
  WriteStats();
}

void Session::WriteRecord() {
  absl::MutexLock lock(&mu_);
  if (settings_.record_path.empty() || std::exchange(record_written_, true)) return;
  const absl::Status written = loader_ != nullptr
                                   ? loader_->SaveWorkingSet(settings_.record_path)
                                   : absl::FailedPreconditionError("nothing was loaded lazily");
  if (!written.ok()) Say(absl::StrCat("no working set is recorded: ", written.message()));
}

void Session::WriteStats() {
  absl::MutexLock lock(&mu_);
  NoteCompletion();
  if (settings_.stats_path.empty()) return;
  const absl::Status written =
      ReplaceFile(settings_.stats_path,
                  FormatStats(CollectStats(), loader_ == nullptr ? nullptr : &loader_->stats()));
  if (!written.ok()) Say(absl::StrCat("cannot write statistics: ", written.message()));
}

StatsContent Session::CollectStats() const {
  StatsContent content;
  content.lazy = false;
  content.complete = to_complete_.has_value();
  content.fallback = fallback_;
  content.to_resume = absl::Nanoseconds(last_answer_ns_.load());
  content.to_complete = to_complete_.value_or(absl::InfiniteDuration());
  if (loader_ != nullptr) {
    const SnapshotLoader::PageCounts lazy = loader_->attached_pages();
    content.lazy_pages = lazy.total;
    content.lazy_nonzero_pages = lazy.nonzero;
    content.missing_pages = lazy.missing;
    content.cpu = absl::Nanoseconds(static_cast<int64_t>(loader_->cpu_ns()));
  }
  if (snapshot_ != nullptr) {
    for (size_t i = 0; i < snapshot_->blocks().size(); ++i) {
      const SnapshotBlock& block = snapshot_->blocks()[i];
      content.blocks.push_back({.idstr = block.idstr,
                                .pages = block.pages(),
                                .nonzero = block.nonzero_pages,
                                .lazy = blocks_[i].mode.load() == Mode::kLazy});
      content.lazy = content.lazy || content.blocks.back().lazy;
    }
  }
  return content;
}

}  // namespace ramjet
