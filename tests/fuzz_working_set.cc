// A libFuzzer target: what the decoder of working sets makes of any bytes at all. Its checksum is
// made right first, or nothing would get past it.
//
//   bazel build --config=fuzz //tests:fuzz_working_set
//   bazel-bin/tests/fuzz_working_set -max_total_time=60
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "loader/working_set.h"

namespace ramjet {
namespace {

void Check(bool condition) {
  if (!condition) abort();
}

uint32_t Crc32c(const std::string& bytes) {
  uint32_t crc = 0xffffffff;
  for (const char byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
  }
  return ~crc;
}

void Decode(const std::string& bytes) {
  const absl::StatusOr<WorkingSet> set = DecodeWorkingSet(bytes);
  if (!set.ok()) return;
  for (const WorkingSet::Run& run : set->runs) {
    Check(run.block < set->blocks.size());
    Check(run.pages.count > 0 && run.pages.end() <= set->blocks[run.block].pages);
  }
  const absl::StatusOr<WorkingSet> again = DecodeWorkingSet(EncodeWorkingSet(*set));
  Check(again.ok() && *again == *set);
  if (!CheckDisjoint(*set).ok()) return;
  // With itself: nothing is lost, nothing comes twice.
  const absl::StatusOr<WorkingSet> merged = MergeWorkingSets({*set, *set});
  Check(merged.ok() && merged->pages() == set->pages());
}

}  // namespace
}  // namespace ramjet

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string given(reinterpret_cast<const char*>(bytes), size);
  ramjet::Decode(given);
  std::string whole = std::string("ramjetWS\1\0\0\0digest64", 20) + given;
  const uint32_t crc = ramjet::Crc32c(whole);
  for (int i = 0; i < 4; ++i) whole.push_back(static_cast<char>(crc >> (8 * i)));
  ramjet::Decode(whole);
  return 0;
}
