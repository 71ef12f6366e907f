// The functions by which a process opens files and changes them, in front of libc's own.
//
// A snapshot is loaded from until the load is complete. If QEMU itself is about to change it (it
// saves to the same path, say), all that is left is loaded first. And QEMU may have been given a
// name for the snapshot that means something only here (tools/preload/incoming_name.h).
//
// Not interposed, because they take a descriptor that was opened through here for writing, or that
// QEMU never uses them with: mmap, sendfile, splice, io_submit, io_uring.
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdarg>
#include <cstring>
#include <memory>
#include <string>

#include "tools/preload/incoming_name.h"
#include "tools/preload/interpose.h"
#include "tools/preload/original.h"
#include "tools/preload/session.h"

namespace ramjet {
namespace {

constinit Original<int(const char*, int, mode_t)> original_open("open");
constinit Original<int(const char*, int, mode_t)> original_open64("open64");
constinit Original<int(int, const char*, int, mode_t)> original_openat("openat");
constinit Original<int(int, const char*, int, mode_t)> original_openat64("openat64");
constinit Original<FILE*(const char*, const char*)> original_fopen("fopen");
constinit Original<FILE*(const char*, const char*)> original_fopen64("fopen64");
constinit Original<FILE*(const char*, const char*, FILE*)> original_freopen("freopen");
constinit Original<FILE*(const char*, const char*, FILE*)> original_freopen64("freopen64");
constinit Original<FILE*(int, const char*)> original_fdopen("fdopen");
constinit Original<int(const char*, off_t)> original_truncate("truncate");
constinit Original<int(const char*, off64_t)> original_truncate64("truncate64");
constinit Original<int(int, off_t)> original_ftruncate("ftruncate");
constinit Original<int(int, off64_t)> original_ftruncate64("ftruncate64");
constinit Original<ssize_t(int, const void*, size_t)> original_write("write");
constinit Original<ssize_t(int, const iovec*, int)> original_writev("writev");
constinit Original<ssize_t(int, const void*, size_t, off_t)> original_pwrite("pwrite");
constinit Original<ssize_t(int, const void*, size_t, off64_t)> original_pwrite64("pwrite64");
constinit Original<ssize_t(int, const iovec*, int, off_t)> original_pwritev("pwritev");
constinit Original<ssize_t(int, const iovec*, int, off64_t)> original_pwritev64("pwritev64");
constinit Original<ssize_t(int, off64_t*, int, off64_t*, size_t, unsigned)>
    original_copy_file_range("copy_file_range");

void BeforeChange(int fd) {
  if (const std::shared_ptr<Session> session = CurrentSession()) session->FinishBefore(fd);
}

void BeforeChange(int directory, const char* path) {
  const std::shared_ptr<Session> session = CurrentSession();
  struct stat status;
  if (session != nullptr && fstatat(directory, path, &status, 0) == 0) {
    session->FinishBefore(status);
  }
}

bool Writes(const char* mode) { return std::strpbrk(mode, "wa+") != nullptr; }

// A process that opens a file for writing is about to change it. kIncomingName is in use only with
// checksums.
template <typename Open>  // int(const char* path)
int OpenFile(int directory, const char* path, int flags, Open original) {
  if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0) BeforeChange(directory, path);
  if (TheDoor().is_shut() || TheSettings().checksums.empty()) return original(path);
  // Memory that comes by RDMA is read by no function.
  if (TheDoor().is_open() && std::strcmp(path, "/dev/infiniband/rdma_cm") == 0) NoteOtherStream();
  const std::string& incoming = TheSettings().incoming;
  if (incoming.empty() || std::strcmp(path, kIncomingName) != 0) return original(path);
  const int fd = original(incoming.c_str());
  if (fd >= 0) TheDoor().Expect(fd);
  return fd;
}

template <typename Function>
int Open(Original<Function>& original, const char* path, int flags, mode_t mode) {
  return OpenFile(AT_FDCWD, path, flags,
                  [&](const char* name) { return original(name, flags, mode); });
}

template <typename Function>
int OpenAt(Original<Function>& original, int directory, const char* path, int flags, mode_t mode) {
  return OpenFile(directory, path, flags,
                  [&](const char* name) { return original(directory, name, flags, mode); });
}

template <typename Function>
FILE* OpenStream(Original<Function>& original, const char* path, const char* mode) {
  if (Writes(mode)) BeforeChange(AT_FDCWD, path);
  return original(path, mode);
}

template <typename Function>
FILE* ReopenStream(Original<Function>& original, const char* path, const char* mode, FILE* stream) {
  if (path != nullptr && Writes(mode)) BeforeChange(AT_FDCWD, path);
  return original(path, mode, stream);
}

// To a descriptor that is older than the session, as fd: and fdset give it; QEMU would have opened
// any other for writing, and come through here. Signal handlers write, too (to an eventfd).
template <typename Function, typename... Args>
ssize_t Write(Original<Function>& original, int fd, Args... args) {
  if (Session::IsBeingLoaded(fd)) BeforeChange(fd);
  return original(fd, args...);
}

}  // namespace

