// A libFuzzer target: what the codec for device state makes of any bytes, and the decoder of
// devices of any description and bytes. The first byte of an input says which; behind it are a
// device's bytes, or the length of a vmdesc (be32), the vmdesc and a device's bytes.
//
//   mkdir CORPUS && bazel run //tests:fuzz_vmstate_seeds -- $PWD/tests/corpus/microvm.extents
//       $PWD/CORPUS                               (in one line)
//   bazel build --config=fuzz //tests:fuzz_vmstate
//   bazel-bin/tests/fuzz_vmstate CORPUS -max_total_time=60
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/device_fields.h"
#include "mappedram/vmstate/device.h"
#include "tests/vmstate_everything.h"
#include "tools/device_report.h"

namespace ramjet {
namespace {

void Check(bool condition) {
  if (!condition) abort();
}

absl::Span<const uint8_t> SpanOf(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

// What could be decoded is written in one way, which means the same.
void Code(absl::Span<const uint8_t> bytes) {
  for (uint32_t version = 0; version <= 3; ++version) {
    const auto decoded =
        vmstate::Decode(kEverything, {.bytes = bytes, .version = version}, NewEverything());
    if (!decoded.ok()) {
      // The one that was in place went with its owner.
      Check(Leaf::alive == 0);
      continue;
    }
    Check(version == 1 || version == 2);
    const auto encoded = vmstate::Encode(kEverything, *decoded);
    Check(encoded.ok());
    const auto again =
        vmstate::Decode(kEverything, {.bytes = SpanOf(*encoded), .version = 2}, NewEverything());
    Check(again.ok());
    const auto twice = vmstate::Encode(kEverything, *again);
    Check(twice.ok() && *twice == *encoded);
  }
}

uint64_t SizeOf(const std::vector<DeviceField>& fields) {
  uint64_t sum = 0;
  for (const DeviceField& field : fields) {
    if (const auto* array = std::get_if<FieldArray>(&field.value)) {
      // Containers have markers beside their elements.
      Check(SizeOf(array->elements) <= field.size);
    } else if (const auto* body = std::get_if<FieldStruct>(&field.value)) {
      Check(SizeOf(body->fields) <= field.size);
    } else if (const auto* raw = std::get_if<RawBytes>(&field.value)) {
      Check(raw->bytes.size() == field.size);
    } else if (const auto* opaque = std::get_if<OpaqueBytes>(&field.value)) {
      Check(opaque->bytes.size() == field.size);
    }
    sum += field.size;
  }
  return sum;
}

void DecodeDescribed(absl::Span<const uint8_t> bytes) {
  if (bytes.size() < 4) return;
  uint64_t length = 0;
  for (int i = 0; i < 4; ++i) length = length << 8 | bytes[i];
  bytes.remove_prefix(4);
  length = std::min<uint64_t>(length, bytes.size());
  const absl::string_view vmdesc(reinterpret_cast<const char*>(bytes.data()), length);
  const absl::Span<const uint8_t> payload = bytes.subspan(length);
  const auto devices = DecodeDevices(vmdesc, {{"fuzz", payload, 0}});
  if (!devices.ok()) return;
  Check(SizeOf(devices->at(0).fields) == payload.size());
  (void)FieldsAsJson(devices->at(0))
      .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  (void)FieldsAsText(devices->at(0), 0);
}

}  // namespace
}  // namespace ramjet

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const absl::Span<const uint8_t> rest(bytes + 1, size - 1);
  if (bytes[0] % 2 == 0) {
    ramjet::Code(rest);
  } else {
    ramjet::DecodeDescribed(rest);
  }
  return 0;
}
