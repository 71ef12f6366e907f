// The kernel's userfaultfd interface, in our own words and with its exact encodings.
//
// The system's <linux/userfaultfd.h> is often older than the running kernel (Debian 12 knows
// nothing of MOVE and POISON), so everything is declared here and asked for at run time. Sources:
// Linux 6.18 include/uapi/linux/userfaultfd.h; "since" is the kernel version that brought a thing.
#ifndef RAMJET_UFFD_UAPI_H_
#define RAMJET_UFFD_UAPI_H_

#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

namespace ramjet::uapi {

inline constexpr uint64_t kApi = 0xAA;

// Features, asked for in Api::features.
inline constexpr uint64_t kFeaturePagefaultFlagWp = 1u << 0;    // since 5.7
inline constexpr uint64_t kFeatureEventFork = 1u << 1;          // since 4.11
inline constexpr uint64_t kFeatureEventRemap = 1u << 2;         // since 4.11
inline constexpr uint64_t kFeatureEventRemove = 1u << 3;        // since 4.11
inline constexpr uint64_t kFeatureMissingHugetlbfs = 1u << 4;   // since 4.11
inline constexpr uint64_t kFeatureMissingShmem = 1u << 5;       // since 4.11
inline constexpr uint64_t kFeatureEventUnmap = 1u << 6;         // since 4.11
inline constexpr uint64_t kFeatureSigbus = 1u << 7;             // since 4.14
inline constexpr uint64_t kFeatureThreadId = 1u << 8;           // since 4.14
inline constexpr uint64_t kFeatureMinorHugetlbfs = 1u << 9;     // since 5.13
inline constexpr uint64_t kFeatureMinorShmem = 1u << 10;        // since 5.14
inline constexpr uint64_t kFeatureExactAddress = 1u << 11;      // since 5.18
inline constexpr uint64_t kFeatureWpHugetlbfsShmem = 1u << 12;  // since 5.19
inline constexpr uint64_t kFeatureWpUnpopulated = 1u << 13;     // since 6.4
inline constexpr uint64_t kFeaturePoison = 1u << 14;            // since 6.6
inline constexpr uint64_t kFeatureWpAsync = 1u << 15;           // since 6.7
inline constexpr uint64_t kFeatureMove = 1u << 16;              // since 6.8

// userfaultfd(2) flag: faults from kernel mode fail. Useless for a guest, whose faults come from
// KVM and vhost.
inline constexpr int kUserModeOnly = 1;

inline constexpr uint64_t kRegisterModeMissing = 1u << 0;
inline constexpr uint64_t kRegisterModeMinor = 1u << 2;
inline constexpr uint64_t kModeDontWake = 1u << 0;  // of everything that installs
inline constexpr uint64_t kMoveModeAllowSrcHoles = 1u << 1;

struct Range {
  uint64_t start;
  uint64_t len;
};
struct Api {
  uint64_t api;
  uint64_t features;
  uint64_t ioctls;
};
struct Register {
  Range range;
  uint64_t mode;
  uint64_t ioctls;  // out: 1 << number of each ioctl that works on the range
};
// `copy`, and its like below, is written by the kernel: bytes done, or a negative errno. Kernels
// before 6.15 leave it alone on EAGAIN, so it has to be 0 before the call.
struct Copy {
  uint64_t dst;
  uint64_t src;
  uint64_t len;
  uint64_t mode;
  int64_t copy;
};
struct ZeroPage {
  Range range;
  uint64_t mode;
  int64_t zeropage;
};
struct Continue {
  Range range;
  uint64_t mode;
  int64_t mapped;
};
struct Poison {
  Range range;
  uint64_t mode;
  int64_t updated;
};
struct Move {
  uint64_t dst;
  uint64_t src;
  uint64_t len;
  uint64_t mode;
  int64_t move;
};

inline constexpr unsigned kNrCopy = 3, kNrZeroPage = 4, kNrMove = 5, kNrContinue = 7, kNrPoison = 8;

inline constexpr unsigned long kIoctlApi = _IOWR(0xAA, 0x3F, Api);
inline constexpr unsigned long kIoctlRegister = _IOWR(0xAA, 0x00, Register);
inline constexpr unsigned long kIoctlUnregister = _IOR(0xAA, 0x01, Range);
inline constexpr unsigned long kIoctlWake = _IOR(0xAA, 0x02, Range);
inline constexpr unsigned long kIoctlCopy = _IOWR(0xAA, kNrCopy, Copy);
inline constexpr unsigned long kIoctlZeroPage = _IOWR(0xAA, kNrZeroPage, ZeroPage);
inline constexpr unsigned long kIoctlMove = _IOWR(0xAA, kNrMove, Move);
inline constexpr unsigned long kIoctlContinue = _IOWR(0xAA, kNrContinue, Continue);
inline constexpr unsigned long kIoctlPoison = _IOWR(0xAA, kNrPoison, Poison);
inline constexpr unsigned long kIoctlNew = _IO(0xAA, 0x00);  // on /dev/userfaultfd, since 6.1

// A wrong direction bit makes the kernel answer EINVAL to every call, which a caller that ignores
// the answer never sees.
static_assert(kIoctlApi == 0xc018aa3f);
static_assert(kIoctlRegister == 0xc020aa00);
static_assert(kIoctlUnregister == 0x8010aa01);
static_assert(kIoctlWake == 0x8010aa02);
static_assert(kIoctlCopy == 0xc028aa03);
static_assert(kIoctlZeroPage == 0xc020aa04);
static_assert(kIoctlMove == 0xc028aa05);
static_assert(kIoctlContinue == 0xc020aa07);
static_assert(kIoctlPoison == 0xc020aa08);
static_assert(kIoctlNew == 0xaa00);

inline constexpr uint8_t kEventPageFault = 0x12;
inline constexpr uint8_t kEventRemove = 0x15;
inline constexpr uint8_t kEventUnmap = 0x16;

inline constexpr uint64_t kPageFaultFlagWp = 1u << 1;
inline constexpr uint64_t kPageFaultFlagMinor = 1u << 2;

// What read(2) returns, one or more at a time.
struct Message {
  uint8_t event;
  uint8_t reserved[7];
  union {
    struct {
      uint64_t flags;
      uint64_t address;
      uint32_t ptid;
    } pagefault;
    struct {
      uint64_t start;
      uint64_t end;
    } remove;  // of kEventUnmap, too
    uint64_t words[3];
  } arg;
};
static_assert(sizeof(Message) == 32);
static_assert(offsetof(Message, arg) == 8);

}  // namespace ramjet::uapi

#endif  // RAMJET_UFFD_UAPI_H_