void FindFileFunctions() {
  FindAll(original_open, original_open64, original_openat, original_openat64, original_fopen,
          original_fopen64, original_freopen, original_freopen64, original_fdopen,
          original_truncate, original_truncate64, original_ftruncate, original_ftruncate64,
          original_write, original_writev, original_pwrite, original_pwrite64, original_pwritev,
          original_pwritev64, original_copy_file_range);
}

}  // namespace ramjet

// The mode, which is there only if a file may be created.
#define RAMJET_MODE(flags)                                          \
  mode_t mode = 0;                                                  \
  if (((flags)&O_CREAT) != 0 || ((flags)&O_TMPFILE) == O_TMPFILE) { \
    va_list rest;                                                   \
    va_start(rest, flags);                                          \
    mode = va_arg(rest, mode_t);                                    \
    va_end(rest);                                                   \
  }

extern "C" {

int open(const char* path, int flags, ...) {
  RAMJET_MODE(flags)
  return ramjet::Open(ramjet::original_open, path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  RAMJET_MODE(flags)
  return ramjet::Open(ramjet::original_open64, path, flags, mode);
}

int openat(int directory, const char* path, int flags, ...) {
  RAMJET_MODE(flags)
  return ramjet::OpenAt(ramjet::original_openat, directory, path, flags, mode);
}

int openat64(int directory, const char* path, int flags, ...) {
  RAMJET_MODE(flags)
  return ramjet::OpenAt(ramjet::original_openat64, directory, path, flags, mode);
}

// What open() without a mode becomes when it is compiled with _FORTIFY_SOURCE.
// NOLINTBEGIN(bugprone-reserved-identifier)
int __open_2(const char* path, int flags) {
  return ramjet::Open(ramjet::original_open, path, flags, 0);
}

int __open64_2(const char* path, int flags) {
  return ramjet::Open(ramjet::original_open64, path, flags, 0);
}

int __openat_2(int directory, const char* path, int flags) {
  return ramjet::OpenAt(ramjet::original_openat, directory, path, flags, 0);
}

int __openat64_2(int directory, const char* path, int flags) {
  return ramjet::OpenAt(ramjet::original_openat64, directory, path, flags, 0);
}
// NOLINTEND(bugprone-reserved-identifier)

int creat(const char* path, mode_t mode) {
  return ramjet::Open(ramjet::original_open, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char* path, mode_t mode) {
  return ramjet::Open(ramjet::original_open64, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

FILE* fopen(const char* path, const char* mode) {
  return ramjet::OpenStream(ramjet::original_fopen, path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
  return ramjet::OpenStream(ramjet::original_fopen64, path, mode);
}

FILE* freopen(const char* path, const char* mode, FILE* stream) {
  return ramjet::ReopenStream(ramjet::original_freopen, path, mode, stream);
}

FILE* freopen64(const char* path, const char* mode, FILE* stream) {
  return ramjet::ReopenStream(ramjet::original_freopen64, path, mode, stream);
}

FILE* fdopen(int fd, const char* mode) noexcept {
  if (ramjet::Writes(mode)) ramjet::BeforeChange(fd);
  return ramjet::original_fdopen(fd, mode);
}

int truncate(const char* path, off_t length) noexcept {
  ramjet::BeforeChange(AT_FDCWD, path);
  return ramjet::original_truncate(path, length);
}

int truncate64(const char* path, off64_t length) noexcept {
  ramjet::BeforeChange(AT_FDCWD, path);
  return ramjet::original_truncate64(path, length);
}

int ftruncate(int fd, off_t length) noexcept {
  ramjet::BeforeChange(fd);
  return ramjet::original_ftruncate(fd, length);
}

int ftruncate64(int fd, off64_t length) noexcept {
  ramjet::BeforeChange(fd);
  return ramjet::original_ftruncate64(fd, length);
}

ssize_t write(int fd, const void* from, size_t length) {
  return ramjet::Write(ramjet::original_write, fd, from, length);
}

ssize_t writev(int fd, const iovec* iov, int count) {
  return ramjet::Write(ramjet::original_writev, fd, iov, count);
}

ssize_t pwrite(int fd, const void* from, size_t length, off_t offset) {
  return ramjet::Write(ramjet::original_pwrite, fd, from, length, offset);
}

ssize_t pwrite64(int fd, const void* from, size_t length, off64_t offset) {
  return ramjet::Write(ramjet::original_pwrite64, fd, from, length, offset);
}

ssize_t pwritev(int fd, const iovec* iov, int count, off_t offset) {
  return ramjet::Write(ramjet::original_pwritev, fd, iov, count, offset);
}

ssize_t pwritev64(int fd, const iovec* iov, int count, off64_t offset) {
  return ramjet::Write(ramjet::original_pwritev64, fd, iov, count, offset);
}

ssize_t copy_file_range(int from, off64_t* from_offset, int to, off64_t* to_offset, size_t length,
                        unsigned flags) {
  ramjet::BeforeChange(to);
  return ramjet::original_copy_file_range(from, from_offset, to, to_offset, length, flags);
}

}  // extern "C"
