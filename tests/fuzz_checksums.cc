// A libFuzzer target: what the decoder of checksums makes of any bytes at all. Its own checksum is
// made right first, or nothing would get past it.
//
//   bazel build --config=fuzz //tests:fuzz_checksums
//   bazel-bin/tests/fuzz_checksums -max_total_time=60
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "mappedram/checksums.h"
#include "mappedram/coding.h"

namespace ramjet {
namespace {

void Check(bool condition) {
  if (!condition) abort();
}

void Decode(const std::string& bytes) {
  const absl::StatusOr<Checksums> checksums = DecodeChecksums(bytes);
  if (!checksums.ok()) return;
  uint64_t found = 0;
  for (const Checksums::Block& block : checksums->blocks) {
    for (const Checksums::Stretch& stretch : block.stretches) {
      Check(stretch.end() * checksums->pages_per_run < block.pages + checksums->pages_per_run);
      for (uint64_t run = stretch.first; run < stretch.end(); ++run) {
        found += block.Find(run) == stretch.crcs[run - stretch.first] ? 1 : 0;
      }
      Check(!block.Find(stretch.end()).has_value());
    }
  }
  Check(found == checksums->runs());
  const absl::StatusOr<Checksums> again = DecodeChecksums(EncodeChecksums(*checksums));
  Check(again.ok() && *again == *checksums);
}

}  // namespace
}  // namespace ramjet

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string given(reinterpret_cast<const char*>(bytes), size);
  ramjet::Decode(given);
  std::string whole = std::string("ramjetCS\1\0\0\0digest64", 20) + given;
  ramjet::AppendCrc(whole);
  ramjet::Decode(whole);
  return 0;
}
