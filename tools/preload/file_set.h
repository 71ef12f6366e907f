// Files, known by device and inode, of which this process and the children that it forks keep a
// list together.
#ifndef RAMJET_TOOLS_PRELOAD_FILE_SET_H_
#define RAMJET_TOOLS_PRELOAD_FILE_SET_H_

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>

namespace ramjet {

// Holds so many files; if more are added, it counts every file as contained.
//
// Without locks, so it works in memory shared with forked children, which have no use of a lock
// that another thread held when they were forked. All zeros is an empty set.
//
// Threads: every method may be called concurrently, by every process that shares the memory.
// Memory order: sequentially consistent. Of two threads that each add to one set and then look into
// the other's, at least one finds what the other has added.
class FileSet {
 public:
  void Add(dev_t device, ino_t inode) {
    if (Contains(device, inode)) return;
    const size_t index = count_.fetch_add(1);
    if (index >= files_.size()) return;
    files_[index].device.store(device);
    files_[index].inode.store(inode);
  }
  bool Contains(dev_t device, ino_t inode) const {
    const size_t count = count_.load();
    if (count > files_.size()) return true;
    for (size_t i = 0; i < count; ++i) {
      if (files_[i].inode.load() == inode && files_[i].device.load() == device) return true;
    }
    return false;
  }

  // From now on every file is contained.
  void AddAll() { count_.store(files_.size() + 1); }

 private:
  struct File {
    std::atomic<dev_t> device;
    std::atomic<ino_t> inode;  // written last; 0: not yet
  };
  std::array<File, 1024> files_{};
  std::atomic<size_t> count_{0};
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_FILE_SET_H_
