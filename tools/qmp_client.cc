#include "tools/qmp_client.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {

absl::StatusOr<std::unique_ptr<QmpClient>> QmpClient::Open(UniqueFd socket, absl::Time deadline) {
  std::unique_ptr<QmpClient> client(new QmpClient(std::move(socket)));
  const absl::StatusOr<nlohmann::json> greeting = client->ReadMessage(deadline, "QMP greeting");
  if (!greeting.ok()) return greeting.status();
  if (!greeting->contains("QMP")) {
    return absl::InvalidArgumentError(absl::StrCat("not a QMP greeting: ", greeting->dump()));
  }
  const absl::StatusOr<nlohmann::json> negotiated =
      client->Execute("qmp_capabilities", nlohmann::json::object(), deadline - absl::Now());
  if (!negotiated.ok()) return negotiated.status();
  return client;
}

absl::StatusOr<nlohmann::json> QmpClient::Execute(absl::string_view command,
                                                  const nlohmann::json& arguments,
                                                  absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const std::string line = absl::StrCat(
      nlohmann::json{{"execute", std::string{command}}, {"arguments", arguments}}.dump(), "\n");
  // A command is far shorter than a socket's buffer, so this does not block for long.
  if (send(socket_.get(), line.data(), line.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(line.size())) {
    return absl::UnavailableError(absl::StrCat("QEMU hung up before ", command));
  }
  const std::string what = absl::StrCat("answer to ", command);
  while (true) {
    absl::StatusOr<nlohmann::json> message = ReadMessage(deadline, what);
    if (!message.ok()) return message.status();
    if (message->contains("return")) return std::move((*message)["return"]);
    if (message->contains("error")) {
      const nlohmann::json& error = (*message)["error"];
      const auto words = error.find("desc");
      return absl::FailedPreconditionError(absl::StrCat(
          command, ": ",
          words != error.end() && words->is_string() ? words->get<std::string>() : error.dump()));
    }
    KeepEvent(*message);
  }
}

absl::StatusOr<QmpEvent> QmpClient::WaitForEvent(absl::string_view name, absl::Time deadline) {
  const std::string what = absl::StrCat("event ", name);
  while (true) {
    const auto found = std::find_if(events_.begin(), events_.end(),
                                    [&](const QmpEvent& event) { return event.name == name; });
    if (found != events_.end()) {
      QmpEvent event = std::move(*found);
      events_.erase(found);
      return event;
    }
    const absl::StatusOr<nlohmann::json> message = ReadMessage(deadline, what);
    if (!message.ok()) return message.status();
    KeepEvent(*message);
  }
}

absl::StatusOr<nlohmann::json> QmpClient::ReadMessage(absl::Time deadline, absl::string_view what) {
  size_t line_end = 0;
  while ((line_end = received_.find('\n')) == std::string::npos) {
    const absl::Status readable = WaitReadable(socket_.get(), deadline, what);
    if (!readable.ok()) return readable;
    char buffer[8192];
    const ssize_t got = recv(socket_.get(), buffer, sizeof(buffer), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::UnavailableError(absl::StrCat("QEMU hung up: no ", what));
    received_.append(buffer, static_cast<size_t>(got));
  }
  // Without exceptions: a parse error gives a discarded value.
  nlohmann::json message =
      nlohmann::json::parse(received_.begin(), received_.begin() + static_cast<ptrdiff_t>(line_end),
                            nullptr, /*allow_exceptions=*/false);
  received_.erase(0, line_end + 1);
  if (!message.is_object()) return absl::InvalidArgumentError("QEMU sent what is not a QMP object");
  return message;
}

void QmpClient::KeepEvent(const nlohmann::json& message) {
  const auto name = message.find("event");
  if (name == message.end() || !name->is_string()) return;
  QmpEvent event{name->get<std::string>(), nlohmann::json::object(), absl::Now()};
  if (const auto data = message.find("data"); data != message.end()) event.data = *data;
  const nlohmann::json stamp = message.value("timestamp", nlohmann::json::object());
  if (stamp.contains("seconds") && stamp["seconds"].is_number_integer() &&
      stamp.contains("microseconds") && stamp["microseconds"].is_number_integer()) {
    event.emitted = absl::FromUnixSeconds(stamp["seconds"].get<int64_t>()) +
                    absl::Microseconds(stamp["microseconds"].get<int64_t>());
  }
  events_.push_back(std::move(event));
}

}  // namespace ramjet
