// A temporary directory that goes away with us.
#ifndef RAMJET_TOOLS_SCRATCH_DIR_H_
#define RAMJET_TOOLS_SCRATCH_DIR_H_

#include <signal.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/fd.h"

namespace ramjet {

// Made under the first of $TEST_TMPDIR, $TMPDIR, /var/tmp and /tmp that can be written; removed
// with all that is in it by the destructor, and when Ctrl-C, a termination or a hang-up ends us.
//
// While it lives these signals are blocked in the thread that made it and in those started later:
// make it first, and only one of them.
class ScratchDir {
 public:
  static absl::StatusOr<std::unique_ptr<ScratchDir>> Create();
  ~ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(absl::string_view name) const;
  // Leaves the directory behind.
  void Keep() { keep_ = true; }

 private:
  explicit ScratchDir(std::string path);

  void AwaitSignals();

  const std::string path_;
  bool keep_ = false;
  sigset_t mask_before_;
  UniqueFd signals_;
  UniqueFd stop_;
  std::thread signal_thread_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_SCRATCH_DIR_H_
