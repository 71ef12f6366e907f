#include "tools/serial_console.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace ramjet {

SerialConsole::SerialConsole(UniqueFd socket)
    : socket_(std::move(socket)), reader_([this] { Read(); }) {}

SerialConsole::~SerialConsole() {
  shutdown(socket_.get(), SHUT_RDWR);
  reader_.join();
}

absl::StatusOr<SerialConsole::Line> SerialConsole::WaitForLine(
    absl::FunctionRef<bool(const std::string&)> wanted, absl::Time deadline) const {
  absl::MutexLock lock(&mu_);
  size_t next = 0;
  while (true) {
    for (; next < lines_.size(); ++next) {
      if (wanted(lines_[next].text)) return lines_[next];
    }
    if (ended_) return absl::UnavailableError("the guest's serial line has ended");
    const auto more = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return ended_ || next < lines_.size();
    };
    if (!mu_.AwaitWithDeadline(absl::Condition(&more), deadline)) {
      return absl::DeadlineExceededError(
          absl::StrCat("the guest did not say so in time; its last line: \"",
                       lines_.empty() ? "" : lines_.back().text, "\""));
    }
  }
}

std::vector<SerialConsole::Line> SerialConsole::Lines() const {
  absl::MutexLock lock(&mu_);
  return lines_;
}

void SerialConsole::Read() {
  std::string unfinished;
  char buffer[4096];
  while (true) {
    const ssize_t got = recv(socket_.get(), buffer, sizeof(buffer), 0);
    if (got < 0 && errno == EINTR) continue;
    const absl::Time now = absl::Now();
    absl::MutexLock lock(&mu_);
    if (got <= 0) {
      ended_ = true;
      return;
    }
    for (ssize_t i = 0; i < got; ++i) {
      if (buffer[i] == '\n') {
        lines_.push_back({now, std::exchange(unfinished, "")});
      } else if (buffer[i] != '\r') {
        unfinished.push_back(buffer[i]);
      }
    }
  }
}

}  // namespace ramjet
