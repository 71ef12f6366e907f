// A seccomp filter denies each system call that the library makes, in turn, from the beginning or
// in the middle of a load. What ramjet.h calls optional must not be missed; without the others
// every load is right all the same, or fails in words. Never a wrong byte, never silence.
#include <asm/unistd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "loader/ramjet.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/new_file.h"
#include "mappedram/snapshot.h"
#include "tests/seccomp_testing.h"
#include "uffd/uapi.h"

namespace ramjet {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kHugeBytes = 2 << 20;
constexpr uint64_t kPages = 1024;
constexpr uint64_t kLength = kPages * kPageBytes;

// What a child says of itself.
enum Verdict { kRight = 0, kRefused = 3, kWrong = 4, kNoWords = 5, kHangs = 6 };

// Zero in every eighth page, and in the last quarter.
uint8_t ContentOf(uint64_t page) {
  const bool zero = page % 8 == 3 || page >= kPages / 4 * 3;
  return zero ? 0 : static_cast<uint8_t>(page % 255 + 1);
}

bool Holds(const uint8_t* memory, uint64_t page) {
  for (uint64_t i = 0; i < kPageBytes; ++i) {
    if (memory[page * kPageBytes + i] != ContentOf(page)) return false;
  }
  return true;
}

enum class Kind { kPrivate, kShared, kAliased };

// Memory for a guest, aligned to a huge page. Goes away with its process.
struct Memory {
  explicit Memory(Kind kind) {
    const int fd =
        kind == Kind::kPrivate ? -1 : static_cast<int>(syscall(SYS_memfd_create, "guest", 0));
    if (fd >= 0 && ftruncate(fd, kLength) != 0) std::abort();
    const auto map = [fd] {
      void* const room = mmap(nullptr, kLength + kHugeBytes, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      const uintptr_t aligned =
          (reinterpret_cast<uintptr_t>(room) + kHugeBytes - 1) / kHugeBytes * kHugeBytes;
      void* const memory =
          mmap(reinterpret_cast<void*>(aligned), kLength, PROT_READ | PROT_WRITE,
               MAP_FIXED | (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS), fd, 0);
      if (memory == MAP_FAILED) std::abort();
      return static_cast<uint8_t*>(memory);
    };
    block.idstr = "ram";
    bytes = map();
    block.host = bytes;
    block.length = kLength;
    block.memory = fd >= 0 ? RAMJET_SHARED : RAMJET_PRIVATE;
    if (kind == Kind::kAliased) block.alias = map();
    if (kind == Kind::kPrivate) (void)madvise(bytes, kLength, MADV_HUGEPAGE);
  }
  uint8_t* bytes;
  ramjet_block block = RAMJET_BLOCK_INIT;
};

struct Denied {
  std::vector<Denial> calls;
  int error;
  bool late;  // only when memory is attached
};

// All that the library can do, in a child.
class Trip {
 public:
  Trip(std::string directory, Denied denied)
      : directory_(std::move(directory)), denied_(std::move(denied)) {}

  int Run() {
    std::vector<Memory> memory;
    for (int i = 0; i < 8; ++i) {
      memory.emplace_back(i == 3 ? Kind::kShared : i == 4 ? Kind::kAliased : Kind::kPrivate);
    }
    ramjet_options options = RAMJET_OPTIONS_INIT;
    options.on_unreadable = RAMJET_STOP_VM;
    options.stop_vm = [](void*, const char* why) { _exit(*why != '\0' ? kRefused : kNoWords); };
    const std::string checksums = directory_ + "/guest.sums";
    const std::string touched = directory_ + "/touched." + std::to_string(getpid());

    if (!denied_.late) Deny(denied_.calls, denied_.error);
    Load(options, memory[0]);
    options.direct = RAMJET_DIRECT_ON;
    options.eager_threads = 4;
    Load(options, memory[1]);
    options.direct = RAMJET_DIRECT_OFF;
    options.kill_pid = getpid();
    Load(options, memory[2]);
    Load(options, memory[3]);
    Load(options, memory[4]);
    options.direct = RAMJET_DIRECT_AUTO;
    options.flags = RAMJET_RECORD;
    Load(options, memory[5], touched.c_str());
    options.flags = 0;
    options.working_set = touched.c_str();
    options.checksums = checksums.c_str();
    Load(options, memory[6]);
    options.working_set = nullptr;
    Abandon(options, memory[7]);
    LoadDevices();
    Save(touched + ".mr");
    unlink(touched.c_str());
    unlink((touched + ".mr").c_str());
    return refused_ ? kRefused : kRight;
  }

