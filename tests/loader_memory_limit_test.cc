// A VM in a memory cgroup that is full, without an OOM killer: the kernel answers installs with
// ENOMEM. Pages that a guest waited for were poisoned after two seconds of that, and reporting it
// took memory of its own, which ended the process.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "loader/load_stats.h"
#include "loader/snapshot_loader.h"
#include "tests/loader_testing.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr uint64_t kPages = 16384;  // 64 MiB

bool WriteTo(const std::string& path, const std::string& value) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  const bool written =
      fd >= 0 && write(fd, value.data(), value.size()) == static_cast<ssize_t>(value.size());
  if (fd >= 0) close(fd);
  return written;
}

// The only kind whose OOM killer can be switched off.
class CgroupV1 {
 public:
  CgroupV1() : path_("/sys/fs/cgroup/memory/ramjet_test." + std::to_string(getpid())) {
    made_ = mkdir(path_.c_str(), 0755) == 0 && WriteTo(File("memory.oom_control"), "1") &&
            WriteTo(File("memory.swappiness"), "0");
  }
  ~CgroupV1() { rmdir(path_.c_str()); }
  bool made() const { return made_; }
  bool Limit(uint64_t bytes) const {
    return WriteTo(File("memory.limit_in_bytes"), std::to_string(bytes));
  }
  bool Join() const { return WriteTo(File("cgroup.procs"), std::to_string(getpid())); }

 private:
  std::string File(const char* name) const { return path_ + "/" + name; }
  const std::string path_;
  bool made_ = false;
};

#define CHECK_IN_CHILD(what)                                          \
  if (!(what)) {                                                      \
    static const char kWhat[] = "in the cgroup, not so: " #what "\n"; \
    (void)!write(STDERR_FILENO, kWhat, sizeof(kWhat) - 1);            \
    _exit(1);                                                         \
  }

// Says that it is full by the eventfd `full`, which takes no memory, and expects the limit to be
// lifted then.
[[noreturn]] void RunVm(const CgroupV1& cgroup, int full) {
  CHECK_IN_CHILD(cgroup.Join());
  {
    OneBlockLoad load(kPages, {{0, kPages}}, MemoryKind::kPrivate);
    const LoadStats& stats = load.loader->stats();
    CHECK_IN_CHILD(cgroup.Limit(48 << 20));
    std::thread guest([&] {
      for (uint64_t page = 0; page < kPages; ++page) {
        CHECK_IN_CHILD(load.memory.HoldsPattern(page));
      }
    });
    // Its fault finds no memory, again and again: more often than anything was patient.
    while (stats.no_memory < 1200) std::this_thread::yield();
    CHECK_IN_CHILD(stats.poisoned == 0 && stats.error_count() == 0);
    CHECK_IN_CHILD(eventfd_write(full, 1) == 0);
    guest.join();
    CHECK_IN_CHILD(load.loader->Wait().ok());
    CHECK_IN_CHILD(stats.poisoned == 0 && stats.errors().empty());
  }
  _exit(0);
}

TEST(MemoryLimit, Invariant12LackOfMemoryMeansLater) {
  SKIP_WITHOUT_USERFAULTFD();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer takes memory of its own";
#endif
  const CgroupV1 cgroup;
  if (!cgroup.made()) {
    GTEST_SKIP() << "no memory cgroup (version 1) of our own: " << std::strerror(errno);
  }
  const int full = eventfd(0, EFD_CLOEXEC);
  ASSERT_GE(full, 0);
  const pid_t vm = fork();
  if (vm == 0) RunVm(cgroup, full);
  const int ended = static_cast<int>(syscall(SYS_pidfd_open, vm, 0));
  ASSERT_GE(ended, 0);
  pollfd news[] = {{.fd = full, .events = POLLIN, .revents = 0},
                   {.fd = ended, .events = POLLIN, .revents = 0}};
  ASSERT_GE(poll(news, 2, -1), 1);
  EXPECT_EQ(news[1].revents, 0) << "it has ended before it was full";
  EXPECT_TRUE(cgroup.Limit(uint64_t{1} << 40));
  int status = 0;
  ASSERT_EQ(waitpid(vm, &status, 0), vm);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  close(ended);
  close(full);
}

}  // namespace
}  // namespace ramjet
