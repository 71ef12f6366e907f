// Loads a snapshot with the calls that QEMU uses, in ways that a stock QEMU cannot be brought to do
// in a test.
//
//   preload_client SNAPSHOT SITUATION [-incoming defer]
//   preload_client SNAPSHOT heir FD     # the memory behind an inherited descriptor
//   preload_client show_environment
//
// Awaits a snapshot if it is told to, as QEMU. Run under `ramjet run --eager=off`, so that nothing
// arrives before it is asked for. Checks every byte by its own system calls; says what is wrong on
// stderr and exits with 1.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

constexpr size_t kChunkBytes = 1 << 20;  // QEMU reads at most this much at once
constexpr size_t kStreamBufferBytes = 32 << 10;

void Check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "preload_client: not so: %s\n", what);
  std::_Exit(1);
}

using PreadFunction = std::function<ssize_t(int fd, void* to, size_t length, uint64_t offset)>;

ssize_t ByPreadv64(int fd, void* to, size_t length, uint64_t offset) {
  const iovec iov{.iov_base = to, .iov_len = length};
  return preadv64(fd, &iov, 1, static_cast<off64_t>(offset));
}

// The guest and its file.
class Client {
 public:
  explicit Client(const std::string& path)
      : path_(path), description_(*Snapshot::Describe(*File::Open(path))) {
    block_ = description_.blocks[0];
    nonzero_ = (*Snapshot::Open(*File::Open(path)))->TakeNonzero(0);
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    Check(fd_ >= 0, "the snapshot can be opened");
  }