 private:
  bool Ok(int64_t result) {
    if (result >= 0) return true;
    if (*ramjet_error() == '\0') _exit(kNoWords);
    if (result == -ETIMEDOUT) _exit(kHangs);
    refused_ = true;
    return false;
  }

  // Null: refused.
  ramjet_load* Attach(const ramjet_options& options, const Memory& memory) {
    ramjet_load* load = nullptr;
    if (!Ok(ramjet_open((directory_ + "/guest.mr").c_str(), &options, &load))) return nullptr;
    if (!Ok(ramjet_attach(load, &memory.block))) {
      ramjet_close(load);
      return nullptr;
    }
    if (std::exchange(denied_.late, false)) Deny(denied_.calls, denied_.error);
    return load;
  }

  void Load(const ramjet_options& options, const Memory& memory, const char* record = nullptr) {
    ramjet_load* const load = Attach(options, memory);
    if (load == nullptr) return;
    for (const uint64_t page : {0, 3, 700, 1000}) {
      if (!Holds(memory.bytes, page)) _exit(kWrong);
    }
    if (record != nullptr) Ok(ramjet_save_working_set(load, record));
    const bool loaded =
        Ok(ramjet_start_eager(load)) && Ok(ramjet_wait(load, 20'000)) && Ok(ramjet_detach(load));
    if (loaded) {
      ramjet_collapse(load);
    } else {
      ramjet_abandon(load);
    }
    ramjet_close(load);
    for (uint64_t page = 0; loaded && page < kPages; ++page) {
      if (!Holds(memory.bytes, page)) _exit(kWrong);
    }
  }

  // What has not arrived must not be read as zeros.
  void Abandon(const ramjet_options& options, const Memory& memory) {
    ramjet_load* const load = Attach(options, memory);
    if (load == nullptr) return;
    Ok(ramjet_abandon(load));
    ramjet_close(load);
    int ends[2];
    if (pipe(ends) == 0 && write(ends[1], memory.bytes, 1) == 1) _exit(kWrong);
  }

  void LoadDevices() {
    ramjet_options options = RAMJET_OPTIONS_INIT;
    options.flags = RAMJET_NOT_LAZY;
    ramjet_load* load = nullptr;
    if (!Ok(ramjet_open((directory_ + "/guest.mr").c_str(), &options, &load))) return;
    ramjet_device_loader loader = RAMJET_DEVICE_LOADER_INIT;
    loader.name = "timer";
    loader.load = [](void*, const ramjet_device_state* state) {
      char text[8] = {};
      const int result = ramjet_read_device_state(state, 0, text, 8);
      if (result == 0 && std::strcmp(text, "ticking") != 0) _exit(kWrong);
      return result;
    };
    Ok(ramjet_load_devices(load, &loader, 1, nullptr));
    ramjet_close(load);
  }

  void Save(const std::string& path) {
    Memory memory(Kind::kPrivate);
    std::memset(memory.bytes, 77, kLength);
    const ramjet_save_block block{"ram", memory.bytes, kLength};
    if (!Ok(ramjet_save(path.c_str(), &block, 1, nullptr, 0))) return;
    ramjet_options options = RAMJET_OPTIONS_INIT;
    options.flags = RAMJET_NOT_LAZY;
    ramjet_load* load = nullptr;
    Memory read(Kind::kPrivate);
    if (!Ok(ramjet_open(path.c_str(), &options, &load))) return;
    const bool whole = Ok(ramjet_read_block(load, "ram", read.bytes, kLength));
    ramjet_close(load);
    if (whole && std::memcmp(read.bytes, memory.bytes, kLength) != 0) _exit(kWrong);
  }

  const std::string directory_;
  Denied denied_;
  bool refused_ = false;
};

class DeniedCalls : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer's own system calls would be denied, too";
#endif
    ramjet_load* load = nullptr;
    const std::string path = testing::TempDir() + "/guest.mr";
    Memory memory(Kind::kPrivate);
    for (uint64_t page = 0; page < kPages; ++page) {
      if (ContentOf(page) != 0) {
        std::memset(memory.bytes + page * kPageBytes, ContentOf(page), kPageBytes);
      }
    }
    const ramjet_save_block block{"ram", memory.bytes, kLength};
    const ramjet_save_device device{"timer", 0, 1, "ticking", 8};
    ASSERT_EQ(ramjet_save(path.c_str(), &block, 1, &device, 1), 0) << ramjet_error();
    munmap(memory.bytes, kLength);
    if (ramjet_open(path.c_str(), nullptr, &load) < 0) GTEST_SKIP() << ramjet_error();
    ramjet_close(load);
    absl::StatusOr<File> file = File::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    const absl::StatusOr<Checksums> sums = ComputeChecksums(**snapshot);
    ASSERT_TRUE(sums.ok()) << sums.status();
    absl::StatusOr<NewFile> sums_file = NewFile::Create(testing::TempDir() + "/guest.sums", {});
    ASSERT_TRUE(sums_file.ok() && StageChecksums(*sums, *sums_file).ok() &&
                sums_file->Publish().ok());
  }

