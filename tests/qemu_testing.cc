#include "tests/qemu_testing.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/lazy_launch.h"
#include "tools/requirements.h"

namespace ramjet {

std::string WhyNoQemu() { return absl::StrJoin(MissingRequirements(), "; "); }

std::string RamjetCommand() { return std::filesystem::absolute("tools/ramjet").string(); }

absl::StatusOr<std::unique_ptr<SourceGuest>> SourceGuest::Boot(
    const GuestOptions& options, const std::string& initramfs_path,
    const std::vector<std::string>& modules) {
  std::unique_ptr<SourceGuest> guest(new SourceGuest(options));
  const absl::StatusOr<std::string> kernel = FindGuestKernel();
  if (!kernel.ok()) return kernel.status();
  const absl::Status written = WriteInitramfs(initramfs_path, modules);
  if (!written.ok()) return written;
  QemuOptions qemu_options;
  qemu_options.args = BootArgs(options, *kernel, initramfs_path);
  absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = QemuProcess::Start(qemu_options);
  if (!qemu.ok()) return qemu.status();
  guest->qemu_ = *std::move(qemu);
  return guest;
}

absl::Status SourceGuest::WaitUntilFilled() const {
  absl::Status filled = ramjet::WaitUntilFilled(qemu_->serial(), Soon());
  if (filled.ok()) return filled;
  return absl::Status(filled.code(),
                      absl::StrCat(filled.message(), "; QEMU said: ", qemu_->Stderr()));
}

absl::StatusOr<std::unique_ptr<QemuProcess>> StartTarget(const TargetOptions& options) {
  QemuOptions qemu_options;
  if (!options.stats_path.empty()) {
    qemu_options.launcher = RamjetRun(RamjetCommand(), options.stats_path);
    qemu_options.launcher.insert(qemu_options.launcher.end() - 1, options.ramjet_flags.begin(),
                                 options.ramjet_flags.end());
  }
  qemu_options.args = MachineArgs(options.guest);
  qemu_options.args.insert(qemu_options.args.end(), options.args.begin(), options.args.end());
  qemu_options.args.insert(qemu_options.args.end(), {"-incoming", "defer"});
  if (options.paused) qemu_options.args.push_back("-S");
  qemu_options.inherited_fds = options.inherited_fds;
  qemu_options.daemon_pidfile = options.daemon_pidfile;
  return QemuProcess::Start(qemu_options);
}

absl::Status ExpectGoodSums(const QemuProcess& qemu, int times) {
  const size_t seen = qemu.serial().Lines().size();
  size_t line_number = 0;
  std::string wrong;
  absl::Status reached = qemu.serial()
                             .WaitForLine(
                                 [&](const std::string& line) {
                                   if (IsSumCorrupt(line)) wrong = line;
                                   if (line_number++ >= seen && IsSumOk(line)) --times;
                                   return times <= 0 || !wrong.empty();
                                 },
                                 Soon())
                             .status();
  if (!wrong.empty()) return absl::DataLossError(absl::StrCat("the guest says: ", wrong));
  return reached;
}

absl::Status WaitForPause(QemuProcess& qemu) {
  const absl::StatusOr<QmpEvent> paused = qemu.WaitForEvent("GUEST_PANICKED", Soon());
  if (!paused.ok()) return paused.status();
  return qemu.WaitForEvent("STOP", Soon()).status();
}

bool Eventually(const QemuProcess& qemu, absl::FunctionRef<bool()> condition) {
  const absl::Time deadline = Soon();
  while (!condition()) {
    const size_t seen = qemu.serial().Lines().size();
    size_t line_number = 0;
    const auto next = qemu.serial().WaitForLine(
        [&](const std::string&) { return line_number++ >= seen; }, deadline);
    if (!next.ok()) return false;
  }
  return true;
}

bool IsLoading(const QemuProcess& qemu, const std::string& stats_path) {
  bool has_userfaultfd = false;
  std::error_code error;
  for (const auto& fd :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", qemu.pid(), "/fd"), error)) {
    const std::string target = std::filesystem::read_symlink(fd.path(), error).string();
    has_userfaultfd = has_userfaultfd || target == "anon_inode:[userfaultfd]";
  }
  return has_userfaultfd && !std::filesystem::exists(stats_path, error);
}

nlohmann::json BlockStats(const nlohmann::json& stats, const std::string& idstr) {
  for (const nlohmann::json& block : stats.value("blocks", nlohmann::json::array())) {
    if (block.value("idstr", nlohmann::json()) == idstr) return block;
  }
  return nullptr;
}

}  // namespace ramjet
