#include "uffd/userfaultfd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "uffd/uapi.h"

namespace ramjet {
namespace {

// How to come by a new descriptor. The choice is made once, for the handshake needs two: UFFDIO_API
// succeeds only once on each.
struct Origin {
  int device_fd;  // -1: the system call
  int NewFd() const {
    constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;  // without O_NONBLOCK, poll() says POLLERR
    return static_cast<int>(device_fd >= 0 ? ioctl(device_fd, uapi::kIoctlNew, kFlags)
                                           : syscall(SYS_userfaultfd, kFlags));
  }
};

constexpr uint64_t kWanted = uapi::kFeatureEventRemove | uapi::kFeatureEventUnmap |
                             uapi::kFeatureMinorHugetlbfs | uapi::kFeatureMinorShmem |
                             uapi::kFeaturePoison | uapi::kFeatureMove;
// What of a descriptor that somebody else has set up does no harm: it changes nothing of missing
// pages, or only says more of them. Whatever else there is or will be may.
constexpr uint64_t kHarmless =
    kWanted | uapi::kFeaturePagefaultFlagWp | uapi::kFeatureMissingHugetlbfs |
    uapi::kFeatureMissingShmem | uapi::kFeatureThreadId | uapi::kFeatureExactAddress |
    uapi::kFeatureWpHugetlbfsShmem | uapi::kFeatureWpUnpopulated | uapi::kFeatureWpAsync;
// In the features that fdinfo shows: UFFDIO_API has been called (fs/userfaultfd.c, since 5.15).
constexpr uint64_t kFeatureInitialized = uint64_t{1} << 31;

Userfaultfd::Features FeaturesOf(uint64_t features) {
  return {.remove_events = (features & uapi::kFeatureEventRemove) != 0,
          .unmap_events = (features & uapi::kFeatureEventUnmap) != 0,
          .minor_shmem = (features & uapi::kFeatureMinorShmem) != 0,
          .minor_hugetlb = (features & uapi::kFeatureMinorHugetlbfs) != 0,
          .poison = (features & uapi::kFeaturePoison) != 0,
          .move = (features & uapi::kFeatureMove) != 0};
}

// FailedPrecondition if we cannot serve a descriptor that was set up with these.
absl::Status CheckSetUp(uint64_t features) {
  if ((features & uapi::kFeatureEventRemove) == 0) {
    return absl::FailedPreconditionError(
        "the userfaultfd was set up without UFFD_FEATURE_EVENT_REMOVE: what the guest discards "
        "would come back");
  }
  const uint64_t harmful = features & ~kHarmless;
  if (harmful == 0) return absl::OkStatus();
  const uint64_t first = harmful & -harmful;
  const std::string name =
      first == uapi::kFeatureEventFork    ? "UFFD_FEATURE_EVENT_FORK: a child would wait for ever"
      : first == uapi::kFeatureEventRemap ? "UFFD_FEATURE_EVENT_REMAP: who moves memory, and "
                                            "touches it then, would wait for ever"
      : first == uapi::kFeatureSigbus
          ? "UFFD_FEATURE_SIGBUS: who touches a missing page would get a signal, and not the page"
          : absl::StrFormat("feature %#x, which this version of ramjet does not know", first);
  return absl::FailedPreconditionError(
      absl::StrCat("the userfaultfd was set up with ", name, "; set it up without"));
}

// The features that were asked for on a userfaultfd; nullopt if it is none.
std::optional<uint64_t> ReadFeatures(int fd) {
  std::ifstream fdinfo(absl::StrCat("/proc/self/fdinfo/", fd));
  for (std::string line; std::getline(fdinfo, line);) {
    uint64_t api = 0;
    uint64_t features = 0;
    if (std::sscanf(line.c_str(), "API: %" SCNx64 ":%" SCNx64, &api, &features) == 2) {
      return features;
    }
  }
  return std::nullopt;
}

absl::Status OpenError(int device_errno, int syscall_errno) {
  if (syscall_errno == ENOSYS) {
    return absl::UnimplementedError(
        "this kernel has no userfaultfd (CONFIG_USERFAULTFD, Linux 4.11 or later)");
  }
  if (syscall_errno != EPERM) {
    return absl::FailedPreconditionError(
        absl::StrCat("userfaultfd: ", std::strerror(syscall_errno)));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("no permission to serve page faults: ", Userfaultfd::kDevice, ": ",
                   std::strerror(device_errno),
                   ", and userfaultfd(2) wants CAP_SYS_PTRACE or sysctl "
                   "vm.unprivileged_userfaultfd=1; give this user read and write "
                   "access to ",
                   Userfaultfd::kDevice, " (setfacl -m u:USER:rw ", Userfaultfd::kDevice, ")"));
}

// Both directions of one rule: issue until the kernel has done all or says why not. `done` is the
// ioctl's result field.
template <typename Args, typename Advance>
Installed Repeat(int fd, unsigned long request, uint64_t length, int64_t Args::*done,
                 Advance args_at) {
  uint64_t installed = 0;
  while (installed < length) {
    Args args = args_at(installed);
    args.*done = 0;
    if (ioctl(fd, request, &args) == 0) return {InstallResult::kDone, length};
    // A short call says EAGAIN and how far it came; only the next call tells why it stopped.
    if (errno == EAGAIN && args.*done > 0) {
      installed += static_cast<uint64_t>(args.*done);
      continue;
    }
    switch (errno) {
      case EINTR:
        continue;
      case EAGAIN:
        return {InstallResult::kAgain, installed};
      case EEXIST:
        return {InstallResult::kExists, installed};
      case ENOENT:
      case ESRCH:
        return {InstallResult::kGone, installed};
      case ENOMEM:
      case ENOSPC:
        return {InstallResult::kNoMemory, installed};
      case EFAULT:
        return {InstallResult::kNothing, installed};
      default:
        return {InstallResult::kRefused, installed};
    }
  }
  return {InstallResult::kDone, length};
}

}  // namespace

bool Userfaultfd::IsDevice(int fd) {
  struct stat given, device;
  return fd >= 0 && fstat(fd, &given) == 0 && stat(kDevice, &device) == 0 &&
         S_ISCHR(given.st_mode) && given.st_rdev == device.st_rdev;
}

absl::StatusOr<Userfaultfd> Userfaultfd::Open(int device_fd) {
  const bool given = IsDevice(device_fd);
  Origin origin{given ? device_fd : open(kDevice, O_RDWR | O_CLOEXEC)};
  const int device_errno = errno;
  int probe = origin.NewFd();
  if (probe < 0 && origin.device_fd >= 0) {
    if (!given) close(origin.device_fd);
    origin.device_fd = -1;
    probe = origin.NewFd();
  }
  if (probe < 0) return OpenError(device_errno, errno);

  uapi::Api api{.api = uapi::kApi, .features = 0, .ioctls = 0};
  const int probed = ioctl(probe, uapi::kIoctlApi, &api);
  close(probe);
  int fd = probed == 0 ? origin.NewFd() : -1;
  if (origin.device_fd >= 0 && !given) close(origin.device_fd);
  if (fd < 0) {
    return absl::FailedPreconditionError(absl::StrCat("userfaultfd: ", std::strerror(errno)));
  }

  const uint64_t features = api.features & kWanted;
  Userfaultfd result(fd, FeaturesOf(features));
  api = {.api = uapi::kApi, .features = features, .ioctls = 0};
  if (ioctl(fd, uapi::kIoctlApi, &api) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("UFFDIO_API with features %#x: %s", features, std::strerror(errno)));
  }
  return result;
}

