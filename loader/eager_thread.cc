#include "loader/eager_thread.h"

#include <sys/resource.h>

#include <optional>
#include <utility>

namespace ramjet {
namespace {

// Where there are fewer processors than vCPUs and threads of ours, a vCPU that has just been given
// its page, and the fault thread, come first. A third of a busy processor is left for loading
// ahead.
constexpr int kNice = 5;

}  // namespace

absl::StatusOr<std::unique_ptr<EagerThread>> EagerThread::Start(const Parts& parts, bool spare) {
  std::unique_ptr<EagerThread> self(new EagerThread(parts, spare));
  absl::StatusOr<std::unique_ptr<Thread>> thread =
      Thread::Start("ramjet-eager", [raw = self.get()] { raw->Run(); });
  if (!thread.ok()) return thread.status();
  self->thread_ = *std::move(thread);
  return self;
}

void EagerThread::Run() {
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // on Linux, of the calling thread
  // Before there is anything for us to do, perhaps: until it is known, no window comes whole to who
  // touches it.
  parts_.huge_pages.DecideAll();
  while (!spare_ || parts_.pacer.waits_for_disk()) {
    if (windows_.LoadOffered(parts_.offers)) continue;
    const bool others_come = windows_.any_begun();
    std::optional<EagerQueue::Window> window =
        others_come ? parts_.queue.TryNext() : parts_.queue.Next();
    if (window) {
      windows_.LoadWindow(*std::move(window));
    } else if (others_come) {
      windows_.EndOldest();
    } else {
      return;
    }
  }
  while (windows_.any_begun()) windows_.EndOldest();
}

}  // namespace ramjet
