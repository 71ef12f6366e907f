// A userfaultfd descriptor, with the errno of each ioctl folded into a word.
#ifndef RAMJET_UFFD_USERFAULTFD_H_
#define RAMJET_UFFD_USERFAULTFD_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ramjet {

// How an installing ioctl ended.
enum class InstallResult {
  kDone,      // the whole range is installed
  kExists,    // the page after the installed ones is there already (EEXIST)
  kAgain,     // the mapping is changing: an event waits to be read, or its thread has not run yet
              // (EAGAIN)
  kGone,      // the rest is no longer inside one registered mapping (ENOENT), or the process ends
              // (ESRCH)
  kNoMemory,  // ENOMEM, and ENOSPC of shared memory and of huge pages
  kNothing,   // Continue: nothing is in the page cache there (EFAULT)
  kRefused,   // the kernel cannot do this here: EBUSY or EINVAL of Move, or an errno not listed
              // above
};

// Bytes [0, length) of the range are installed; `result` says why it is not more.
struct Installed {
  InstallResult result;
  uint64_t length;
};

// What the kernel can do in a range.
struct RangeAbilities {
  bool zero;  // Zero(); false for hugetlb, where zeros have to be copied
};

// A descriptor for missing pages of this process's own memory. Closes itself.
//
// Closing it while pages of a registered range are missing would hand the guest zero pages without
// a word (docs/design.md, promise 7): unregister first, which must only be done when everything
// owed is installed.
//
// Addresses and lengths are multiples of the page size of the memory they lie in.
//
// Threads: every method may be called concurrently. Move construction and move assignment may not.
class Userfaultfd {
 public:
  struct Features {
    bool remove_events = false;  // discards are reported as events
    bool unmap_events = false;   // and so is munmap
    bool minor_shmem = false;    // Continue() of memfd and tmpfs, since Linux 5.14
    bool minor_hugetlb = false;  // Continue() of huge pages, since Linux 5.13
    bool poison = false;         // since Linux 6.6
    bool move = false;           // since Linux 6.8
  };
  static constexpr char kDevice[] = "/dev/userfaultfd";

  // Opens a descriptor that sees kernel-mode faults too (KVM, vhost, O_DIRECT), and asks for those
  // Features that this kernel has. Tries `device_fd` if that is an open kDevice, then kDevice
  // (Linux 6.1), then userfaultfd(2). FailedPrecondition says which permission is missing and
  // what would give it; Unimplemented: the kernel has no userfaultfd.
  static absl::StatusOr<Userfaultfd> Open(int device_fd = -1);

  // The same with a duplicate of `fd`, a userfaultfd of this process with or without its
  // UFFDIO_API. What was asked for there is what there is: FailedPrecondition if discards would go
  // unreported, or if events would come, or signals, that nobody here can answer. InvalidArgument:
  // it is no userfaultfd.
  static absl::StatusOr<Userfaultfd> Adopt(int fd);

  // Whether `fd` is an open kDevice. A descriptor that was kept for long may be somebody else's by
  // now.
  static bool IsDevice(int fd);

  Userfaultfd(Userfaultfd&& other) noexcept;
  Userfaultfd& operator=(Userfaultfd&& other) noexcept;
  ~Userfaultfd();

  int fd() const { return fd_; }
  const Features& features() const { return features_; }

  // After the return, a thread that touches a missing page of [addr, addr + length) sleeps until it
  // is installed; with `minor` also one that touches a page that is in the page cache and not
  // mapped here. FailedPrecondition: not anonymous, shared or hugetlb memory, or registered
  // elsewhere.
  absl::StatusOr<RangeAbilities> Register(uintptr_t addr, uint64_t length,
                                          bool minor = false) const;
  // Wakes all threads that sleep there; pages still missing are the kernel's to fill from then on.
  absl::Status Unregister(uintptr_t addr, uint64_t length) const;

  // None of these wakes anyone: the caller notes the arrival first and calls Wake() then.
  Installed Copy(uintptr_t addr, const void* from, uint64_t length) const;
  Installed Zero(uintptr_t addr, uint64_t length) const;
  // Maps what is in the page cache, of shared memory. REQUIRES: registered with `minor`.
  Installed Continue(uintptr_t addr, uint64_t length) const;
  // Moves the pages of `from` themselves, whole huge pages where both sides are aligned to one and
  // nothing of it is present at `addr`. `from` is private anonymous memory of this process, all
  // present; what has moved is missing there afterwards. REQUIRES: features().move.
  Installed Move(uintptr_t addr, void* from, uint64_t length) const;
  // Every access to the range is a SIGBUS (in a guest, a machine check) from now on. REQUIRES:
  // features().poison.
  Installed Poison(uintptr_t addr, uint64_t length) const;

  // Wakes all threads that sleep on a page of the range; those whose page is missing still come
  // back as a new event.
  void Wake(uintptr_t addr, uint64_t length) const;

 private:
  Userfaultfd(int fd, Features features) : fd_(fd), features_(features) {}

  int fd_ = -1;
  Features features_;
};

}  // namespace ramjet

#endif  // RAMJET_UFFD_USERFAULTFD_H_
