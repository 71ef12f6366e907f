// What the tests with a real QEMU share: a guest to save, and machines that load it.
#ifndef RAMJET_TESTS_QEMU_TESTING_H_
#define RAMJET_TESTS_QEMU_TESTING_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "tools/migration.h"
#include "tools/qemu_process.h"
#include "tools/scratch_dir.h"
#include "tools/test_guest.h"

namespace ramjet {

constexpr absl::Duration kPatience = absl::Minutes(2);

inline absl::Time Soon() { return absl::Now() + kPatience; }

// Why no QEMU test can run here; empty if they can. For GTEST_SKIP().
std::string WhyNoQemu();

// The `ramjet` command among the test's runfiles.
std::string RamjetCommand();

// A booted guest that fills its memory. A save stops it; before it can be saved again, it has to
// run (`cont`).
class SourceGuest {
 public:
  // Starts booting and returns at once, so that several can boot beside each other.
  static absl::StatusOr<std::unique_ptr<SourceGuest>> Boot(
      const GuestOptions& options, const std::string& initramfs_path,
      const std::vector<std::string>& modules = {});

  const GuestOptions& options() const { return options_; }
  QemuProcess& qemu() { return *qemu_; }
  absl::Status WaitUntilFilled() const;

 private:
  explicit SourceGuest(GuestOptions options) : options_(std::move(options)) {}

  GuestOptions options_;
  std::unique_ptr<QemuProcess> qemu_;
};

// A machine that waits for `migrate-incoming`.
struct TargetOptions {
  GuestOptions guest;
  bool paused = true;                     // stays so after the load
  std::string stats_path;                 // not empty: under `ramjet run`, with statistics there
  std::vector<std::string> ramjet_flags;  // for `ramjet run`
  std::vector<std::string> args;          // for QEMU
  std::vector<int> inherited_fds;
  std::string daemon_pidfile;
};
absl::StatusOr<std::unique_ptr<QemuProcess>> StartTarget(const TargetOptions& options);

// Runs on the guest's own word: OK once it has found its checksum right `times` more times, with
// never a wrong one since it is with us.
absl::Status ExpectGoodSums(const QemuProcess& qemu, int times);

// Until a guest with `pauses` has paused its machine.
absl::Status WaitForPause(QemuProcess& qemu);

// True once `condition` is, looked at after every tick of the guest; false after kPatience.
bool Eventually(const QemuProcess& qemu, absl::FunctionRef<bool()> condition);

// Whether ramjet still loads in that QEMU: its userfaultfd is open, and the statistics of a
// complete load have not been written.
bool IsLoading(const QemuProcess& qemu, const std::string& stats_path);

// The statistics' entry of a block; null if there is none.
nlohmann::json BlockStats(const nlohmann::json& stats, const std::string& idstr);

}  // namespace ramjet

#endif  // RAMJET_TESTS_QEMU_TESTING_H_
