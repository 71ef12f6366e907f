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

#include "absl/strings/str_cat.h"
#include "tools/deferred_signals.h"

namespace ramjet {
namespace {

void RemoveTree(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScratchDir>> ScratchDir::Create() {
  for (const char* base : std::initializer_list<const char*>{
           std::getenv("TEST_TMPDIR"), std::getenv("TMPDIR"), "/var/tmp", "/tmp"}) {
    if (base == nullptr) continue;
    std::string path = absl::StrCat(base, "/ramjet.XXXXXX");
    if (mkdtemp(path.data()) != nullptr) return std::unique_ptr<ScratchDir>(new ScratchDir(path));
  }
  return absl::ErrnoToStatus(errno, "no temporary directory in $TMPDIR, /var/tmp or /tmp");
}

ScratchDir::ScratchDir(std::string path) : path_(std::move(path)), stop_(eventfd(0, EFD_CLOEXEC)) {
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
  while (poll(watched, 2, -1) < 0 && errno == EINTR) {
  }
  signalfd_siginfo received;
  if (watched[1].revents != 0 ||
      read(signals_.get(), &received, sizeof(received)) != sizeof(received)) {
    return;
  }
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