  // As QEMU: a mapping of its own, with an inaccessible page behind it.
  void MapPrivate() { Map(MAP_PRIVATE | MAP_ANONYMOUS, -1); }
  void MapShared() {
    memfd_ = memfd_create("guest", MFD_CLOEXEC);
    Check(ftruncate(memfd_, static_cast<off_t>(block_.used_length)) == 0, "memfd");
    Map(MAP_SHARED, memfd_);
  }
  void Map(int flags, int fd) {
    auto* const reservation = static_cast<uint8_t*>(mmap(
        nullptr, block_.used_length + 2 * Page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    memory_ = static_cast<uint8_t*>(mmap(reservation + Page(), block_.used_length,
                                         PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0));
    Check(memory_ != MAP_FAILED, "memory");
  }
  void UseMemory(uint8_t* memory) { memory_ = memory; }

  void ReadHead() {
    Check(lseek(fd_, 0, SEEK_SET) == 0, "lseek");
    ReadStream();
  }
  // Every run of set bits, in pieces.
  void ReadPages(const PreadFunction& pread_function = ByPreadv64) {
    for (auto run = nonzero_.FindRun(true, 0, nonzero_.size()); run;
         run = nonzero_.FindRun(true, run->end(), nonzero_.size())) {
      for (uint64_t at = run->first * Page(); at < run->end() * Page();) {
        const size_t length = std::min<size_t>(kChunkBytes, run->end() * Page() - at);
        const ssize_t got = pread_function(fd_, memory_ + at, length, block_.pages_offset + at);
        Check(got == static_cast<ssize_t>(length), "a read is answered whole");
        at += length;
      }
    }
  }
  // Device state and what follows.
  void ReadTail() { ReadTailFrom(block_.pages_offset + block_.used_length); }
  void ReadTailFrom(uint64_t offset) {
    Check(lseek(fd_, static_cast<off_t>(offset), SEEK_SET) > 0, "lseek");
    while (ReadStream() > 0) {
    }
  }
  // QEMU gives up, and is told to try again.
  void Reopen() {
    close(fd_);
    fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  }
  void Load(const PreadFunction& pread_function = ByPreadv64) {
    ReadHead();
    ReadPages(pread_function);
    ReadTail();
  }

  void ExpectContent(uint64_t zero_from = 0, uint64_t zero_to = 0) const {
    ExpectContentAt(memory_, zero_from, zero_to);
  }
  void ExpectContentAt(const uint8_t* memory, uint64_t zero_from, uint64_t zero_to) const {
    std::vector<uint8_t> expected(Page());
    for (uint64_t page = 0; page < block_.pages(); ++page) {
      std::fill(expected.begin(), expected.end(), 0);
      if (nonzero_.Test(page) && !(page >= zero_from && page < zero_to)) {
        FillPagePattern(page, absl::MakeSpan(expected));
      }
      if (std::memcmp(memory + page * Page(), expected.data(), Page()) != 0) {
        std::fprintf(stderr, "preload_client: page %lu differs\n", page);
        std::_Exit(1);
      }
    }
  }

  uint64_t Page() const { return block_.page_size; }
  uint8_t* memory() const { return memory_; }
  uint64_t length() const { return block_.used_length; }
  const SnapshotBlock& block() const { return block_; }
  const PageBitmap& nonzero() const { return nonzero_; }
  int memfd() const { return memfd_; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_; }

 private:
  ssize_t ReadStream() {
    std::vector<uint8_t> buffer(kStreamBufferBytes);
    const iovec iov{.iov_base = buffer.data(), .iov_len = buffer.size()};
    return readv(fd_, &iov, 1);
  }

  std::string path_;
  SnapshotDescription description_;
  SnapshotBlock block_;
  PageBitmap nonzero_;
  int fd_ = -1;
  int memfd_ = -1;
  uint8_t* memory_ = nullptr;
};

// A byte that carries a descriptor.
struct Message {
  explicit Message(int fd) {
    header.msg_iov = &iov;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &fd, sizeof(fd));
  }
  char byte = 0;
  iovec iov{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  cmsghdr* part;
};

using SendFunction = std::function<ssize_t(int socket, msghdr* message)>;

// What another process does with a descriptor that it is given.
int PassThroughSocket(
    int fd, const SendFunction& send = [](int socket, msghdr* message) {
      return sendmsg(socket, message, 0);
    }) {
  int sockets[2];
  Check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
  Message message(fd);
  Check(send(sockets[0], &message.header) == 1, "a message is sent");
  Check(recvmsg(sockets[1], &message.header, 0) == 1, "recvmsg");
  const cmsghdr* const answer = CMSG_FIRSTHDR(&message.header);
  Check(answer != nullptr, "a descriptor comes with the message");
  int received;
  std::memcpy(&received, CMSG_DATA(answer), sizeof(received));
  return received;
}

// The memory as another process sees it: its faults do not come to us.
const uint8_t* SecondMapping(const Client& client, int memfd) {
  void* const memory = mmap(nullptr, client.length(), PROT_READ, MAP_SHARED, memfd, 0);
  Check(memory != MAP_FAILED, "second mapping");
  return static_cast<const uint8_t*>(memory);
}

void ByThreads(Client& client) {
  client.MapPrivate();
  client.ReadHead();
  std::vector<std::thread> channels;
  for (int i = 0; i < 4; ++i) channels.emplace_back([&] { client.ReadPages(); });
  for (std::thread& channel : channels) channel.join();
  client.ReadTail();
  client.ExpectContent();
}

// A hole in the backing file is a discard that the kernel does not report.
void PunchBeforeLoad(Client& client) {
  client.MapShared();
  client.Load();
  Check(
      fallocate(client.memfd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                static_cast<off_t>(10 * client.Page()), static_cast<off_t>(5 * client.Page())) == 0,
      "fallocate");
  client.ExpectContent(10, 15);
}

void DiscardPrivateBeforeLoad(Client& client) {
  client.MapPrivate();
  client.Load();
  Check(madvise(client.memory() + 10 * client.Page(), 5 * client.Page(), MADV_DONTNEED) == 0,
        "madvise");
  client.ExpectContent(10, 15);
}

void PassDuringLoad(Client& client) {
  client.MapShared();
  client.Load();
  // Looking by a second mapping would fill the memory with zeros, which is just the danger.
  Check(lseek(client.memfd(), 0, SEEK_DATA) == -1, "nothing is loaded before it is asked for");
  const int received = PassThroughSocket(client.memfd());
  client.ExpectContentAt(SecondMapping(client, received), 0, 0);
}

void PassBySendmmsg(Client& client) {
  client.MapShared();
  client.Load();
  const int received = PassThroughSocket(client.memfd(), [](int socket, msghdr* message) {
    mmsghdr messages[] = {{.msg_hdr = *message, .msg_len = 0}};
    return ssize_t{sendmmsg(socket, messages, 1, 0)};
  });
  client.ExpectContentAt(SecondMapping(client, received), 0, 0);
}

// The kernel refuses them. So whatever the library makes of them, it must not read beyond them.
void SendMalformedMessages(Client& client) {
  client.MapShared();
  client.Load();
  int sockets[2];
  Check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
  for (const size_t length : {size_t{0}, size_t{1}, CMSG_LEN(0) - 1, size_t{1} << 40}) {
    Message message(client.memfd());
    message.part->cmsg_len = length;
    Check(sendmsg(sockets[0], &message.header, 0) == -1 && errno == EINVAL, "sendmsg refuses");
    mmsghdr messages[] = {{.msg_hdr = message.header, .msg_len = 0}};
    Check(sendmmsg(sockets[0], messages, 1, 0) == -1 && errno == EINVAL, "sendmmsg refuses");
  }
  Check(lseek(client.memfd(), 0, SEEK_DATA) == -1, "nothing is loaded for them");
  client.ExpectContent();
}

void PassBeforeLoad(Client& client) {
  client.MapShared();
  const int received = PassThroughSocket(client.memfd());
  client.Load();
  client.ExpectContentAt(SecondMapping(client, received), 0, 0);
}

// The client dies of the page that it touches, as a QEMU under TCG does.
void TouchUnreadable(Client& client) {
  client.MapPrivate();
  client.Load();
  (void)*static_cast<volatile const uint8_t*>(client.memory() + 300 * client.Page());
}
void TouchUnreadableShared(Client& client) {
  client.MapShared();
  client.Load();
  (void)*static_cast<volatile const uint8_t*>(client.memory() + 300 * client.Page());
}

// As QEMU does when it saves to the path that it was loaded from.
void CutSnapshotDuringLoad(Client& client) {
  const int fd = open(client.path().c_str(), O_RDWR | O_CLOEXEC);
  client.MapPrivate();
  client.Load();
  Check(ftruncate(fd, 0) == 0, "ftruncate");
  client.ExpectContent();
}

// Until the library has its lease, if it ever has. Its own descriptor is none of our business.
void AwaitLease(const Client& client) {
  struct stat info;
  Check(fstat(client.fd(), &info) == 0, "fstat");
  char inode[32];
  std::snprintf(inode, sizeof(inode), ":%lu ", static_cast<unsigned long>(info.st_ino));
  for (int i = 0; i < 5000; ++i) {
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
      if (line.find(" LEASE ") != std::string::npos && line.find(inode) != std::string::npos) {
        return;
      }
    }
    usleep(1000);
  }
}

// What another process does with the snapshot: a shell command, with its name behind.
void OtherProcessDuringLoad(Client& client, const std::string& command) {
  client.MapPrivate();
  client.Load();
  AwaitLease(client);
  Check(std::system((command + client.path()).c_str()) == 0, "the other process could do it");
  client.ExpectContent();
}

// As rsync and `touch -d` do.
void TouchSnapshotDuringLoad(Client& client) {
  client.MapPrivate();
  client.Load();
  const timespec times[] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
  Check(utimensat(AT_FDCWD, client.path().c_str(), times, 0) == 0, "utimensat");
  client.ExpectContent();
}

// As QEMU calls it, which is fortified.
extern "C" int FortifiedOpen64(const char* path, int flags) asm("__open64_2");

// Every way by which a process can change the file: each gets a descriptor that is older than the
// load, where the pages are, and what to write there.
using Change = std::function<void(const char* path, int fd, off64_t at, absl::string_view bytes)>;

void FullWrite(int fd, off64_t at, absl::string_view bytes) {
  Check(fd >= 0 && lseek(fd, at, SEEK_SET) == at &&
            write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
        "write");
}

void FullWrite(FILE* file, off64_t at, absl::string_view bytes) {
  Check(file != nullptr && fseeko64(file, at, SEEK_SET) == 0 &&
            std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() &&
            std::fflush(file) == 0,
        "fwrite");
}

const std::map<std::string, Change>& Changes() {
  static const auto* const changes = new std::map<std::string, Change>{
      {"open",
       [](const char* p, int, off64_t, auto) { Check(open(p, O_WRONLY | O_TRUNC) > 0, p); }},
      {"open64",
       [](const char* p, int, off64_t at, auto b) { FullWrite(open64(p, O_RDWR), at, b); }},
      {"open64_2", [](const char* p, int, off64_t at,
                      auto b) { FullWrite(FortifiedOpen64(p, O_WRONLY), at, b); }},
      {"openat",
       [](const char* p, int, off64_t, auto) { Check(openat(-1, p, O_RDWR | O_TRUNC) > 0, p); }},
      {"openat64",
       [](const char* p, int, off64_t at, auto b) { FullWrite(openat64(-1, p, O_RDWR), at, b); }},
      {"creat", [](const char* p, int, off64_t, auto) { Check(creat(p, 0600) > 0, p); }},
      {"creat64", [](const char* p, int, off64_t, auto) { Check(creat64(p, 0600) > 0, p); }},
      {"fopen", [](const char* p, int, off64_t, auto) { Check(fopen(p, "wb") != nullptr, p); }},
      {"fopen64",
       [](const char* p, int, off64_t at, auto b) { FullWrite(fopen64(p, "r+"), at, b); }},
      {"freopen",
       [](const char* p, int, off64_t at, auto b) { FullWrite(freopen(p, "r+", stdin), at, b); }},
      {"freopen64",
       [](const char* p, int, off64_t at, auto b) { FullWrite(freopen64(p, "w", stdin), at, b); }},
      {"fdopen", [](const char*, int f, off64_t at, auto b) { FullWrite(fdopen(f, "w"), at, b); }},
      {"truncate", [](const char* p, int, off64_t, auto) { Check(truncate(p, 9) == 0, p); }},
      {"truncate64", [](const char* p, int, off64_t, auto) { Check(truncate64(p, 9) == 0, p); }},
      {"ftruncate64", [](const char* p, int f, off64_t, auto) { Check(!ftruncate64(f, 9), p); }},
      {"write", [](const char*, int f, off64_t at, auto b) { FullWrite(f, at, b); }},
      {"writev",
       [](const char* p, int f, off64_t at, auto b) {
         const iovec iov{.iov_base = const_cast<char*>(b.data()), .iov_len = b.size()};
         Check(lseek(f, at, SEEK_SET) == at && writev(f, &iov, 1) > 0, p);
       }},
      {"pwrite", [](const char* p, int f, off64_t at,
                    auto b) { Check(pwrite(f, b.data(), b.size(), at) > 0, p); }},
      {"pwrite64", [](const char* p, int f, off64_t at,
                      auto b) { Check(pwrite64(f, b.data(), b.size(), at) > 0, p); }},
      {"pwritev",
       [](const char* p, int f, off64_t at, auto b) {
         const iovec iov{.iov_base = const_cast<char*>(b.data()), .iov_len = b.size()};
         Check(pwritev(f, &iov, 1, at) > 0, p);
       }},
      {"pwritev64",
       [](const char* p, int f, off64_t at, auto b) {
         const iovec iov{.iov_base = const_cast<char*>(b.data()), .iov_len = b.size()};
         Check(pwritev64(f, &iov, 1, at) > 0, p);
       }},
      {"copy_file_range",
       [](const char* p, int f, off64_t at, auto) {
         off64_t from = 0;
         Check(copy_file_range(f, &from, f, &at, static_cast<size_t>(at), 0) > 0, p);
       }},
      {"fallocate",
       [](const char* p, int f, off64_t at, auto b) {
         Check(!fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                          static_cast<off_t>(b.size())),
               p);
       }},
      {"fallocate64",
       [](const char* p, int f, off64_t at, auto b) {
         Check(!fallocate64(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                            static_cast<off_t>(b.size())),
               p);
       }},
  };
  return *changes;
}

