#include "tools/scratch_dir.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/deferred_signals.h"

namespace ramjet {
namespace {

void RemoveTree(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScratchDir>> ScratchDir::Create(
    std::function<bool()> outlives_interrupt) {
  for (const char* base : std::initializer_list<const char*>{
           std::getenv("TEST_TMPDIR"), std::getenv("TMPDIR"), "/var/tmp", "/tmp"}) {
    if (base == nullptr) continue;
    std::string path = absl::StrCat(base, "/ramjet.XXXXXX");
    if (mkdtemp(path.data()) != nullptr) {
      return std::unique_ptr<ScratchDir>(new ScratchDir(path, std::move(outlives_interrupt)));
    }
  }
  return absl::ErrnoToStatus(errno, "no temporary directory in $TMPDIR, /var/tmp or /tmp");
}

ScratchDir::ScratchDir(std::string path, std::function<bool()> outlives_interrupt)
    : path_(std::move(path)),
      outlives_interrupt_(std::move(outlives_interrupt)),
      stop_(eventfd(0, EFD_CLOEXEC)) {
  const sigset_t signals = EndingSignals();
  pthread_sigmask(SIG_BLOCK, &signals, &mask_before_);
  signals_ = UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC));
  signal_thread_ = std::thread([this] { AwaitSignals(); });
}

ScratchDir::~ScratchDir() {
  eventfd_write(stop_.get(), 1);
  signal_thread_.join();
  if (!keep_) RemoveTree(path_);
  pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
}

std::string ScratchDir::File(absl::string_view name) const {
  return absl::StrCat(path_, "/", name);
}

void ScratchDir::AwaitSignals() {
  pollfd watched[] = {{signals_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  signalfd_siginfo received;
  do {
    while (poll(watched, 2, -1) < 0 && errno == EINTR) {
    }
    if (watched[1].revents != 0 ||
        read(signals_.get(), &received, sizeof(received)) != sizeof(received)) {
      return;
    }
  } while (received.ssi_signo == SIGINT && outlives_interrupt_ != nullptr && outlives_interrupt_());
  if (!keep_) RemoveTree(path_);
  // Ends us as if it had never been blocked, so that the shell sees a death by signal.
  const int number = static_cast<int>(received.ssi_signo);
  sigset_t signal_only;
  sigemptyset(&signal_only);
  sigaddset(&signal_only, number);
  signal(number, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &signal_only, nullptr);
  raise(number);
}

}  // namespace ramjet
