// A temporary directory that goes away with us.
#ifndef RAMJET_TOOLS_SCRATCH_DIR_H_
#define RAMJET_TOOLS_SCRATCH_DIR_H_

#include <signal.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/fd.h"

namespace ramjet {

// Made under the first of $TEST_TMPDIR, $TMPDIR, /var/tmp and /tmp that can be written; removed
// with all that is in it by the destructor, and when Ctrl-C, a termination or a hang-up ends us.
// Who has something to finish first gives Create() a function: it is called at every Ctrl-C, by a
// thread of its own, and true means that we live on.
//
// While it lives these signals are blocked in the thread that made it and in those started later:
// make it first, and only one of them.
class ScratchDir {
 public:
  static absl::StatusOr<std::unique_ptr<ScratchDir>> Create(
      std::function<bool()> outlives_interrupt = nullptr);
  ~ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(absl::string_view name) const;
  // Leaves the directory behind.
  void Keep() { keep_ = true; }

 private:
  ScratchDir(std::string path, std::function<bool()> outlives_interrupt);

  void AwaitSignals();

  const std::string path_;
  const std::function<bool()> outlives_interrupt_;  // may be null
  bool keep_ = false;
  sigset_t mask_before_;
  UniqueFd signals_;
  UniqueFd stop_;
  std::thread signal_thread_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_SCRATCH_DIR_H_
