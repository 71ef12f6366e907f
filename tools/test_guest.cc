#include "tools/test_guest.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "tools/fd.h"

namespace ramjet {
namespace {

constexpr char kDefaultKernel[] = "/usr/local/share/ramjet/vmlinuz";

// Chosen by measuring under TCG: /dev/urandom gives 34 MB/s, crc32 reads 135 MB/s (md5sum 110,
// sha1sum 45). `read -t` on a pipe that nobody writes is a sleep without a process of its own.
constexpr char kInit[] = R"sh(#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=95% fill /fill
mount -t tmpfs -o size=95% churn /churn
for module in $modules; do insmod /modules/$module; done
mkfifo /timer
pause() {
  case " $pauses " in
    *" $1 "*) devmem 0x$(awk '$2 == "1b360011" { print $4 }' /proc/bus/pci/devices) 8 1 ;;
  esac
}
n=0
while [ $((n * 8)) -lt $fill_mib ]; do
  dd if=/dev/urandom of=/fill/$n bs=1M count=8 2>/dev/null
  n=$((n + 1))
done
crc32 /fill/* >/sums
echo READY
(
  round=0
  while :; do
    round=$((round + 1))
    if crc32 /fill/* | cmp -s - /sums; then echo "sum $round OK"; else echo "sum $round CORRUPT"; fi
    pause $round
  done
) &
[ $churn_mib = 0 ] || (
  round=0
  while :; do
    round=$((round + 1))
    dd if=/dev/urandom of=/churn/file bs=1M count=$churn_mib 2>/dev/null
    first=$(crc32 </churn/file)
    [ "$(crc32 </churn/file)" = "$first" ] || echo "sum churn CORRUPT"
    rm /churn/file
    pause freed$round
    sleep 3
  done
) &
exec 3<>/timer
tick=0
while :; do
  tick=$((tick + 1))
  echo "tick $tick"
  read -t 0.02 _ <&3
done
)sh";

absl::StatusOr<std::string> ReadPath(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, path);
  return ReadWhole(fd.get());
}

// One archive in the "newc" format: headers of 13 hexadecimal fields, everything padded to 4 bytes.
class CpioArchive {
 public:
  static constexpr uint32_t kDirectory = 0040755;
  static constexpr uint32_t kProgram = 0100755;
  static constexpr uint32_t kCharacterDevice = 0020600;

  void Add(absl::string_view name, uint32_t mode, absl::string_view contents = "",
           uint32_t device_major = 0, uint32_t device_minor = 0) {
    // inode, mode, uid, gid, links, mtime, size, device (2), its own device numbers (2), name, sum.
    absl::StrAppendFormat(&bytes_, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
                          ++inode_, mode, 0, 0, 1, 0, contents.size(), 0, 0, device_major,
                          device_minor, name.size() + 1, 0);
    absl::StrAppend(&bytes_, name, absl::string_view("\0", 1));
    Pad();
    absl::StrAppend(&bytes_, contents);
    Pad();
  }

  std::string Finish() && {
    Add("TRAILER!!!", 0);
    return std::move(bytes_);
  }

 private:
  void Pad() { bytes_.resize((bytes_.size() + 3) / 4 * 4); }

  std::string bytes_;
  uint32_t inode_ = 0;
};

absl::string_view Basename(absl::string_view path) {
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

}  // namespace

absl::StatusOr<std::string> FindGuestKernel() {
  const char* chosen = std::getenv("RAMJET_KERNEL");
  const std::string kernel = chosen != nullptr ? chosen : kDefaultKernel;
  if (access(kernel.c_str(), R_OK) == 0) return kernel;
  return absl::NotFoundError(absl::StrCat("no guest kernel at ", kernel,
                                          ": run tools/setup, or name one in RAMJET_KERNEL"));
}

absl::StatusOr<std::string> FindBusybox() {
  for (const char* path : {"/usr/bin/busybox", "/bin/busybox"}) {
    if (access(path, X_OK) == 0) return path;
  }
  return absl::NotFoundError("no /usr/bin/busybox for the guest: run tools/setup");
}

absl::StatusOr<std::vector<std::string>> FindBalloonModules() {
  const absl::StatusOr<std::string> kernel = FindGuestKernel();
  if (!kernel.ok()) return kernel.status();
  const std::string directory =
      absl::StrCat(kernel->substr(0, kernel->size() - Basename(*kernel).size()), "modules/");
  std::vector<std::string> modules;
  for (const char* name : {"virtio_ring", "virtio", "virtio_pci_legacy_dev",
                           "virtio_pci_modern_dev", "virtio_pci", "virtio_balloon"}) {
    modules.push_back(absl::StrCat(directory, name, ".ko"));
    if (access(modules.back().c_str(), R_OK) != 0) {
      return absl::NotFoundError(
          absl::StrCat("no guest kernel module ", modules.back(), ": run tools/setup"));
    }
  }
  return modules;
}

absl::Status WriteInitramfs(const std::string& path, const std::vector<std::string>& modules) {
  const absl::StatusOr<std::string> busybox = FindBusybox();
  if (!busybox.ok()) return busybox.status();
  const absl::StatusOr<std::string> program = ReadPath(*busybox);
  if (!program.ok()) return program.status();

  CpioArchive archive;
  for (const char* directory : {"bin", "proc", "dev", "fill", "churn", "modules"}) {
    archive.Add(directory, CpioArchive::kDirectory);
  }
  archive.Add("dev/console", CpioArchive::kCharacterDevice, "", 5, 1);
  archive.Add("bin/busybox", CpioArchive::kProgram, *program);
  std::string names;
  for (const std::string& module : modules) {
    const absl::StatusOr<std::string> contents = ReadPath(module);
    if (!contents.ok()) return contents.status();
    archive.Add(absl::StrCat("modules/", Basename(module)), CpioArchive::kProgram, *contents);
    absl::StrAppend(&names, Basename(module), " ");
  }
  const absl::string_view script = kInit;
  const size_t first_line_end = script.find('\n') + 1;
  archive.Add("init", CpioArchive::kProgram,
              absl::StrCat(script.substr(0, first_line_end), "modules=\"", names, "\"\n",
                           script.substr(first_line_end)));

  const std::string bytes = std::move(archive).Finish();
  // In one step: of two guests that boot from one path, the first may be reading while the second
  // is being prepared, for QEMU's monitor answers before its machine is made.
  const std::string unfinished = path + ".new";
  {
    const UniqueFd file(open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file.valid()) return absl::ErrnoToStatus(errno, unfinished);
    if (write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
      return absl::UnavailableError(absl::StrCat("cannot write ", unfinished));
    }
  }
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) return absl::ErrnoToStatus(errno, path);
  return absl::OkStatus();
}

std::vector<std::string> MachineArgs(const GuestOptions& options) {
  std::vector<std::string> args = {"-accel",        options.accel, "-machine",
                                   options.machine, "-m",          absl::StrCat(options.memory_mib),
                                   "-display",      "none",        "-nodefaults"};
  if (!options.pauses.empty()) {
    args.insert(args.end(), {"-device", "pvpanic-pci", "-action", "panic=pause"});
  }
  args.insert(args.end(), options.devices.begin(), options.devices.end());
  return args;
}

std::vector<std::string> KernelArgs(const GuestOptions& options, const std::string& kernel,
                                    const std::string& initramfs) {
  // What the kernel does not know becomes environment of init.
  const std::string append =
      absl::StrCat("console=ttyS0 panic=-1 quiet fill_mib=", options.fill_mib,
                   " churn_mib=", options.churn_mib, " pauses=\"", options.pauses, "\"");
  return {"-kernel", kernel, "-initrd", initramfs, "-append", append};
}

std::vector<std::string> BootArgs(const GuestOptions& options, const std::string& kernel,
                                  const std::string& initramfs) {
  std::vector<std::string> args = MachineArgs(options);
  const std::vector<std::string> boot = KernelArgs(options, kernel, initramfs);
  args.insert(args.end(), boot.begin(), boot.end());
  return args;
}

std::optional<uint64_t> TickOf(absl::string_view line) {
  uint64_t tick = 0;
  if (!absl::ConsumePrefix(&line, "tick ") || !absl::SimpleAtoi(line, &tick)) return std::nullopt;
  return tick;
}

bool IsSumOk(absl::string_view line) {
  return absl::StartsWith(line, "sum ") && absl::EndsWith(line, " OK");
}

bool IsSumCorrupt(absl::string_view line) { return absl::StrContains(line, "CORRUPT"); }

absl::Status WaitUntilFilled(const SerialConsole& serial, absl::Time deadline) {
  return serial.WaitForLine([](const std::string& line) { return IsSumOk(line); }, deadline)
      .status();
}

uint64_t LastTick(const SerialConsole& serial) {
  uint64_t last = 0;
  for (const SerialConsole::Line& line : serial.Lines()) {
    last = std::max(last, TickOf(line.text).value_or(0));
  }
  return last;
}

}  // namespace ramjet