void ChangeSnapshot(Client& client, const Change& change) {
  const int writer = open(client.path().c_str(), O_RDWR | O_CLOEXEC);  // so there is no lease
  client.MapPrivate();
  client.Load();
  const std::string bytes(client.length(), '\xee');
  change(client.path().c_str(), writer, static_cast<off64_t>(client.block().pages_offset), bytes);
  client.ExpectContent();
}

// What the guest had in a device's buffer when it was saved is the beginning of a stream, and lies
// where QEMU's own buffer begins.
void MagicInTheDevices(Client& client) {
  client.MapPrivate();
  client.ReadHead();
  client.ReadPages();
  std::string tail(256 << 10, '\0');
  const uint64_t begin = client.block().pages_offset + client.length();
  Check(pread(client.fd(), tail.data(), tail.size(), static_cast<off_t>(begin)) > 0, "pread");
  const size_t magic = tail.find("QEVMQEVM");
  Check(magic != std::string::npos, "a device's state has the magic number");
  client.ReadTailFrom(begin + magic);
  client.ExpectContent();
}

// Bytes that `fd` gives to a read with a buffer of `length`.
void ReadInto(size_t length, int fd) {
  std::vector<uint8_t> buffer(length);
  const iovec iov{.iov_base = buffer.data(), .iov_len = length};
  Check(readv(fd, &iov, 1) > 0, "something can be read");
}