  // What becomes of it where a call never worked, and where it ceases to.
  static std::vector<int> Verdicts(const std::vector<Denial>& calls) {
    std::vector<int> verdicts;
    for (const bool late : {false, true}) {
      const Denied denied{calls, late ? EPERM : ENOSYS, late};
      verdicts.push_back(RunInChild([&] { return Trip(testing::TempDir(), denied).Run(); }));
    }
    return verdicts;
  }
};

struct Named {
  const char* name;
  std::vector<Denial> calls;
};

TEST_F(DeniedCalls, NothingIsMissedWhereNothingIsDenied) {
  EXPECT_EQ(Verdicts({}), std::vector<int>(2, kRight));
}

// In the order of ramjet.h.
TEST_F(DeniedCalls, TheOptionalOnesAreNotMissed) {
  const Named optional[] = {
      {"process_vm_writev", {{SYS_process_vm_writev}, {SYS_process_vm_readv}}},
      {"pipe2", {{SYS_pipe2}}},
      {"io_uring", {{SYS_io_uring_setup}}},
      {"cachestat", {{451}}},
      {"preadv2", {{SYS_preadv2}}},
      {"fadvise64", {{SYS_fadvise64}}},
      {"statx", {{SYS_statx}}},
      {"setpriority", {{SYS_setpriority}}},
      {"sched_getaffinity", {{SYS_sched_getaffinity}}},
      {"prctl", {{SYS_prctl}}},
      {"pidfd", {{SYS_pidfd_open}, {SYS_pidfd_send_signal}}},
      {"mincore", {{SYS_mincore}}},
      {"userfaultfd", {{SYS_userfaultfd}}},
      {"io_submit", {{SYS_io_setup}, {SYS_io_submit}, {SYS_io_getevents}, {SYS_io_destroy}}},
      {"sync_file_range", {{SYS_sync_file_range}}},
      {"access", {{SYS_access}, {SYS_faccessat}}},
      {"fsync", {{SYS_fsync}}},
      {"prlimit64", {{SYS_prlimit64}, {SYS_getrlimit}}},
      {"MADV_HUGEPAGE", {{SYS_madvise, 2, MADV_HUGEPAGE}}},
      {"MADV_DONTFORK", {{SYS_madvise, 2, MADV_DONTFORK}}},
      {"MADV_COLD", {{SYS_madvise, 2, MADV_COLD}}},
      {"MADV_COLLAPSE", {{SYS_madvise, 2, 25}}},
      {"PROCMAP_QUERY", {{SYS_ioctl, 1, 0xc0686611}}},
      {"PAGEMAP_SCAN", {{SYS_ioctl, 1, 0xc0606610}}},
      {"UFFDIO_MOVE", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlMove)}}},
      {"USERFAULTFD_IOC_NEW", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlNew)}}},
  };
  for (const Named& one : optional) {
    EXPECT_EQ(Verdicts(one.calls), std::vector<int>(2, kRight)) << one.name;
  }
}

