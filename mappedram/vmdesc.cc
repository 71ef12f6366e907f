#include "mappedram/vmdesc.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "mappedram/format.h"
#include "mappedram/json_reader.h"

namespace ramjet {
namespace {

// *sum += count * size; false if that does not fit.
bool AddProduct(uint64_t count, uint64_t size, uint64_t* sum) {
  uint64_t product;
  return !__builtin_mul_overflow(count, size, &product) &&
         !__builtin_add_overflow(*sum, product, sum);
}

// {"name": ..., "size": bytes of one element with all that is nested in it, "array_len": how many
// (1)}.
void AddField(JsonReader& json, uint64_t* sum) {
  std::optional<uint64_t> size;
  uint64_t count = 1;
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (key == "size") {
      size = json.ReadUnsigned();
    } else if (key == "array_len") {
      count = json.ReadUnsigned();
    } else {
      json.SkipValue();
    }
  }
  if (!size.has_value()) return json.Fail("a field without size");
  if (!AddProduct(count, *size, sum)) json.Fail("fields larger than 64 bits can say");
}

void AddSubsections(JsonReader& json, uint64_t* sum);

// What fields and subsections add up to, if `key` is one of them; else false, and the value is
// still to be read.
bool AddContent(JsonReader& json, absl::string_view key, uint64_t* sum) {
  if (key == "fields") {
    json.EnterArray();
    while (json.NextElement()) AddField(json, sum);
    return true;
  }
  if (key == "subsections") {
    AddSubsections(json, sum);
    return true;
  }
  return false;
}

// Recursion ends with JsonReader::kMaxDepth.
void AddSubsections(JsonReader& json, uint64_t* sum) {
  json.EnterArray();
  while (json.NextElement()) {
    std::string name;
    json.EnterObject();
    for (std::string key; json.NextMember(&key);) {
      if (key == "vmsd_name") {
        name = json.ReadString();
      } else if (!AddContent(json, key, sum)) {
        json.SkipValue();
      }
    }
    if (json.ok() && name.empty()) json.Fail("a subsection without vmsd_name");
    // On the wire: type, length of the name, name, version.
    if (!AddProduct(1, 1 + 1 + name.size() + 4, sum)) {
      json.Fail("subsections larger than 64 bits can say");
    }
  }
}

VmdescDevice ParseDevice(JsonReader& json) {
  VmdescDevice device;
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (key == "name") {
      device.name = json.ReadString();
    } else if (key == "instance_id") {
      const uint64_t instance_id = json.ReadUnsigned();
      if (instance_id > std::numeric_limits<uint32_t>::max()) {
        json.Fail(absl::StrCat("instance_id ", instance_id, " larger than 32 bits can say"));
      }
      device.instance_id = static_cast<uint32_t>(instance_id);
    } else if (!AddContent(json, key, &device.payload_bytes)) {
      json.SkipValue();
    }
  }
  if (device.name.empty()) json.Fail("a device without name");
  return device;
}

}  // namespace

absl::StatusOr<std::vector<VmdescDevice>> ParseVmdesc(JsonReader json) {
  std::vector<VmdescDevice> devices;
  bool found = false;
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (key != "devices") {
      json.SkipValue();
      continue;
    }
    found = true;
    json.EnterArray();
    while (json.NextElement()) {
      if (devices.size() == kMaxDevices) {
        json.Fail(absl::StrCat("more than ", kMaxDevices, " devices"));
      }
      devices.push_back(ParseDevice(json));
    }
  }
  json.Finish();
  if (!found) json.Fail("no devices");
  if (!json.ok()) {
    return absl::DataLossError(absl::StrCat(
        "vmdesc: ", json.status().message(),
        devices.empty()
            ? ""
            : absl::StrCat(", device ", devices.size() - 1, " \"", devices.back().name, "\"")));
  }
  return devices;
}

absl::StatusOr<std::vector<VmdescDevice>> ParseVmdesc(absl::string_view json) {
  return ParseVmdesc(JsonReader(json));
}

std::optional<VmdescPlace> FindVmdesc(StreamReader& reader) {
  constexpr uint64_t kLengthBytes = 4;
  const uint64_t end = reader.file().size();
  const uint64_t begin = end - std::min(reader.remaining(), 1 + kLengthBytes + kMaxVmdescBytes);
  if (begin == end) return std::nullopt;
  reader.Seek(end - 1);
  if (reader.ReadU8() != '}' || !reader.FindBackward('\0', begin)) return std::nullopt;
  // JSON holds no zero byte, and the length begins with one (see kMaxVmdescBytes): the last zero
  // byte is one of its four.
  const uint64_t last = reader.position();
  for (uint64_t type_at = last - std::min(last - begin, kLengthBytes); type_at < last; ++type_at) {
    const uint64_t text_at = type_at + 1 + kLengthBytes;
    if (text_at > end) break;
    reader.Seek(type_at);
    const uint8_t type = reader.ReadU8();
    const uint32_t length = reader.ReadBe32();
    if (type == kVmdescription && length == end - text_at && reader.ok()) {
      return VmdescPlace{text_at, end};
    }
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<std::string>> FindVmdesc(const File& file, uint64_t begin) {
  StreamReader reader(file, begin);
  const std::optional<VmdescPlace> place = FindVmdesc(reader);
  std::optional<std::string> text;
  if (place) text = reader.ReadString(place->end - place->offset);
  if (!reader.ok()) return reader.status();
  return text;
}

}  // namespace ramjet
