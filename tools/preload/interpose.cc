// The functions of libc that QEMU loads a snapshot with, in front of libc's own.
//
// Nothing else is exported from the preload library (tools/preload/exports.lds). A program that
// awaits no snapshot, and one that has loaded its own, pay one comparison a call, of a flag.
//
// The library's own calls come through here, too. They do no harm: it reads the snapshot through a
// descriptor of its own, which Session knows, and it discards guest memory by the bare system call.
//
// A VM waits for its snapshot, so what can be done beforehand is done when the library is loaded:
// libc's functions are found, its own code is brought in, the device is opened.
//
// State is never destroyed: QEMU's threads still run when a process ends.
#include "tools/preload/interpose.h"

#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "tools/preload/checkable_incoming.h"
#include "tools/preload/environment.h"
#include "tools/preload/exec_guard.h"
#include "tools/preload/incoming_door.h"
#include "tools/preload/old_stats.h"
#include "tools/preload/original.h"
#include "tools/preload/session.h"
#include "tools/preload/settings.h"
#include "uffd/userfaultfd.h"

// The linker's own symbol: where this library begins.
extern "C" const ElfW(Ehdr) own_header asm("__ehdr_start") __attribute__((visibility("hidden")));

namespace ramjet {
namespace {

constinit Original<ssize_t(int, const iovec*, int)> original_readv("readv");
constinit Original<ssize_t(int, void*, size_t, off_t)> original_pread("pread");
constinit Original<ssize_t(int, void*, size_t, off64_t)> original_pread64("pread64");
constinit Original<ssize_t(int, const iovec*, int, off_t)> original_preadv("preadv");
constinit Original<ssize_t(int, const iovec*, int, off64_t)> original_preadv64("preadv64");
constinit Original<int(int, int, off_t, off_t)> original_fallocate("fallocate");
constinit Original<int(int, int, off64_t, off64_t)> original_fallocate64("fallocate64");
constinit Original<ssize_t(int, const msghdr*, int)> original_sendmsg("sendmsg");
constinit Original<int(int, mmsghdr*, unsigned, int)> original_sendmmsg("sendmmsg");
constinit Original<ssize_t(int, msghdr*, int)> original_recvmsg("recvmsg");
constinit Original<ssize_t(void*, void*, size_t)> original_gnutls_record_recv("gnutls_record_recv");
constinit Original<int(int)> original_close("close");

constinit IncomingDoor the_door;

// What this process starts, or becomes, gets nothing of ours.
void BeEmulator() {
  (void)TheSettings();
  LeaveEnvironment();
  (void)ExecGuard::Get();
}

class State {
 public:
  // The session that is under way, or nullptr.
  std::shared_ptr<Session> Current() ABSL_LOCKS_EXCLUDED(mu_) {
    if (!active_.load(std::memory_order_acquire)) return nullptr;
    std::shared_ptr<Session> session;  // if this is the last use of it, it ends after the lock
    absl::MutexLock lock(&mu_);
    session = session_.lock();
    if (session == nullptr || session->over()) active_.store(false, std::memory_order_release);
    return active_.load(std::memory_order_relaxed) ? session : nullptr;
  }

  // `fd` has given the first bytes of a stream.
  void BeginSession(int fd, uint64_t stream_offset) ABSL_LOCKS_EXCLUDED(mu_) {
    BeEmulator();  // if it was not known before, it is now
    // What an earlier load still owes is loaded first: its memory may be that of the next one.
    if (const std::shared_ptr<Session> before = Current()) before->Retire();
    const std::shared_ptr<Session> session = Session::Begin(
        fd, stream_offset, TheSettings(), std::exchange(device_fd_, -1), ExecGuard::Get());
    absl::MutexLock lock(&mu_);
    session_ = session;
    active_.store(true, std::memory_order_release);
  }

