// What a guest prints on its serial line, each line with the time of its arrival.
#ifndef RAMJET_TOOLS_SERIAL_CONSOLE_H_
#define RAMJET_TOOLS_SERIAL_CONSOLE_H_

#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tools/fd.h"

namespace ramjet {

// Reads until the other side hangs up, in a thread of its own, so that a time is never that of a
// late look. Every method may be called from any thread.
class SerialConsole {
 public:
  struct Line {
    absl::Time received;  // when its end was read
    std::string text;     // without the line end
  };

  // Takes the connected socket.
  explicit SerialConsole(UniqueFd socket);
  ~SerialConsole();
  SerialConsole(const SerialConsole&) = delete;
  SerialConsole& operator=(const SerialConsole&) = delete;

  // The first line, of those already there and those to come, for which `wanted` is true.
  // Unavailable if the guest's line ends before, DeadlineExceeded with the last line otherwise.
  absl::StatusOr<Line> WaitForLine(absl::FunctionRef<bool(const std::string&)> wanted,
                                   absl::Time deadline) const;
  std::vector<Line> Lines() const;

 private:
  void Read();

  const UniqueFd socket_;
  mutable absl::Mutex mu_;
  std::vector<Line> lines_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  std::thread reader_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_SERIAL_CONSOLE_H_