int PipeWithTheMagic() {
  int ends[2];
  Check(pipe(ends) == 0 && write(ends[1], "QEVM is what a guest writes", 27) == 27, "pipe");
  return ends[0];
}

// A serial line joins two VMs: the other guest writes what it likes, before this one runs and
// afterwards. So do files that this guest reads.
void MagicFromOthers(Client& client) {
  ReadInto(4096, PipeWithTheMagic());  // as a chardev reads
  client.MapPrivate();
  client.ReadHead();
  ReadInto(kStreamBufferBytes, PipeWithTheMagic());
  client.ReadPages();
  client.ReadTail();
  ReadInto(kStreamBufferBytes, PipeWithTheMagic());
  const int again = open(client.path().c_str(), O_RDONLY | O_CLOEXEC);
  ReadInto(kStreamBufferBytes, again);
  const int socket = PassThroughSocket(PipeWithTheMagic());
  ReadInto(kStreamBufferBytes, socket);
  client.ExpectContent();
}

// QEMU gives up in the middle of a load and is told to try again.
void LoadAgainAfterFailure(Client& client) {
  client.MapPrivate();
  client.ReadHead();
  client.ReadPages();
  client.ExpectContent();
  client.Reopen();
  client.MapPrivate();
  client.Load();
  client.ExpectContent();
}

void SecondLoad(Client& client) {
  client.MapPrivate();
  client.Load();
  client.ExpectContent();
  client.ReadPages(
      [&](int, void* to, size_t length, uint64_t) {  // what is in the file is overwritten
        std::memset(to, 0xee, length);
        return static_cast<ssize_t>(length);
      });
  client.Load();
  client.ExpectContent();
}

void SecondLoadDuringFirst(Client& client) {
  client.MapPrivate();
  client.Load();
  client.Load();
  client.ExpectContent();
}

// Somebody reads a snapshot's pages into the middle of a heap: that is not guest memory, and what
// lies around it stays.
void IntoAHeap(Client& client) {
  std::vector<uint8_t> heap(client.length() + (4 << 20), 0x5a);
  const size_t misaligned = reinterpret_cast<uintptr_t>(heap.data()) % client.Page();
  uint8_t* const middle = heap.data() + (client.Page() - misaligned) + (1 << 20);
  std::fill_n(middle, client.length(), 0);
  client.UseMemory(middle);
  client.Load();
  client.ExpectContent();
  Check(middle[-1] == 0x5a && middle[client.length()] == 0x5a, "the heap is as it was");
}

void PrivateMappingOfAFile(Client& client) {
  const int memfd = memfd_create("file", MFD_CLOEXEC);
  Check(ftruncate(memfd, static_cast<off_t>(client.length())) == 0, "memfd");
  client.Map(MAP_PRIVATE, memfd);
  client.Load();
  client.ExpectContent();
}

