// Speaks QMP, QEMU's control protocol, over a connected socket.
#ifndef RAMJET_TOOLS_QMP_CLIENT_H_
#define RAMJET_TOOLS_QMP_CLIENT_H_

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

  // The command's "return" member; FailedPrecondition with QEMU's own words if it refuses.
  absl::StatusOr<nlohmann::json> Execute(absl::string_view command,
                                         const nlohmann::json& arguments = nlohmann::json::object(),
                                         absl::Duration timeout = kCommandTimeout);

  // The oldest event of that name that was not returned yet, kept or still to come.
  absl::StatusOr<QmpEvent> WaitForEvent(absl::string_view name, absl::Time deadline);

 private:
  explicit QmpClient(UniqueFd socket) : socket_(std::move(socket)) {}

  absl::StatusOr<nlohmann::json> ReadMessage(absl::Time deadline, absl::string_view what);
  void KeepEvent(const nlohmann::json& message);

  UniqueFd socket_;
  std::string received_;  // bytes that do not make a line yet
  std::deque<QmpEvent> events_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_QMP_CLIENT_H_