absl::StatusOr<Userfaultfd> Userfaultfd::Adopt(int fd) {
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) {
    return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, ": ", std::strerror(errno)));
  }
  Userfaultfd result(own, {});
  const std::optional<uint64_t> asked_for = ReadFeatures(own);
  if (!asked_for) {
    return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, " is no userfaultfd"));
  }
  // Without O_NONBLOCK, poll() says POLLERR.
  (void)fcntl(own, F_SETFL, fcntl(own, F_GETFL) | O_NONBLOCK);
  uint64_t features = *asked_for & ~kFeatureInitialized;
  bool set_up = (*asked_for & kFeatureInitialized) != 0;
  if (!set_up) {
    // The kernel refuses what it does not know without saying which; and a descriptor to probe with
    // may not be had by one who is given one. Newest first.
    uint64_t wanted = kWanted;
    set_up = true;  // before 5.15 only this tells it: every set of features is refused
    for (const uint64_t newest : {uint64_t{0}, uapi::kFeatureMove, uapi::kFeaturePoison,
                                  uapi::kFeatureMinorShmem, uapi::kFeatureMinorHugetlbfs}) {
      wanted &= ~newest;
      uapi::Api api{.api = uapi::kApi, .features = wanted, .ioctls = 0};
      if (ioctl(own, uapi::kIoctlApi, &api) == 0) {
        features = wanted;
        set_up = false;
        break;
      }
      if (errno != EINVAL) {
        return absl::FailedPreconditionError(absl::StrCat("UFFDIO_API: ", std::strerror(errno)));
      }
    }
  }
  if (set_up) {
    const absl::Status usable = CheckSetUp(features);
    if (!usable.ok()) return usable;
  }
  result.features_ = FeaturesOf(features);
  return result;
}