void Prealloc(Client& client) {
  client.MapPrivate();
  std::memset(client.memory(), 0, client.length());
  client.Load();
  client.ExpectContent();
}

// As firmware's flash does when a load begins: its device has filled it from a file of its own.
void HoldsAnImage(Client& client) {
  client.MapPrivate();
  std::memset(client.memory(), 0xff, client.length());
  client.ReadPages();
  client.Load();
}

// As a copy that was made in whole blocks.
void PaddedFile(Client& client) {
  client.MapPrivate();
  std::filesystem::resize_file(client.path(),
                               (std::filesystem::file_size(client.path()) | 4095) + 1);
  client.Load();
  client.ExpectContent();
}

// As QEMU does with the memory of a DIMM that is removed. Returns when the load has ended.
void UnmapDuringLoad(Client& client) {
  client.MapPrivate();
  client.Load();
  Check(munmap(client.memory(), client.length()) == 0, "munmap");
  const auto loading = [] {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code error;
      const auto target = std::filesystem::read_symlink(entry, error);
      if (target == "anon_inode:[userfaultfd]") return true;
    }
    return false;
  };
  while (loading()) sched_yield();
}

void MemoryLock(Client& client) {
  client.MapPrivate();
  Check(mlock(client.memory(), client.length()) == 0, "mlock");
  client.Load();
  client.ExpectContent();
}

// As QEMU with -overcommit mem-lock=on-fault: what is mapped from now on is locked when it comes.
void MemoryLockOnFault(Client& client) {
  Check(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0, "mlockall");
  client.MapPrivate();
  client.Load();
  client.ExpectContent();
}

void NamedFile(Client& client) {
  const std::string path = "/dev/shm/ramjet_preload_client." + std::to_string(getpid());
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  Check(fd >= 0 && ftruncate(fd, static_cast<off_t>(client.length())) == 0, path.c_str());
  client.Map(MAP_SHARED, fd);
  client.Load();
  client.ExpectContent();
  unlink(path.c_str());
}

// Only the name tells that it pins memory.
void WithDeviceNode(Client& client, const char* path) {
  // A /dev that nobody else sees. userfaultfd(2) does without.
  Check(unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0,
        "unshare");
  Check(mount("none", "/dev", "tmpfs", 0, nullptr) == 0, "mount");
  (void)mkdir("/dev/vfio", 0700);
  (void)mkdir("/dev/infiniband", 0700);
  Check(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) >= 0, path);
  client.MapPrivate();
  client.Load();
  client.ExpectContent();
}

// Also what QEMU does between load and resume: devices write to pages that have not arrived, by the
// kernel's hand.
void KernelWritesIntoMissingPages(Client& client) {
  client.MapPrivate();
  client.Load();
  const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  Check(read(zero, client.memory() + 10 * client.Page(), 5 * client.Page()) ==
            static_cast<ssize_t>(5 * client.Page()),
        "read into guest memory");
  client.ExpectContent(10, 15);
}

// As under -runas: what was allowed when the process began is not any more when the load does.
void WithoutPermissionLater(Client& client) {
  Check(setresuid(65534, 65534, 65534) == 0, "setresuid");
  client.MapPrivate();
  client.Load();
  client.ExpectContent();
}

void WithoutPermission(Client& client) {
  for (int fd = 3; fd < 64; ++fd) {  // the library's device, opened when there was permission
    struct stat status;
    if (fstat(fd, &status) == 0 && S_ISCHR(status.st_mode)) close(fd);
  }
  WithoutPermissionLater(client);
}

// As a migration through a command comes.
void FromAPipe(Client& client) {
  std::vector<uint8_t> head(64);
  Check(pread(client.fd(), head.data(), head.size(), 0) == 64, "the stream can be read");
  int ends[2];
  Check(pipe(ends) == 0 && write(ends[1], head.data(), head.size()) == 64, "pipe");
  ReadInto(kStreamBufferBytes, ends[0]);
}

// And one through a socket, whose first bytes come alone.
void FromASocket(Client&) {
  int ends[2];
  Check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && write(ends[1], "QE", 2) == 2, "socket");
  std::vector<uint8_t> buffer(kStreamBufferBytes);
  iovec iov{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  Check(recvmsg(ends[0], &message, 0) == 2, "recvmsg");
}

// The first thing that an RDMA library does.
void ByRdma(Client&) { (void)open("/dev/infiniband/rdma_cm", O_RDWR | O_CLOEXEC); }

