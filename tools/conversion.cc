#include "tools/conversion.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace ramjet {
namespace {

constexpr absl::Duration kPollEvery = absl::Milliseconds(100);

}  // namespace

uint64_t Conversion::total_bytes() const {
  uint64_t total = 0;
  for (const GuestImage::Block& block : image.blocks) total += block.length;
  return total;
}

absl::Status Conversion::Watch(const std::function<uint64_t()>& done_bytes,
                               const std::function<void()>& cancel,
                               const std::function<absl::Status()>& work) {
  if (signals_.Came()) {
    return absl::CancelledError(absl::StrCat(options_.out, ": its writing was cancelled"));
  }
  absl::Status status;
  absl::Notification finished;
  std::thread worker([&] {
    status = work();
    finished.Notify();
  });
  while (!finished.WaitForNotificationWithTimeout(kPollEvery)) {
    bar_.Show(done_bytes(), total_bytes());
    if (signals_.Came()) cancel();
  }
  worker.join();
  return status;
}

}  // namespace ramjet
