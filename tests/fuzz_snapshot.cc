// A libFuzzer target: what Snapshot makes of any bytes at all as a file, whole or in extents, and
// the vmdesc parser of any as a text.
//
//   mkdir CORPUS && bazel run //tests:fuzz_seeds -- $PWD/CORPUS && cp tests/corpus/*.extents CORPUS
//   bazel build --config=fuzz //tests:fuzz_snapshot
//   bazel-bin/tests/fuzz_snapshot CORPUS -max_len=32768 -max_total_time=60
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
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

uint64_t Be64(const uint8_t* bytes) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | bytes[i];
  return value;
}

// A file that is just these bytes.
void WriteBytes(int fd, const uint8_t* bytes, size_t size) {
  Check(ftruncate(fd, 0) == 0);
  Check(pwrite(fd, bytes, size, 0) == static_cast<ssize_t>(size));
}

// A sparse file in the form of corpus/*.extents: its size, and for each extent its offset, its
// length and its bytes. A whole file of a real QEMU is 20 KB that way.
void WriteExtents(int fd, const uint8_t* bytes, size_t size) {
  constexpr uint64_t kMaxSize = uint64_t{1} << 36;
  Check(ftruncate(fd, 0) == 0);
  if (size < 8) return;
  const uint64_t file_size = Be64(bytes) % kMaxSize;
  Check(ftruncate(fd, static_cast<off_t>(file_size)) == 0);
  for (size_t at = 8; size - at > 16;) {
    const uint64_t offset = Be64(bytes + at) % (file_size + 1);
    const uint64_t length =
        std::min<uint64_t>({Be64(bytes + at + 8), size - at - 16, file_size - offset});
    Check(pwrite(fd, bytes + at + 16, length, static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(length));
    at += 16 + length;
  }
}

void DescribeAndOpen(int fd) {
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
  static const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  ramjet::WriteBytes(fd, bytes, size);
  ramjet::DescribeAndOpen(fd);
  ramjet::WriteExtents(fd, bytes, size);
  ramjet::DescribeAndOpen(fd);
  (void)ramjet::ParseVmdesc({reinterpret_cast<const char*>(bytes), size});
  return 0;
}