// QEMU 11.2 with mapped-ram and postcopy-ram: reads the stream to its end while its own userfaultfd
// serves memory, and pages, one by one into a page of its own, when they are touched. A device
// touches one before the end if `early`.
void LoadLazilyByItself(Client& client, bool early) {
  client.MapPrivate();
  const int uffd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  Check(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd");
  uffdio_register range{
      .range = {.start = reinterpret_cast<uintptr_t>(client.memory()), .len = client.length()},
      .mode = UFFDIO_REGISTER_MODE_MISSING,
      .ioctls = 0};
  Check(ioctl(uffd, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
  // With hugetlb a scratch page can be as large as a block is.
  void* const scratch =
      mmap(nullptr, client.length(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const auto load = [&](uint64_t page) {
    const uint64_t at = page * client.Page();
    uffdio_copy copy{.dst = range.range.start + at,
                     .src = reinterpret_cast<uintptr_t>(scratch),
                     .len = client.Page(),
                     .mode = 0,
                     .copy = 0};
    std::memset(scratch, 0, client.Page());
    if (client.nonzero().Test(page)) {
      Check(ByPreadv64(client.fd(), scratch, client.Page(), client.block().pages_offset + at) ==
                static_cast<ssize_t>(client.Page()),
            "a page is read");
    }
    Check(ioctl(uffd, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY");
  };
  client.ReadHead();
  const uint64_t first = client.nonzero().FindRun(true, 0, client.nonzero().size())->first;
  if (early) load(first);
  client.ReadTail();
  for (uint64_t page = 0; page < client.block().pages(); ++page) {
    if (!early || page != first) load(page);
  }
  client.ExpectContent();
}

// The block in reads of two parts each, which QEMU does not do.
void InTwoParts(Client& client) {
  client.MapPrivate();
  client.Load([](int fd, void* to, size_t length, uint64_t offset) {
    auto* const bytes = static_cast<uint8_t*>(to);
    const iovec parts[] = {{.iov_base = bytes, .iov_len = length / 2},
                           {.iov_base = bytes + length / 2, .iov_len = length - length / 2}};
    return preadv(fd, parts, 2, static_cast<off_t>(offset));
  });
  client.ExpectContent();
}

// --- exec: a program that inherits guest memory sees all of it. ---

// All pages are owed when another program comes to it.
void LoadShared(Client& client) {
  client.MapShared();
  client.Load();
  Check(lseek(client.memfd(), 0, SEEK_DATA) == -1, "nothing is loaded before it is asked for");
}

// As QEMU does before it becomes its successor (cpr-exec).
void ClearCloexec(int fd) { Check(fcntl(fd, F_SETFD, 0) == 0, "fcntl"); }

// The arguments that make this program an heir of `fd`.
class HeirArguments {
 public:
  HeirArguments(const Client& client, int fd)
      : words_{"heir", client.path(), "heir", std::to_string(fd)} {
    for (std::string& word : words_) argv_.push_back(word.data());
    argv_.push_back(nullptr);
  }
  char** argv() { return argv_.data(); }

 private:
  std::vector<std::string> words_;
  std::vector<char*> argv_;
};

constexpr char kSelf[] = "/proc/self/exe";

void ExpectSuccess(pid_t child) {
  int status = -1;
  Check(child > 0 && waitpid(child, &status, 0) == child, "there is a child");
  Check(status == 0, "the child has found what it should");
}

void ExecItself(Client& client) {
  LoadShared(client);
  ClearCloexec(client.memfd());
  HeirArguments heir(client, client.memfd());
  execvp(kSelf, heir.argv());
  Check(false, "execvp");
}

// Each way to exec, in a forked child that has the memory under another number.
void ExecInAChildBy(Client& client, const std::function<void(char** argv)>& exec) {
  LoadShared(client);
  HeirArguments heir(client, 100);
  const pid_t child = fork();
  if (child == 0) {
    Check(dup2(client.memfd(), 100) == 100, "dup2");
    exec(heir.argv());
    Check(false, "exec");
  }
  ExpectSuccess(child);
  client.ExpectContent();
}

void ExecAfterVfork(Client& client) {
  LoadShared(client);
  ClearCloexec(client.memfd());
  HeirArguments heir(client, client.memfd());
  const pid_t child = vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork)
  if (child == 0) {
    execv(kSelf, heir.argv());
    _exit(1);
  }
  ExpectSuccess(child);
}

void Spawn(Client& client) {
  LoadShared(client);
  ClearCloexec(client.memfd());
  HeirArguments heir(client, client.memfd());
  pid_t child = -1;
  Check(posix_spawn(&child, kSelf, nullptr, nullptr, heir.argv(), environ) == 0, "posix_spawn");
  ExpectSuccess(child);
}

void SpawnWithACopy(Client& client) {
  LoadShared(client);
  HeirArguments heir(client, 100);
  posix_spawn_file_actions_t actions;
  Check(posix_spawn_file_actions_init(&actions) == 0 &&
            posix_spawn_file_actions_adddup2(&actions, client.memfd(), 100) == 0,
        "file actions");
  pid_t child = -1;
  Check(posix_spawnp(&child, kSelf, &actions, nullptr, heir.argv(), environ) == 0, "posix_spawnp");
  ExpectSuccess(child);
}

void RunInAShell(Client& client) {
  LoadShared(client);
  ClearCloexec(client.memfd());
  const std::string self = std::filesystem::read_symlink(kSelf).string();
  const std::string command =
      "'" + self + "' '" + client.path() + "' heir " + std::to_string(client.memfd());
  Check(std::system(command.c_str()) == 0, "system");
}

void RunByPopen(Client& client) {
  LoadShared(client);
  ClearCloexec(client.memfd());
  const std::string self = std::filesystem::read_symlink(kSelf).string();
  const std::string command =
      "'" + self + "' '" + client.path() + "' heir " + std::to_string(client.memfd());
  FILE* const pipe = popen(command.c_str(), "r");
  Check(pipe != nullptr && pclose(pipe) == 0, "popen");
}

// Who inherits a block before it is loaded maps it whenever he likes.
void InheritBeforeLoad(Client& client) {
  client.MapShared();
  const pid_t child = fork();
  if (child == 0) {
    ClearCloexec(client.memfd());
    execlp("true", "true", nullptr);
    Check(false, "execlp");
  }
  ExpectSuccess(child);
  client.Load();
  client.ExpectContentAt(SecondMapping(client, client.memfd()), 0, 0);
}

// Programs that only help inherit no memory, and nobody waits for them: QEMU's bridge helper, what
// libvirt asks it.
void StartHelpers(Client& client) {
  LoadShared(client);
  const pid_t forked = fork();
  if (forked == 0) {
    execl("/bin/sh", "sh", "-c", "exit 0", nullptr);
    Check(false, "execl");
  }
  ExpectSuccess(forked);
  ExpectSuccess([] {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    return child;
  }());
  Check(std::system("exit 0") == 0, "system");
  pid_t child = -1;
  const char* const words[] = {"true", nullptr};
  Check(posix_spawnp(&child, "true", nullptr, nullptr, const_cast<char**>(words), environ) == 0,
        "posix_spawnp");
  ExpectSuccess(child);
  Check(lseek(client.memfd(), 0, SEEK_DATA) == -1, "still nothing is loaded");
  client.ExpectContent();
}

// The process that loads is stopped, so that nothing comes, and then killed, while a child of it is
// about to exec. The test reads what the child says.
void DieWhileAChildWaits(Client& client) {
  LoadShared(client);
  const pid_t loader = getpid();
  if (fork() != 0) {
    while (true) pause();
  }
  const pid_t child = getpid();
  const auto state = [](pid_t pid) {  // the field behind the program's name in parentheses
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    const std::string line((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    return line.substr(line.rfind(')') + 2, 1);
  };
  Check(kill(loader, SIGSTOP) == 0, "SIGSTOP");
  while (state(loader) != "T") sched_yield();
  if (fork() == 0) {
    while (state(child) != "S") sched_yield();
    _exit(kill(loader, SIGKILL));
  }
  ClearCloexec(client.memfd());
  HeirArguments heir(client, client.memfd());
  execv(kSelf, heir.argv());
  Check(errno == EIO, "exec is refused");
  std::fprintf(stderr, "preload_client: refused\n");
  _exit(0);
}

// A child passes the memory on, as a process that never execs.
void PassInAChild(Client& client) {
  LoadShared(client);
  const pid_t child = fork();
  if (child == 0) {
    const int received = PassThroughSocket(client.memfd());
    client.ExpectContentAt(SecondMapping(client, received), 0, 0);
    _exit(0);
  }
  ExpectSuccess(child);
}

// What programs find that this one starts, each in another way, on stdout.
void ShowEnvironment(char** main_environment) {
  Check(std::system("echo system; env") == 0, "system");
  const char* const words[] = {"env", nullptr};
  const pid_t child = fork();
  if (child == 0) {
    execve("/usr/bin/env", const_cast<char**>(words), main_environment);
    Check(false, "execve");
  }
  ExpectSuccess(child);
  execvp("env", const_cast<char**>(words));
  Check(false, "execvp");
}

int Main(const std::string& path, const std::string& situation) {
  Client client(path);
  if (const auto change = Changes().find(situation); change != Changes().end()) {
    ChangeSnapshot(client, change->second);
    return 0;
  }
  const auto load_by = [](PreadFunction function) {
    return [function = std::move(function)](Client& c) {
      c.MapPrivate();
      c.Load(function);
      c.ExpectContent();
    };
  };
  const auto child_execs_by = [](std::function<void(char**)> exec) {
    return [exec = std::move(exec)](Client& c) { ExecInAChildBy(c, exec); };
  };
  const std::map<std::string, std::function<void(Client&)>> situations = {
      {"preadv64", load_by(ByPreadv64)},
      {"preadv", load_by([](int fd, void* to, size_t length, uint64_t offset) {
         const iovec iov{.iov_base = to, .iov_len = length};
         return preadv(fd, &iov, 1, static_cast<off_t>(offset));
       })},
      {"pread64", load_by([](int fd, void* to, size_t length, uint64_t offset) {
         return pread64(fd, to, length, static_cast<off64_t>(offset));
       })},
      {"pread", load_by([](int fd, void* to, size_t length, uint64_t offset) {
         return pread(fd, to, length, static_cast<off_t>(offset));
       })},
      {"by_threads", ByThreads},
      {"punch_before_load", PunchBeforeLoad},
      {"discard_private_before_load", DiscardPrivateBeforeLoad},
      {"pass_during_load", PassDuringLoad},
      {"pass_before_load", PassBeforeLoad},
      {"cut_snapshot_during_load", CutSnapshotDuringLoad},
      {"snapshot_overwritten_during_load", [](Client& c) { OtherProcessDuringLoad(c, ": > "); }},
      {"snapshot_edited_during_load",
       [](Client& c) {
         OtherProcessDuringLoad(c, "dd if=/dev/zero bs=4096 count=1 conv=notrunc status=none of=");
       }},
      {"snapshot_touched_during_load", TouchSnapshotDuringLoad},
      {"touch_unreadable", TouchUnreadable},
      {"touch_unreadable_shared", TouchUnreadableShared},
      {"second_load", SecondLoad},
      {"second_load_during_first", SecondLoadDuringFirst},
      {"into_a_heap", IntoAHeap},
      {"private_mapping_of_a_file", PrivateMappingOfAFile},
      {"prealloc", Prealloc},
      {"mlock", MemoryLock},
      {"named_file", NamedFile},
      {"pinning_vfio", [](Client& c) { WithDeviceNode(c, "/dev/vfio/7"); }},
      {"pinning_vdpa", [](Client& c) { WithDeviceNode(c, "/dev/vhost-vdpa-0"); }},
      {"pinning_udmabuf", [](Client& c) { WithDeviceNode(c, "/dev/udmabuf"); }},
      {"pinning_rdma", [](Client& c) { WithDeviceNode(c, "/dev/infiniband/uverbs0"); }},
      {"pinning_mshv", [](Client& c) { WithDeviceNode(c, "/dev/mshv"); }},
      {"pinning_nitro", [](Client& c) { WithDeviceNode(c, "/dev/nitro_enclaves"); }},
      {"pinning_sev", [](Client& c) { WithDeviceNode(c, "/dev/sev"); }},
      {"kernel_writes", KernelWritesIntoMissingPages},
      {"without_permission_later", WithoutPermissionLater},
      {"without_permission", WithoutPermission},
      {"from_a_pipe", FromAPipe},
      {"from_a_socket", FromASocket},
      {"by_rdma", ByRdma},
      {"magic_in_the_devices", MagicInTheDevices},
      {"magic_from_others", MagicFromOthers},
      {"load_again_after_failure", LoadAgainAfterFailure},
      {"lazy_by_itself", [](Client& c) { LoadLazilyByItself(c, false); }},
      {"lazy_by_itself_early", [](Client& c) { LoadLazilyByItself(c, true); }},
      {"in_two_parts", InTwoParts},
      {"mlock_on_fault", MemoryLockOnFault},
      {"holds_an_image", HoldsAnImage},
      {"unmap_during_load", UnmapDuringLoad},
      {"padded_file", PaddedFile},
      {"pass_by_sendmmsg", PassBySendmmsg},
      {"pass_in_a_child", PassInAChild},
      {"malformed_messages", SendMalformedMessages},
      {"exec_itself", ExecItself},
      {"execve", child_execs_by([](char** argv) { execve(kSelf, argv, environ); })},
      {"execv", child_execs_by([](char** argv) { execv(kSelf, argv); })},
      {"execvp", child_execs_by([](char** argv) { execvp(kSelf, argv); })},
      {"execvpe", child_execs_by([](char** argv) { execvpe(kSelf, argv, environ); })},
      {"execl", child_execs_by([](char** argv) {
         execl(kSelf, argv[0], argv[1], argv[2], argv[3], nullptr);
       })},
      {"execlp", child_execs_by([](char** argv) {
         execlp(kSelf, argv[0], argv[1], argv[2], argv[3], nullptr);
       })},
      {"execle", child_execs_by([](char** argv) {
         execle(kSelf, argv[0], argv[1], argv[2], argv[3], nullptr, environ);
       })},
      {"fexecve", child_execs_by([](char** argv) {
         fexecve(open(kSelf, O_RDONLY | O_CLOEXEC), argv, environ);
       })},
      {"execveat",
       child_execs_by([](char** argv) { execveat(AT_FDCWD, kSelf, argv, environ, 0); })},
      {"exec_after_vfork", ExecAfterVfork},
      {"spawn", Spawn},
      {"spawn_with_a_copy", SpawnWithACopy},
      {"system", RunInAShell},
      {"popen", RunByPopen},
      {"inherit_before_load", InheritBeforeLoad},
      {"start_helpers", StartHelpers},
      {"die_while_a_child_waits", DieWhileAChildWaits},
  };
  const auto found = situations.find(situation);
  Check(found != situations.end(), "the situation is known");
  found->second(client);
  return 0;
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv, char** environment) {
  if (argc == 4 && std::string(argv[2]) == "heir") {
    const ramjet::Client client(argv[1]);
    client.ExpectContentAt(ramjet::SecondMapping(client, std::atoi(argv[3])), 0, 0);
    return 0;
  }
  if (argc == 2 && std::string(argv[1]) == "show_environment") {
    ramjet::ShowEnvironment(environment);
  }
  if (argc < 3) return 2;
  return ramjet::Main(argv[1], argv[2]);
}
