// The rival: a plain userfaultfd handler, as well written as such handlers are.
//
// One thread, one descriptor: epoll, one message per read, one pread and one UFFDIO_COPY per page.
// When no fault waits it loads the next page that nobody has touched, one per turn, as Cloud
// Hypervisor and the fast snapshot load of QEMU 11.2 do. Without that it is the bare loop against
// which a fault of ramjet is measured.
#ifndef RAMJET_TOOLS_BENCH_ONE_PAGE_LOADER_H_
#define RAMJET_TOOLS_BENCH_ONE_PAGE_LOADER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/types/span.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot_description.h"
#include "tools/fd.h"
#include "uffd/userfaultfd.h"

namespace ramjet::bench {

// A failure while it serves ends the process, with one line on stderr: its guest could not go on.
class OnePageLoader {
 public:
  // Serves `memory`, the length of `block`, from now on. `file`, `nonzero` and `memory` outlive it.
  static absl::StatusOr<std::unique_ptr<OnePageLoader>> Start(int file, const SnapshotBlock& block,
                                                              const PageBitmap& nonzero,
                                                              absl::Span<uint8_t> memory,
                                                              bool prefault);
  // Ends serving: the kernel fills what is still missing with zeros.
  ~OnePageLoader();
  OnePageLoader(const OnePageLoader&) = delete;
  OnePageLoader& operator=(const OnePageLoader&) = delete;

  // Until every page of the file is there and the memory is ordinary again. REQUIRES: prefault.
  void Wait() { complete_.WaitForNotification(); }
  // Pages of the file that were loaded because somebody touched them.
  uint64_t faulted_pages() const { return faulted_pages_; }

 private:
  OnePageLoader(int file, const SnapshotBlock& block, const PageBitmap& nonzero,
                absl::Span<uint8_t> memory, bool prefault, Userfaultfd uffd);

  void Serve();
  void TakeFault();
  void LoadPage(uint64_t page);
  void InstallZero(uint64_t page);

  const int file_;
  const SnapshotBlock block_;
  const PageBitmap& nonzero_;
  const absl::Span<uint8_t> memory_;
  const bool prefault_;
  const Userfaultfd uffd_;
  const UniqueFd stop_;
  const UniqueFd epoll_;
  std::atomic<uint64_t> faulted_pages_{0};
  absl::Notification complete_;
  // The thread's own.
  std::vector<bool> loaded_;
  uint64_t missing_;  // of the pages in the file
  std::vector<uint8_t> buffer_;

  std::thread thread_;
};

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_ONE_PAGE_LOADER_H_