Userfaultfd::Userfaultfd(Userfaultfd&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), features_(other.features_) {}

Userfaultfd& Userfaultfd::operator=(Userfaultfd&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(features_, other.features_);
  return *this;
}

Userfaultfd::~Userfaultfd() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<RangeAbilities> Userfaultfd::Register(uintptr_t addr, uint64_t length,
                                                     bool minor) const {
  uapi::Register args{.range = {addr, length},
                      .mode = uapi::kRegisterModeMissing | (minor ? uapi::kRegisterModeMinor : 0),
                      .ioctls = 0};
  if (ioctl(fd_, uapi::kIoctlRegister, &args) != 0) {
    const char* why = errno == EBUSY    ? "another userfaultfd has it"
                      : errno == EINVAL ? "it is not anonymous or shared memory"
                                        : std::strerror(errno);
    return absl::FailedPreconditionError(
        absl::StrFormat("cannot register %d bytes at %#x: %s", length, addr, why));
  }
  return RangeAbilities{.zero = (args.ioctls & 1u << uapi::kNrZeroPage) != 0};
}

absl::Status Userfaultfd::Unregister(uintptr_t addr, uint64_t length) const {
  uapi::Range args{.start = addr, .len = length};
  if (ioctl(fd_, uapi::kIoctlUnregister, &args) == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("cannot unregister %d bytes at %#x: %s", length, addr, std::strerror(errno)));
}

Installed Userfaultfd::Copy(uintptr_t addr, const void* from, uint64_t length) const {
  return Repeat(fd_, uapi::kIoctlCopy, length, &uapi::Copy::copy, [&](uint64_t at) {
    return uapi::Copy{.dst = addr + at,
                      .src = reinterpret_cast<uintptr_t>(from) + at,
                      .len = length - at,
                      .mode = uapi::kModeDontWake,
                      .copy = 0};
  });
}

Installed Userfaultfd::Zero(uintptr_t addr, uint64_t length) const {
  return Repeat(fd_, uapi::kIoctlZeroPage, length, &uapi::ZeroPage::zeropage, [&](uint64_t at) {
    return uapi::ZeroPage{
        .range = {addr + at, length - at}, .mode = uapi::kModeDontWake, .zeropage = 0};
  });
}

Installed Userfaultfd::Continue(uintptr_t addr, uint64_t length) const {
  return Repeat(fd_, uapi::kIoctlContinue, length, &uapi::Continue::mapped, [&](uint64_t at) {
    return uapi::Continue{
        .range = {addr + at, length - at}, .mode = uapi::kModeDontWake, .mapped = 0};
  });
}

Installed Userfaultfd::Move(uintptr_t addr, void* from, uint64_t length) const {
  return Repeat(fd_, uapi::kIoctlMove, length, &uapi::Move::move, [&](uint64_t at) {
    return uapi::Move{.dst = addr + at,
                      .src = reinterpret_cast<uintptr_t>(from) + at,
                      .len = length - at,
                      .mode = uapi::kModeDontWake,
                      .move = 0};
  });
}

Installed Userfaultfd::Poison(uintptr_t addr, uint64_t length) const {
  return Repeat(fd_, uapi::kIoctlPoison, length, &uapi::Poison::updated, [&](uint64_t at) {
    return uapi::Poison{
        .range = {addr + at, length - at}, .mode = uapi::kModeDontWake, .updated = 0};
  });
}

void Userfaultfd::Wake(uintptr_t addr, uint64_t length) const {
  uapi::Range args{.start = addr, .len = length};
  // Fails only for an empty, unaligned or wrapping range, which would be our own bug and would lose
  // a fault.
  [[maybe_unused]] const int result = ioctl(fd_, uapi::kIoctlWake, &args);
  assert(result == 0);
}

}  // namespace ramjet