  // For a process that may later have no right to open it (-runas) or no path to it (-chroot).
  void OpenDevice() { device_fd_ = open(Userfaultfd::kDevice, O_RDWR | O_CLOEXEC); }

  // In a forked child none of the session's threads runs, and its locks may be held for ever.
  void Forget() { active_.store(false, std::memory_order_relaxed); }

 private:
  std::atomic<bool> active_{false};
  absl::Mutex mu_;
  std::weak_ptr<Session> session_ ABSL_GUARDED_BY(mu_);  // which keeps itself until it is over
  int device_fd_ = -1;                                   // until a session takes it
};

State& TheState() {
  static State* const state = new State();
  return *state;
}

// The snapshot that `ramjet run` has opened for the emulator is not for what that starts.
void CloseSnapshotOnExec(int argc, const char* const* argv) {
  for (int i = 0; i < argc; ++i) {
    const char* const name = std::strstr(argv[i], kInheritedPrefix);
    if (name != nullptr) {
      fcntl(std::atoi(name + std::strlen(kInheritedPrefix)), F_SETFD, FD_CLOEXEC);
    }
  }
}

// What cannot be compared with checksums is not to be loaded under them.
void RefuseUncheckable(int argc, char** argv) {
  if (TheSettings().checksums.empty()) return;
  const absl::Status checkable = CheckIncoming({argv, argv + argc});
  if (!checkable.ok()) Session::EndUnchecked(std::string(checkable.message()));
}

// Brings in this library's own code and variables, at once instead of page by page. Linux 5.14;
// before that they come as they are touched.
void Populate() {
  const auto base = reinterpret_cast<uintptr_t>(&own_header);
  const auto* const headers = reinterpret_cast<const ElfW(Phdr)*>(base + own_header.e_phoff);
  const absl::Span<const ElfW(Phdr)> segments(headers, own_header.e_phnum);
  const auto page_mask = ~(static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)) - 1);
  uintptr_t sealed_end = 0;  // of what the dynamic linker has written to and made read-only
  for (const auto& segment : segments) {
    if (segment.p_type == PT_GNU_RELRO) sealed_end = base + segment.p_vaddr + segment.p_memsz;
  }
  for (const auto& segment : segments) {
    if (segment.p_type != PT_LOAD) continue;
    const bool writable = (segment.p_flags & PF_W) != 0;
    const uintptr_t end = base + segment.p_vaddr + segment.p_memsz;
    const uintptr_t start = std::max(base + segment.p_vaddr, writable ? sealed_end : 0) & page_mask;
    if (start >= end) continue;
    (void)madvise(reinterpret_cast<void*>(start), end - start,
                  writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
  }
}

// glibc gives the constructors of libraries main()'s arguments, too.
__attribute__((constructor)) void OnLoad(int argc, char** argv) {
  const int before = errno;
  FindAll(original_readv, original_pread, original_pread64, original_preadv, original_preadv64,
          original_fallocate, original_fallocate64, original_sendmsg, original_sendmmsg,
          original_recvmsg, original_close);
  FindFileFunctions();
  // Built with assertions, Abseil searches for deadlocks, and keeps books at every lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  the_door.OpenIfAsked(argc, argv);
  if (MayBeEmulator()) {
    Populate();
    TheState().OpenDevice();
    BeEmulator();
    CloseSnapshotOnExec(argc, argv);
    RefuseUncheckable(argc, argv);
    if (the_door.is_open()) RemoveOldStats(TheSettings().stats_path);
  }
  pthread_atfork(nullptr, nullptr, [] {
    TheState().Forget();
    the_door.LeaveToParent();
  });
  errno = before;
}

__attribute__((destructor)) void OnExit() {
  if (const std::shared_ptr<Session> session = TheState().Current()) session->WriteFiles();
}

// What follows the first read of a stream.
void BeginStream(int fd, ssize_t got) {
  struct stat status;
  const bool is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  const off_t position = is_file ? lseek(fd, 0, SEEK_CUR) : -1;
  if (position < got) return NoteOtherStream();
  if (the_door.Take(fd)) TheState().BeginSession(fd, static_cast<uint64_t>(position - got));
}

void AfterStreamRead(int fd, const iovec* iov, int count, ssize_t got) {
  if (got <= 0 || the_door.is_shut()) return;
  const int before = errno;
  if (the_door.IsTakenBy(fd)) {
    const std::shared_ptr<Session> session = CurrentSession();
    if (session != nullptr && session->NoteStreamRead(fd)) the_door.Shut();
  } else if (the_door.Begins(fd, iov, static_cast<size_t>(count), got)) {
    BeginStream(fd, got);
  }
  errno = before;
}

// Of what comes by a socket, or through TLS.
void AfterReceive(const iovec* iov, size_t count, ssize_t got) {
  if (the_door.Begins(-1, iov, count, got)) NoteOtherStream();
}

// True if the read has been dealt with and is to be answered with `length`.
bool Answer(int fd, void* to, size_t length, off_t offset) {
  const std::shared_ptr<Session> session = CurrentSession();
  if (session == nullptr || length == 0 || offset < 0) return false;
  const int before = errno;
  const bool answered = session->AnswerRead(fd, reinterpret_cast<uintptr_t>(to), length,
                                            static_cast<uint64_t>(offset));
  errno = before;
  return answered;
}

bool Answer(int fd, const iovec* iov, int count, off_t offset) {
  return count == 1 && Answer(fd, iov[0].iov_base, iov[0].iov_len, offset);
}

// What the read that was not answered has brought.
void AfterRead(int fd, const iovec* iov, int count, ssize_t got, off_t offset) {
  if (got <= 0) return;
  const std::shared_ptr<Session> session = CurrentSession();
  if (session == nullptr) return;
  const int before = errno;
  auto left = static_cast<size_t>(got);
  for (int i = 0; i < count && left > 0; ++i) {
    const size_t length = std::min(left, iov[i].iov_len);
    session->CheckRead(fd, {static_cast<const uint8_t*>(iov[i].iov_base), length},
                       static_cast<uint64_t>(offset));
    offset += static_cast<off_t>(length);
    left -= length;
  }
  errno = before;
}

ssize_t AfterRead(int fd, void* to, ssize_t got, off_t offset) {
  const iovec iov = {.iov_base = to, .iov_len = static_cast<size_t>(got)};
  AfterRead(fd, &iov, 1, got, offset);
  return got;
}

void BeforeFallocate(int fd, int mode, off_t offset, off_t length) {
  const std::shared_ptr<Session> session = CurrentSession();
  if (session == nullptr) return;
  if (Session::IsBeingLoaded(fd)) session->FinishBefore(fd);
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 && offset >= 0 && length > 0) {
    session->NotePunch(fd, static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
  }
}

void BeforeClose(int fd) {
  if (the_door.IsTakenBy(fd)) {
    // QEMU gives up a stream before its end, and may be told to try again. A stream that no session
    // is for may have been loaded to its end.
    if (Session::IsBeingLoaded(fd)) {
      the_door.Open();
    } else {
      the_door.Shut();
    }
  } else if (the_door.IsExpectedFrom(fd)) {
    Session::EndUnchecked(absl::StrCat(TheSettings().incoming, " was opened, but no stream read"));
  }
}

// The kernel refuses a message with a part of another length.
bool IsWhole(const msghdr& message, const cmsghdr& part) {
  const auto at = static_cast<size_t>(reinterpret_cast<const char*>(&part) -
                                      static_cast<const char*>(message.msg_control));
  return part.cmsg_len >= CMSG_LEN(0) && part.cmsg_len <= message.msg_controllen - at;
}

void BeforePassing(const msghdr& message) {
  const int before = errno;
  auto* const header = const_cast<msghdr*>(&message);
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr && IsWhole(message, *part);
       part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      struct stat status;
      if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) continue;
      (void)ExecGuard::Get().Leave(status.st_dev, status.st_ino);
      if (const std::shared_ptr<Session> session = CurrentSession()) session->FinishBefore(fd);
    }
  }
  errno = before;
}

}  // namespace

