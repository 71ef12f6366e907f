// Tells whether an open file was written to since it was opened.
#ifndef RAMJET_MAPPEDRAM_FILE_WATCH_H_
#define RAMJET_MAPPEDRAM_FILE_WATCH_H_

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace ramjet {

// Compares a file's size and times with those that it had when it was opened.
//
// A file of another size was written to. One of another modification time may have been written to,
// or somebody has set its times (touch, rsync, tar). The kernel tells which through inotify: the
// first is IN_MODIFY, the second IN_ATTRIB alone. So a changed modification time is a write unless
// inotify was watching and has shown IN_ATTRIB without IN_MODIFY. It is also a write where inotify
// cannot be had (no /proc, the user's limit is reached) or has lost events, and where somebody has
// set the modification time but not the access time (touch -m): the kernel reports IN_MODIFY then.
//
// Inotify does not see writes through a mapping, and those of another host to a network file
// system. They change the modification time without an event, which counts as a write. But somebody
// who sets the times as well can hide them, and then only checksums tell.
//
// Threads: every method may be called concurrently. Check() takes no lock while nothing changes.
class FileWatch {
 public:
  // `opened` is what fstat() said when the file was opened.
  explicit FileWatch(const struct stat& opened);
  // The kernel may take some milliseconds to end a watch.
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // Watches the file from now on by inotify, if that is possible. Requires /proc.
  void Start(int fd) ABSL_LOCKS_EXCLUDED(mu_);

  // `fd` is the file, and `name` what messages call it. DataLoss: it was written to; from then on
  // that is the answer. Unavailable: this cannot be told now, and a later call may tell.
  absl::Status Check(int fd, const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::Status CheckClosely(int fd, const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);
  void ReadEvents() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Stop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint64_t size_;

  // Written under mu_. relaxed: a reader of an old value takes the lock, and sees the new one.
  std::atomic<int64_t> modified_ns_;
  std::atomic<int64_t> changed_ns_;       // attributes, too; nobody can set this one
  std::atomic<bool> look_closer_{false};  // even if size and times are the same

  absl::Mutex mu_;
  int inotify_fd_ ABSL_GUARDED_BY(mu_) = -1;  // -1: not watching
  bool written_ ABSL_GUARDED_BY(mu_) = false;
  bool attributes_set_ ABSL_GUARDED_BY(mu_) = false;  // an event says so of times not accepted yet
  bool unsettled_ ABSL_GUARDED_BY(mu_) = false;       // times have changed, and no event says why
  std::chrono::steady_clock::time_point unsettled_since_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_FILE_WATCH_H_
