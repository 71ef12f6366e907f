// Shared guest memory that leaves this process: by a descriptor that is sent to another process, or
// that survives an exec.
#ifndef RAMJET_TOOLS_PRELOAD_EXEC_GUARD_H_
#define RAMJET_TOOLS_PRELOAD_EXEC_GUARD_H_

#include <pthread.h>
#include <semaphore.h>
#include <sys/types.h>

#include <atomic>
#include <functional>

#include "absl/status/status.h"
#include "tools/preload/file_set.h"

namespace ramjet {

// Another process that maps our shared memory takes its faults by itself: what we have not loaded
// yet it would see as zeros. The same is true of the program that this process becomes by an exec:
// our threads and the userfaultfd do not survive it, the memory behind an inherited descriptor
// does. So memory that has left is not loaded lazily, and memory that is being loaded is loaded to
// the end before it leaves.
//
// A process that execs may be a forked child, in which none of our threads runs. So all of this
// lies in memory that the children share. The guard's own thread, in the process that loads, holds
// a robust mutex until nothing is owed any more. Whoever wants to let memory leave posts a request
// to that thread, and locks the mutex. The kernel hands over a robust mutex, and says so, when its
// owner dies; then what is owed never comes.
//
// Threads: every method may be called concurrently; those under "leaving", also in a forked child,
// even one of vfork().
class ExecGuard {
 public:
  // That of this process, and of the children that it forks from now on. Made by the first call.
  static ExecGuard& Get();
  // The same, or nullptr before the first call of Get().
  static ExecGuard* Existing();

  // --- loading ---

  // Starts the guard's thread, and returns when that holds back threads that want to exec. It runs
  // `finish` if somebody waits for that, which has to load everything that is owed. It ends when
  // `finish` returns, or at Release().
  absl::Status Hold(std::function<void()> finish);
  // Nothing is owed any more.
  void Release();
  // That file is guest memory which is about to be loaded lazily. FailedPrecondition if it has left
  // already. REQUIRES: Hold() has returned OK.
  absl::Status Admit(dev_t device, ino_t inode);

  // --- leaving ---

  // A descriptor of that file is about to be given to another process. Waits until nothing of the
  // file is owed. False if that never comes, because the process that was loading it has ended.
  bool Leave(dev_t device, ino_t inode);
  // The same of every descriptor that survives an exec by the calling process. If it is false, the
  // reason has been said on stderr, errno is EIO, and there must be no exec.
  bool BeforeExec();
  // The same of one descriptor, whatever its FD_CLOEXEC.
  bool BeforeInheriting(int fd);

 private:
  ExecGuard();
  void Run(const std::function<void()>& finish);
  // Waits until nothing at all is owed.
  bool AwaitAll();

  FileSet gone_;                    // files of which others have, or had, a descriptor
  FileSet owing_;                   // files into which this process loads, or has loaded
  std::atomic<bool> asked_{false};  // somebody was, or is, held back
  sem_t requests_;
  pthread_mutex_t owed_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_EXEC_GUARD_H_
