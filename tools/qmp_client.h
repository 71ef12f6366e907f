// Speaks QMP, QEMU's control protocol, over a connected socket.
#ifndef RAMJET_TOOLS_QMP_CLIENT_H_
#define RAMJET_TOOLS_QMP_CLIENT_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tools/fd.h"

namespace ramjet {

struct QmpEvent {
  std::string name;
  nlohmann::json data;
  // When QEMU emitted it, by QEMU's own clock (the host's CLOCK_REALTIME, as absl::Now() is): no
  // polling and no delay of ours is in it.
  absl::Time emitted;
};

// A blocking client. Events that arrive meanwhile are kept until somebody waits for them.
//
// Owned by one thread.
class QmpClient {
 public:
  static constexpr absl::Duration kCommandTimeout = absl::Seconds(120);

  // Reads the greeting and negotiates. Unavailable if the other side hangs up.
  static absl::StatusOr<std::unique_ptr<QmpClient>> Open(UniqueFd socket, absl::Time deadline);
  // Open() on the unix socket `path`. DeadlineExceeded also if QEMU speaks with somebody else: a
  // monitor has one client at a time.
  static absl::StatusOr<std::unique_ptr<QmpClient>> Connect(const std::string& path,
                                                            absl::Time deadline);

  // The command's "return" member; FailedPrecondition with QEMU's own words if it refuses.
  absl::StatusOr<nlohmann::json> Execute(absl::string_view command,
                                         const nlohmann::json& arguments = nlohmann::json::object(),
                                         absl::Duration timeout = kCommandTimeout);
  // The same for a command that takes a descriptor, which stays the caller's: add-fd, getfd. The
  // socket has to be a unix one.
  absl::StatusOr<nlohmann::json> ExecuteWithFd(absl::string_view command,
                                               const nlohmann::json& arguments, int fd);

  // The oldest event of that name that was not returned yet, kept or still to come.
  absl::StatusOr<QmpEvent> WaitForEvent(absl::string_view name, absl::Time deadline);

 private:
  explicit QmpClient(UniqueFd socket) : socket_(std::move(socket)) {}

  absl::Status Send(absl::string_view command, const nlohmann::json& arguments, int fd);
  absl::StatusOr<nlohmann::json> ReadAnswer(absl::string_view command, absl::Time deadline);
  absl::StatusOr<nlohmann::json> ReadMessage(absl::Time deadline, absl::string_view what);
  void KeepEvent(const nlohmann::json& message);

  UniqueFd socket_;
  std::string received_;  // bytes that do not make a line yet
  std::deque<QmpEvent> events_;
};

// Members of what QEMU answers; "", 0 and false where there is none of that type.
std::string StringMember(const nlohmann::json& object, const char* name);
uint64_t NumberMember(const nlohmann::json& object, const char* name);
bool BoolMember(const nlohmann::json& object, const char* name);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_QMP_CLIENT_H_
