// A small Linux guest whose every page of memory matters and which says so on its serial line.
//
// It fills a tmpfs with random bytes, takes their checksum, says READY, and then for ever
//   - prints `tick N` about every 20 ms: the first one after a restore is its first useful work;
//   - reads the whole tmpfs again and prints `sum N OK` or `sum N CORRUPT`;
//   - if asked to, fills and frees some more memory, so that a balloon or free page reporting has
//     something to take.
// At moments of your choice it pauses its machine by itself, so that it can be saved, or compared,
// exactly there.
#ifndef RAMJET_TOOLS_TEST_GUEST_H_
#define RAMJET_TOOLS_TEST_GUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tools/serial_console.h"

namespace ramjet {

// $RAMJET_KERNEL, or where tools/setup puts it. NotFound says what to do.
absl::StatusOr<std::string> FindGuestKernel();
// A static busybox. NotFound says what to do.
absl::StatusOr<std::string> FindBusybox();
// The kernel modules of virtio-balloon, in the order of loading, from `modules` beside the kernel.
absl::StatusOr<std::vector<std::string>> FindBalloonModules();

// Writes an uncompressed initramfs (cpio "newc"): unpacking would cost an emulated guest more than
// reading. `modules` are loaded first.
absl::Status WriteInitramfs(const std::string& path, const std::vector<std::string>& modules = {});

struct GuestOptions {
  std::string accel = "tcg";
  std::string machine = "pc";
  uint64_t memory_mib = 1024;
  uint64_t fill_mib = 424;
  uint64_t churn_mib = 0;
  // Words: "3" pauses the machine once the third checksum has been compared, "freed3" once the
  // churned memory has been freed three times. QEMU then emits GUEST_PANICKED and STOP, and `cont`
  // makes the guest go on.
  std::string pauses;
  std::vector<std::string> devices;  // further arguments that both sides of a migration need
};

// What a machine that loads this guest's snapshot is started with.
std::vector<std::string> MachineArgs(const GuestOptions& options);
// What boots the guest.
std::vector<std::string> KernelArgs(const GuestOptions& options, const std::string& kernel,
                                    const std::string& initramfs);
// Both.
std::vector<std::string> BootArgs(const GuestOptions& options, const std::string& kernel,
                                  const std::string& initramfs);

// The number in a `tick N` line.
std::optional<uint64_t> TickOf(absl::string_view line);
bool IsSumOk(absl::string_view line);
bool IsSumCorrupt(absl::string_view line);

// Until the guest has filled its memory and has found its own checksum right once.
absl::Status WaitUntilFilled(const SerialConsole& serial, absl::Time deadline);
// The highest tick printed so far; 0 for none.
uint64_t LastTick(const SerialConsole& serial);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_TEST_GUEST_H_