TEST_F(DeniedCalls, WithoutTheOthersALoadIsRightOrFailsInWords) {
  const Named needed[] = {
      {"both copies", {{SYS_process_vm_writev}, {SYS_pipe2}}},
      {"ioctl", {{SYS_ioctl}}},
      {"UFFDIO_API", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlApi)}}},
      {"UFFDIO_REGISTER", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlRegister)}}},
      {"UFFDIO_UNREGISTER", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlUnregister)}}},
      {"UFFDIO_COPY", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlCopy)}}},
      {"UFFDIO_ZEROPAGE", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlZeroPage)}}},
      {"UFFDIO_CONTINUE", {{SYS_ioctl, 1, static_cast<uint32_t>(uapi::kIoctlContinue)}}},
      {"eventfd2", {{SYS_eventfd2}}},
      {"ppoll", {{SYS_ppoll}}},
      {"clone", {{SYS_clone3}, {SYS_clone}}},
      {"madvise", {{SYS_madvise}}},
      {"mprotect", {{SYS_mprotect}}},
      {"pread64", {{SYS_pread64}}},
      {"openat", {{SYS_openat}}},
      {"fstat", {{SYS_fstat}, {SYS_newfstatat}}},
      {"fcntl", {{SYS_fcntl}}},
      {"nanosleep", {{SYS_nanosleep}, {SYS_clock_nanosleep}}},
      {"pwrite64", {{SYS_pwrite64}}},
      {"ftruncate", {{SYS_ftruncate}}},
      {"fdatasync", {{SYS_fdatasync}}},
      {"linkat", {{SYS_linkat}}},
      {"rename", {{SYS_rename}, {SYS_renameat}, {SYS_renameat2}}},
  };
  for (const Named& one : needed) {
    for (const int verdict : Verdicts(one.calls)) {
      EXPECT_TRUE(verdict == kRight || verdict == kRefused) << one.name << ": " << verdict;
    }
  }
}

// A denial is not said to be a lack of memory or a broken disk.
TEST_F(DeniedCalls, WhatIsDeniedIsAnErrorOfItsOwn) {
  EXPECT_EQ(RunInChild([] {
              Deny({{SYS_process_vm_writev}, {SYS_pipe2}}, ENOSYS);
              const Memory plain(Kind::kShared);
              const Memory aliased(Kind::kAliased);
              const std::string path = testing::TempDir() + "/guest.mr";
              const std::string other = path + ".other";
              const ramjet_save_block block{"ram", plain.bytes, kLength};
              if (ramjet_save(other.c_str(), &block, 1, nullptr, 0) != -EPERM) return __LINE__;
              ramjet_load* load = nullptr;
              if (ramjet_open(path.c_str(), nullptr, &load) != 0) return __LINE__;
              if (ramjet_attach(load, &aliased.block) != -EPERM) return __LINE__;
              if (ramjet_attach(load, &plain.block) != 0) return __LINE__;
              ramjet_close(load);
              return Holds(plain.bytes, 7) ? 0 : __LINE__;
            }),
            0);
  for (const Denial& call : {Denial{SYS_eventfd2}, Denial{SYS_clone3}}) {
    EXPECT_EQ(RunInChild([&call] {
                Deny({call, {SYS_clone}}, EPERM);
                ramjet_load* load = nullptr;
                return -ramjet_open((testing::TempDir() + "/guest.mr").c_str(), nullptr, &load);
              }),
              EPERM)
        << call.number;
  }
}

}  // namespace
}  // namespace ramjet
