// The files whose descriptors this process has given to others.
#ifndef RAMJET_TOOLS_PRELOAD_PASSED_FILES_H_
#define RAMJET_TOOLS_PRELOAD_PASSED_FILES_H_

#include <sys/types.h>

#include <array>
#include <cstddef>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ramjet {

// Another process that maps our shared memory (vhost-user, vfio-user) takes its faults by itself:
// what we have not loaded yet it would see as zeros. So memory that was passed on is not loaded
// lazily.
//
// Remembers only so many; beyond that, everything counts as passed.
//
// Threads: every method may be called concurrently.
class PassedFiles {
 public:
  void Add(dev_t device, ino_t inode) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (count_ < files_.size()) files_[count_] = {device, inode};
    ++count_;
  }
  bool Contains(dev_t device, ino_t inode) const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (count_ > files_.size()) return true;
    for (size_t i = 0; i < count_; ++i) {
      if (files_[i].device == device && files_[i].inode == inode) return true;
    }
    return false;
  }

 private:
  struct File {
    dev_t device;
    ino_t inode;
  };
  mutable absl::Mutex mu_;
  std::array<File, 1024> files_ ABSL_GUARDED_BY(mu_);
  size_t count_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_PASSED_FILES_H_