std::shared_ptr<Session> CurrentSession() { return TheState().Current(); }

IncomingDoor& TheDoor() { return the_door; }

void NoteOtherStream() {
  if (!TheSettings().checksums.empty()) {
    Session::EndUnchecked("what is loaded is no file, and cannot be compared with checksums");
  }
  the_door.Shut();
}

const Settings& TheSettings() {
  static const Settings* const settings = new Settings(Settings::FromEnvironment());
  return *settings;
}

}  // namespace ramjet

// On 64-bit systems a function and its ...64 twin are the same; programs are linked to either.
extern "C" {

ssize_t readv(int fd, const iovec* iov, int count) {
  const ssize_t got = ramjet::original_readv(fd, iov, count);
  ramjet::AfterStreamRead(fd, iov, count, got);
  return got;
}

ssize_t pread(int fd, void* to, size_t length, off_t offset) {
  if (ramjet::Answer(fd, to, length, offset)) return static_cast<ssize_t>(length);
  return ramjet::AfterRead(fd, to, ramjet::original_pread(fd, to, length, offset), offset);
}

ssize_t pread64(int fd, void* to, size_t length, off64_t offset) {
  if (ramjet::Answer(fd, to, length, offset)) return static_cast<ssize_t>(length);
  return ramjet::AfterRead(fd, to, ramjet::original_pread64(fd, to, length, offset), offset);
}

ssize_t preadv(int fd, const iovec* iov, int count, off_t offset) {
  if (ramjet::Answer(fd, iov, count, offset)) return static_cast<ssize_t>(iov[0].iov_len);
  const ssize_t got = ramjet::original_preadv(fd, iov, count, offset);
  ramjet::AfterRead(fd, iov, count, got, offset);
  return got;
}

ssize_t preadv64(int fd, const iovec* iov, int count, off64_t offset) {
  if (ramjet::Answer(fd, iov, count, offset)) return static_cast<ssize_t>(iov[0].iov_len);
  const ssize_t got = ramjet::original_preadv64(fd, iov, count, offset);
  ramjet::AfterRead(fd, iov, count, got, offset);
  return got;
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  ramjet::BeforeFallocate(fd, mode, offset, length);
  return ramjet::original_fallocate(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  ramjet::BeforeFallocate(fd, mode, offset, length);
  return ramjet::original_fallocate64(fd, mode, offset, length);
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  if (message != nullptr && message->msg_controllen > 0) ramjet::BeforePassing(*message);
  return ramjet::original_sendmsg(fd, message, flags);
}

int sendmmsg(int fd, mmsghdr* messages, unsigned count, int flags) {
  for (unsigned i = 0; i < count; ++i) {
    if (messages[i].msg_hdr.msg_controllen > 0) ramjet::BeforePassing(messages[i].msg_hdr);
  }
  return ramjet::original_sendmmsg(fd, messages, count, flags);
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
  const ssize_t got = ramjet::original_recvmsg(fd, message, flags);
  if (got > 0) ramjet::AfterReceive(message->msg_iov, message->msg_iovlen, got);
  return got;
}

// A stream that comes through TLS is in clear text only here.
ssize_t gnutls_record_recv(void* session, void* to, size_t length) {
  const ssize_t got = ramjet::original_gnutls_record_recv(session, to, length);
  const iovec iov = {.iov_base = to, .iov_len = length};
  ramjet::AfterReceive(&iov, 1, got);
  return got;
}

int close(int fd) {
  ramjet::BeforeClose(fd);
  return ramjet::original_close(fd);
}

}  // extern "C"
