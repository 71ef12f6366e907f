// A libFuzzer target: what Snapshot makes of any bytes at all as a file, and the vmdesc parser of
// any as a text.
//
//   mkdir CORPUS && bazel run //tests:fuzz_seeds -- $PWD/CORPUS
//   bazel build --config=fuzz //tests:fuzz_snapshot
//   bazel-bin/tests/fuzz_snapshot CORPUS -max_len=16384 -max_total_time=60
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/vmdesc.h"

namespace ramjet {
namespace {

void Check(bool condition) {
  if (!condition) abort();
}

void DescribeAndOpen(const uint8_t* bytes, size_t size) {
  static const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  Check(ftruncate(fd, 0) == 0);
  Check(pwrite(fd, bytes, size, 0) == static_cast<ssize_t>(size));
  absl::StatusOr<File> file = File::Reopen(fd, "fuzz");
  Check(file.ok());
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(*file);
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  Check(snapshot.ok() == (description.ok() && description->complete.ok()));
  if (!snapshot.ok()) return;
  for (size_t i = 0; i < (*snapshot)->blocks().size(); ++i) {
    const SnapshotBlock& block = (*snapshot)->blocks()[i];
    const PageBitmap nonzero = (*snapshot)->TakeNonzero(i);
    Check(nonzero.Count() == block.nonzero_pages);
    if (!block.in_file()) continue;
    std::vector<uint8_t> page(block.page_size);
    Check((*snapshot)
              ->ReadPages(i, (block.pages() - 1) * block.page_size, absl::MakeSpan(page))
              .ok());
  }
}

}  // namespace
}  // namespace ramjet

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  ramjet::DescribeAndOpen(bytes, size);
  (void)ramjet::ParseVmdesc({reinterpret_cast<const char*>(bytes), size});
  return 0;
}
