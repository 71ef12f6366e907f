// One incoming migration of the process that we are preloaded into, from its first byte to the last
// page.
#ifndef RAMJET_TOOLS_PRELOAD_SESSION_H_
#define RAMJET_TOOLS_PRELOAD_SESSION_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "loader/moments.h"
#include "loader/snapshot_loader.h"
#include "loader/stats_json.h"
#include "loader/thread.h"
#include "mappedram/checksums.h"
#include "mappedram/snapshot.h"
#include "tools/preload/exec_guard.h"
#include "tools/preload/settings.h"

namespace ramjet {

// Answers QEMU's page reads without reading, block by block where that is safe, and loads the pages
// behind its back. Where it is not safe, or anything at all is odd, the read is QEMU's own, which
// is always right: a read depends on nothing but the file.
//
// With checksums, nothing unchecked gets into the guest: what QEMU has read itself is compared in
// its memory, and a file that cannot be compared, or is not as it was saved, ends the process.
//
// A session begins with the first bytes of a stream, and lasts until every page is there and QEMU
// has read the stream to its end. It is shared by the calls that are under way and its own thread.
//
// Threads: all methods may be called concurrently, by any thread of the process but the loader's.
class Session : public std::enable_shared_from_this<Session> {
 public:
  ~Session();

  // `fd` has just given the first bytes of a migration stream that begins at `stream_offset`. Never
  // fails: without checksums, a file that is not fit makes a session that answers nothing and
  // remembers why.
  // `device_fd` is an open /dev/userfaultfd, which the session closes, or -1; `guard` outlives the
  // session.
  static std::shared_ptr<Session> Begin(int fd, uint64_t stream_offset, const Settings& settings,
                                        int device_fd, ExecGuard& guard);

  // Nothing is left to be done for it.
  bool over() const { return over_.HasBeenNotified(); }

  // pread of `length` bytes at `offset` to `to`: true if it has been dealt with, and is to be
  // answered with `length`.
  bool AnswerRead(int fd, uintptr_t to, size_t length, uint64_t offset);

  // A read that was not answered has brought `bytes`, from `offset` on.
  void CheckRead(int fd, absl::Span<const uint8_t> bytes, uint64_t offset);

  // Says why nothing vouches for what is being loaded, and ends the process with exit status 1.
  [[noreturn]] static void EndUnchecked(const std::string& why);

  // `fd`, from which the stream is read, has been read at its own position. True once the stream
  // has been read to its end.
  bool NoteStreamRead(int fd);

  // Whether `fd` is of the file that a session loads from; of two file systems' files with the same
  // inode number, either may do. Async-signal-safe.
  static bool IsBeingLoaded(int fd);

  // Bytes [offset, offset + length) of the file `fd`, perhaps the backing of a block, are about to
  // be punched out.
  void NotePunch(int fd, uint64_t offset, uint64_t length);

  // The file is about to be given to another process, or to be changed: if it is memory that is
  // being loaded, or the file that it is loaded from, loads all that is left first.
  void FinishBefore(int fd);
  void FinishBefore(const struct stat& file);

  // Loads all that is left; if the stream has ended, ends the session, too.
  void FinishAll();

  // There will be no more reads for this session: loads all that is left and ends it.
  void Retire();

  // For the end of the process, which may come at any time: writes the statistics as they stand,
  // and the working set if that is wanted and not written yet.
  void WriteFiles() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  enum class Mode { kUndecided, kLazy, kStock };
  struct Block {
    std::atomic<Mode> mode{Mode::kUndecided};
    // Constant once `mode` is kLazy.
    uintptr_t host = 0;
    dev_t backing_device = 0;
    ino_t backing_inode = 0;  // 0: private memory
    uint64_t backing_offset = 0;
    // Of its content, what QEMU has read itself.
    std::atomic<uint64_t> read_bytes{0};
  };

  Session(const Settings& settings, int device_fd, ExecGuard& guard)
      : settings_(settings), device_fd_(device_fd), guard_(guard) {}
  absl::Status Open(int fd, uint64_t stream_offset);
  std::optional<size_t> FindBlock(uint64_t offset, size_t length) const;
  bool IsSnapshotFile(int fd) const;
  bool Decide(size_t index, uintptr_t host) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status GuardShared(dev_t device, ino_t inode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status MakeLazy(size_t index, uintptr_t host) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status StartLoader() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  [[noreturn]] void Refuse(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  void CheckAllIsRead() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Duration SinceBegun() const {
    return absl::Nanoseconds(static_cast<int64_t>(MonotonicNs() - begun_ns_));
  }
  bool stream_ended() const { return stream_ended_.count() > 0; }
  void AwaitStreamEnd(absl::Duration timeout) const;
  void EndStream();
  void End();
  void LoadAttached() ABSL_LOCKS_EXCLUDED(mu_);
  void Run();
  void TellErrors();
  bool TellUnread();
  [[noreturn]] void EndVm();
  void StartEager();
  void WriteStats() ABSL_LOCKS_EXCLUDED(mu_);
  void WriteRecord() ABSL_LOCKS_EXCLUDED(mu_);
  void NoteCompletion() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  StatsContent CollectStats() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after Begin().
  const Settings settings_;
  const int device_fd_;
  ExecGuard& guard_;
  const uint64_t begun_ns_ = MonotonicNs();
  std::shared_ptr<Snapshot> snapshot_;       // nullptr: refused
  std::optional<BoundChecksums> checksums_;  // for what QEMU reads itself; none unless asked for
  std::unique_ptr<Block[]> blocks_;          // parallel to snapshot_->blocks()
  std::vector<size_t> by_offset_;            // indexes of blocks with pages, by rising pages_offset

  // Thread-safe themselves.
  std::atomic<int64_t> last_answer_ns_{0};  // SinceBegun()
  Moments stream_ended_;                    // one: it has
  std::atomic<bool> stream_ending_{false};  // the thread that sets it notes that moment
  absl::Notification over_;
  std::shared_ptr<Session> keep_alive_;  // itself, until it is over

  static std::atomic<ino_t> loading_inode_;  // of the snapshot; 0: there is no session

  absl::Mutex mu_;
  std::string fallback_ ABSL_GUARDED_BY(mu_);  // the first reason why something is not lazy
  bool record_written_ ABSL_GUARDED_BY(mu_) = false;
  bool guarded_ ABSL_GUARDED_BY(mu_) = false;  // guard_ holds back a thread that wants to exec
  std::optional<absl::Duration> to_complete_ ABSL_GUARDED_BY(mu_);

  // Set once, by the first lazy block, under mu_; read by threads that have seen a kLazy block.
  std::unique_ptr<SnapshotLoader> loader_;
  bool looked_around_ ABSL_GUARDED_BY(mu_) = false;  // at what else the process has open
  absl::Status loader_status_ ABSL_GUARDED_BY(mu_);  // why there is none, if one was wanted
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_SESSION_H_
