// A libFuzzer target: what the reader of Cloud Hypervisor's state makes of any bytes at all, as the
// whole text and as the memory manager's in it.
//
//   bazel build --config=fuzz //tests:fuzz_cloud_hypervisor
//   bazel-bin/tests/fuzz_cloud_hypervisor -max_total_time=60
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "mappedram/cloud_hypervisor.h"

namespace ramjet {
namespace {

void Parse(const std::string& text) {
  const absl::StatusOr<std::vector<GuestRange>> ranges = ParseMemoryRanges(text);
  if (!ranges.ok()) return;
  uint64_t total = 0;
  for (const GuestRange& range : *ranges) {
    if (range.length == 0 || __builtin_add_overflow(total, range.length, &total)) abort();
    if (range.address + range.length < range.address) abort();
  }
  if (ranges->empty()) abort();
}

}  // namespace
}  // namespace ramjet

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string given(reinterpret_cast<const char*>(bytes), size);
  ramjet::Parse(given);
  std::string escaped;
  for (const char c : given) {
    if (c == '"' || c == '\\') escaped.push_back('\\');
    escaped.push_back(c);
  }
  ramjet::Parse(R"({"snapshots":{"memory-manager":{"snapshot_data":{"state":")" + escaped +
                R"("}}}})");
  // Past the names, which are hard to guess.
  ramjet::Parse(R"({"snapshots":{"memory-manager":{"snapshot_data":{"state":)"
                R"("{\"memory_ranges\":{\"data\":[)" +
                escaped + R"(]}}"}}}})");
  return 0;
}
