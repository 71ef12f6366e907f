#include "tools/qmp_client.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
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

absl::StatusOr<std::unique_ptr<QmpClient>> QmpClient::Connect(const std::string& path,
                                                              absl::Time deadline) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": longer than the ",
                                                   sizeof(address.sun_path) - 1,
                                                   " bytes that the name of a socket may have"));
  }
  path.copy(address.sun_path, path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid() ||
      connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot connect to QEMU's monitor"));
  }
  absl::StatusOr<std::unique_ptr<QmpClient>> client = Open(std::move(socket), deadline);
  if (client.ok()) return client;
  return absl::Status(
      client.status().code(),
      absl::StrCat(path, ": ", client.status().message(),
                   absl::IsDeadlineExceeded(client.status())
                       ? "; is it a QMP monitor, and does nobody else speak with it?"
                       : ""));
}

absl::StatusOr<nlohmann::json> QmpClient::Execute(absl::string_view command,
                                                  const nlohmann::json& arguments,
                                                  absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const absl::Status sent = Send(command, arguments, -1);
  if (!sent.ok()) return sent;
  return ReadAnswer(command, deadline);
}

absl::StatusOr<nlohmann::json> QmpClient::ExecuteWithFd(absl::string_view command,
                                                        const nlohmann::json& arguments, int fd) {
  const absl::Time deadline = absl::Now() + kCommandTimeout;
  const absl::Status sent = Send(command, arguments, fd);
  if (!sent.ok()) return sent;
  return ReadAnswer(command, deadline);
}

// `fd` goes with it if it is not -1.
absl::Status QmpClient::Send(absl::string_view command, const nlohmann::json& arguments, int fd) {
  std::string line = absl::StrCat(
      nlohmann::json{{"execute", std::string{command}}, {"arguments", arguments}}.dump(), "\n");
  iovec bytes = {line.data(), line.size()};
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fd))] = {};
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(fd));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  }
  // A command is far shorter than a socket's buffer, so this does not block for long.
  if (sendmsg(socket_.get(), &message, MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return absl::UnavailableError(absl::StrCat("QEMU hung up before ", command));
  }
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> QmpClient::ReadAnswer(absl::string_view command,
                                                     absl::Time deadline) {
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

namespace {

// Null if there is none, or `object` is not one.
nlohmann::json Member(const nlohmann::json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() ? nlohmann::json() : *found;
}

}  // namespace

std::string StringMember(const nlohmann::json& object, const char* name) {
  const nlohmann::json member = Member(object, name);
  return member.is_string() ? member.get<std::string>() : "";
}

uint64_t NumberMember(const nlohmann::json& object, const char* name) {
  const nlohmann::json member = Member(object, name);
  return member.is_number_unsigned() ? member.get<uint64_t>() : 0;
}

bool BoolMember(const nlohmann::json& object, const char* name) {
  const nlohmann::json member = Member(object, name);
  return member.is_boolean() && member.get<bool>();
}

}  // namespace ramjet
