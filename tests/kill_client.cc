// A process with a guest that runs while its memory is loaded, there to be killed.
//
//   kill_client SNAPSHOT private|shared READ_DELAY_US
//
// Writes "r" to stdout when the load begins and "d" when it is complete, and stays until it is
// killed.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "loader/snapshot_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "tests/slow_source.h"

namespace ramjet {
namespace {

void Check(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "kill_client: %s\n", what.c_str());
  std::_Exit(1);
}

void Say(char what) { Check(write(STDOUT_FILENO, &what, 1) == 1, "nobody listens"); }

// Touches pages all over, as a guest by turns and as a system call does.
[[noreturn]] void RunGuest(const uint8_t* memory, uint64_t length, uint64_t step) {
  const uint64_t pages = length / HostPageBytes();
  int fds[2];
  Check(pipe(fds) == 0, "pipe");
  for (uint64_t at = 0;; ++at) {
    const uint8_t* const byte = memory + at * step % pages * HostPageBytes();
    char read_back;
    if (at % 2 == 0) {
      (void)*static_cast<const volatile uint8_t*>(byte);
    } else {
      Check(write(fds[1], byte, 1) == 1 && read(fds[0], &read_back, 1) == 1, "a page is refused");
    }
    if (at > pages) usleep(1000);
  }
}

int Main(const std::string& path, bool shared, absl::Duration read_delay) {
  absl::StatusOr<File> file = File::Open(path);
  Check(file.ok(), file.status().ToString());
  absl::StatusOr<std::unique_ptr<Snapshot>> opened = Snapshot::Open(*std::move(file));
  Check(opened.ok(), opened.status().ToString());
  const std::shared_ptr<Snapshot> snapshot = *std::move(opened);
  const uint64_t length = snapshot->blocks()[0].used_length;
  int memfd = -1;
  if (shared) {
    memfd = memfd_create("guest", MFD_CLOEXEC);
    Check(memfd >= 0 && ftruncate(memfd, static_cast<off_t>(length)) == 0, "memfd");
  }
  void* const memory =
      mmap(nullptr, length, PROT_READ | PROT_WRITE,
           shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, memfd, 0);
  Check(memory != MAP_FAILED, "memory");
  madvise(memory, length, MADV_HUGEPAGE);

  Say('r');
  const SlowSource source(*snapshot, read_delay);
  auto loader = SnapshotLoader::Create(snapshot, {}, &source);
  Check(loader.ok(), loader.status().ToString());
  const absl::Status attached = (*loader)->Attach(
      0, {.host = memory, .memory = shared ? BlockMemory::kShared : BlockMemory::kPrivate});
  Check(attached.ok(), attached.ToString());
  // Steps that are odd reach every page of a power of two.
  for (const uint64_t step : {4097u, 30011u}) {
    std::thread(RunGuest, static_cast<const uint8_t*>(memory), length, step).detach();
  }
  const absl::Status started = (*loader)->StartEager();
  Check(started.ok(), started.ToString());
  const absl::Status waited = (*loader)->Wait();
  Check(waited.ok(), waited.ToString());
  const absl::Status detached = (*loader)->Detach();
  Check(detached.ok(), detached.ToString());
  Say('d');
  for (;;) pause();
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  return ramjet::Main(argv[1], std::strcmp(argv[2], "shared") == 0,
                      absl::Microseconds(std::atoi(argv[3])));
}
