#include "mappedram/device_fields.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mappedram/format.h"
#include "mappedram/json_reader.h"
#include "mappedram/vmdesc.h"
#include "mappedram/vmstate/wire.h"

// The description is parsed into a tree first, since it tells a field's size behind its content.
// Then one walk over tree and bytes makes the values.
//
// What is in a field's object:
//   {"name", "type", "size"}           size: bytes of one element with all that is nested in it
//   + "array_len": n                   that many elements, which all look like this one
//   + "index": i                       this is the i-th element; the others come in turn
//   + "struct": {"vmsd_name", "version", "fields": [...], "subsections": [...]}
//   + "vmsd_name", "version", "fields", "subsections" right in it: one more struct, and as often as
//     there are. So do types that code structs by themselves: tmp, qtailq, qlist, gtree.

namespace ramjet {
namespace {

using vmstate::Reader;
using vmstate::Wire;

// A limit of ours on what the description can make of the bytes: arrays may be described in a few
// characters and have elements without bytes. Each element has its own copy of name and type, so
// long ones count for more. Real files have less than one value for each byte.
uint64_t MaxValues(uint64_t described_bytes, uint64_t payload_bytes) {
  return std::min(uint64_t{1} << 22, 16 * (described_bytes + payload_bytes));
}

uint64_t ValuesOf(absl::string_view name, absl::string_view type) {
  return 1 + (name.size() + type.size()) / 64;
}

struct Description;

// A struct, a subsection or a device.
struct StructDescription {
  std::string vmsd_name;
  std::vector<Description> fields;
  std::vector<StructDescription> subsections;
  uint64_t size = 0;  // on the wire; kTooLarge stands for anything from there on
};

struct Description {
  std::string name;
  std::string type;
  uint64_t size = 0;
  std::optional<uint64_t> array_len;
  std::optional<uint64_t> index;
  std::vector<StructDescription> structs;  // of "struct", or as they stand in the field

  bool is_array() const { return array_len.has_value() || index.has_value(); }
};

// --- the description's text ---

constexpr uint64_t kTooLarge = uint64_t{1} << 62;

uint64_t AddSizes(uint64_t a, uint64_t b) {
  return std::min(kTooLarge, a + std::min(kTooLarge, b));
}

uint64_t SizeOf(const Description& field) {
  uint64_t size;
  return __builtin_mul_overflow(field.size, field.array_len.value_or(1), &size) ? kTooLarge : size;
}

uint64_t SizeOf(const StructDescription& body) {
  uint64_t sum = 0;
  for (const Description& field : body.fields) sum = AddSizes(sum, SizeOf(field));
  for (const StructDescription& subsection : body.subsections) {
    sum = AddSizes(sum, AddSizes(1 + 1 + subsection.vmsd_name.size() + 4, subsection.size));
  }
  return sum;
}

void ParseStruct(JsonReader& json, StructDescription& out);

// What `key` has of a struct; false if it is none of its members and the value is still to be read.
bool ParseStructMember(JsonReader& json, absl::string_view key, StructDescription& out);

Description ParseField(JsonReader& json) {
  Description field;
  std::optional<uint64_t> size;
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (key == "name") {
      field.name = json.ReadString();
    } else if (key == "type") {
      field.type = json.ReadString();
    } else if (key == "size") {
      size = json.ReadUnsigned();
    } else if (key == "array_len") {
      field.array_len = json.ReadUnsigned();
    } else if (key == "index") {
      field.index = json.ReadUnsigned();
    } else if (key == "struct") {
      ParseStruct(json, field.structs.emplace_back());
    } else {
      if (key == "vmsd_name" || (key == "fields" && field.structs.empty())) {
        field.structs.emplace_back();
      }
      if (field.structs.empty() || !ParseStructMember(json, key, field.structs.back())) {
        json.SkipValue();
      }
    }
  }
  if (!size.has_value()) json.Fail("a field without size");
  field.size = size.value_or(0);
  for (StructDescription& body : field.structs) body.size = SizeOf(body);
  return field;
}

bool ParseStructMember(JsonReader& json, absl::string_view key, StructDescription& out) {
  if (key == "vmsd_name") {
    out.vmsd_name = json.ReadString();
  } else if (key == "fields") {
    json.EnterArray();
    while (json.NextElement()) out.fields.push_back(ParseField(json));
  } else if (key == "subsections") {
    json.EnterArray();
    while (json.NextElement()) ParseStruct(json, out.subsections.emplace_back());
  } else {
    return false;
  }
  return true;
}

// Recursion ends with JsonReader::kMaxDepth.
void ParseStruct(JsonReader& json, StructDescription& out) {
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (!ParseStructMember(json, key, out)) json.SkipValue();
  }
  out.size = SizeOf(out);
}

absl::StatusOr<std::vector<StructDescription>> ParseDescriptions(absl::string_view text) {
  std::vector<StructDescription> devices;
  JsonReader json(text);
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (key != "devices") {
      json.SkipValue();
      continue;
    }
    json.EnterArray();
    while (json.NextElement()) {
      if (devices.size() == kMaxDevices) json.Fail(absl::StrCat("more than ", kMaxDevices));
      ParseStruct(json, devices.emplace_back());
    }
  }
  json.Finish();
  if (json.ok()) return devices;
  return absl::DataLossError(
      absl::StrCat("vmdesc: ", json.status().message(), ", device ", devices.size()));
}

// --- the bytes ---

enum class Kind { kSigned, kUnsigned, kRaw };

struct KnownType {
  absl::string_view type;
  Kind kind;
  uint64_t size;  // 0: any
};

// "equal" and "le" ask the loader to compare: with its own value, or that it be less or equal. The
// bytes are the same.
constexpr KnownType kKnownTypes[] = {
    {"int8", Kind::kSigned, 1},        {"int16", Kind::kSigned, 2},
    {"int32", Kind::kSigned, 4},       {"int32 equal", Kind::kSigned, 4},
    {"int32 le", Kind::kSigned, 4},    {"int64", Kind::kSigned, 8},
    {"int64 equal", Kind::kSigned, 8}, {"timer", Kind::kSigned, 8},
    {"uint8", Kind::kUnsigned, 1},     {"uint8 equal", Kind::kUnsigned, 1},
    {"uint16", Kind::kUnsigned, 2},    {"uint16 equal", Kind::kUnsigned, 2},
    {"uint32", Kind::kUnsigned, 4},    {"uint32 equal", Kind::kUnsigned, 4},
    {"uint64", Kind::kUnsigned, 8},    {"uint64 equal", Kind::kUnsigned, 8},
    {"float64", Kind::kRaw, 8},        {"buffer", Kind::kRaw, 0},
    {"unused_buffer", Kind::kRaw, 0},  {"bitmap", Kind::kRaw, 0},
};

const KnownType* FindType(absl::string_view type, uint64_t size) {
  const auto* found =
      std::find_if(std::begin(kKnownTypes), std::end(kKnownTypes), [&](const KnownType& known) {
        return known.type == type && (known.size == 0 || known.size == size);
      });
  return found == std::end(kKnownTypes) ? nullptr : found;
}

class Decoder {
 public:
  // `values_left` is counted down by what is made.
  Decoder(const DevicePayload& payload, uint64_t& values_left)
      : payload_(payload.bytes),
        begin_(payload.offset),
        in_(payload.bytes, payload.offset, payload.name),
        values_left_(values_left) {}

  absl::StatusOr<FieldStruct> Decode(const StructDescription& device) {
    FieldStruct value = DecodeStruct(device);
    if (in_.remaining() != 0) Fail(in_.remaining(), " bytes are not described");
    if (!in_.ok()) return in_.status();
    return value;
  }

 private:
  uint64_t offset() const { return begin_ + payload_.size() - in_.remaining(); }
  // At the place that comes next.
  template <typename... Parts>
  void Fail(const Parts&... what) {
    in_.ReadBytes(0);
    in_.Fail(what...);
  }

  void FailTooMany() { Fail("more fields are described than so many bytes can have"); }

  std::string ReadBytes(uint64_t size) {
    const absl::Span<const uint8_t> bytes = in_.ReadBytes(size);
    return std::string(bytes.begin(), bytes.end());
  }

  FieldStruct DecodeStruct(const StructDescription& description);
  void AppendElements(const Description& description, DeviceField& array);
  // One element of `description`.
  DeviceField DecodeElement(const Description& description);
  void DecodeValue(const Description& description, DeviceField& out);
  DeviceField DecodeSubsection(const StructDescription& subsection);
  DeviceField DecodeStructElement(absl::string_view name, const StructDescription& body);
  FieldArray DecodeList(const Description& description);
  FieldArray DecodeTree(const Description& description, bool direct_keys);

  // Whether `description.size` bytes from here are, to the last one: `prefix` bytes; for every
  // `each` of its structs a byte 1, `key` bytes and those structs; a byte 0.
  bool IsLoop(const Description& description, uint64_t prefix, uint64_t key, size_t each) const;

  const absl::Span<const uint8_t> payload_;
  const uint64_t begin_;  // in the file
  Reader in_;
  uint64_t& values_left_;
};

FieldStruct Decoder::DecodeStruct(const StructDescription& description) {
  FieldStruct out;
  struct Place {
    size_t index;
    bool is_array;
  };
  std::map<absl::string_view, Place> places;
  for (const Description& field : description.fields) {
    if (!in_.ok()) break;
    const Wire::Step step = in_.Enter(field.name);
    const auto [found, is_new] = places.insert({field.name, {out.fields.size(), field.is_array()}});
    Place& place = found->second;
    if (is_new && !place.is_array) {
      out.fields.push_back(DecodeElement(field));
      continue;
    }
    if (is_new) out.fields.push_back({field.name, field.type, offset(), 0, FieldArray()});
    DeviceField& array = out.fields[place.index];
    if (!place.is_array) {
      // What was there is the first of several.
      DeviceField first = array;
      first.name.clear();
      array.value = FieldArray{{std::move(first)}};
      place.is_array = true;
    }
    AppendElements(field, array);
  }
  for (const StructDescription& subsection : description.subsections) {
    if (!in_.ok()) break;
    out.fields.push_back(DecodeSubsection(subsection));
    if (!places.insert({subsection.vmsd_name, {}}).second) Fail("two subsections of one name");
  }
  return out;
}

void Decoder::AppendElements(const Description& description, DeviceField& array) {
  std::vector<DeviceField>& elements = std::get<FieldArray>(array.value).elements;
  if (description.index.has_value() && *description.index != elements.size()) {
    return Fail("element ", *description.index, " where ", elements.size(), " comes next");
  }
  const uint64_t count = description.array_len.value_or(1);
  if (count > values_left_) return FailTooMany();
  if (description.size != 0) in_.Expect(count, description.size);
  for (uint64_t i = 0; i < count && in_.ok(); ++i) {
    const Wire::Step step = in_.Enter(elements.size());
    elements.push_back(DecodeElement(description));
    elements.back().name.clear();
    array.size += description.size;
  }
}

DeviceField Decoder::DecodeSubsection(const StructDescription& subsection) {
  const Wire::Step step = in_.Enter(subsection.vmsd_name);
  DeviceField field{subsection.vmsd_name, "subsection", offset(), 0, {}};
  if (in_.PeekSubsection() == subsection.vmsd_name) {
    in_.EnterSubsection();
    field.value = DecodeStruct(subsection);
  } else {
    Fail("no such subsection begins here");
  }
  field.size = offset() - field.offset;
  return field;
}

DeviceField Decoder::DecodeElement(const Description& description) {
  DeviceField field{description.name, description.type, offset(), description.size, {}};
  const uint64_t values = ValuesOf(description.name, description.type);
  if (values > values_left_) {
    FailTooMany();
    return field;
  }
  values_left_ -= values;
  DecodeValue(description, field);
  if (const uint64_t used = offset() - field.offset; in_.ok() && used != description.size) {
    Fail("its content is ", used, " bytes, but it is described to have ", description.size);
  }
  return field;
}

void Decoder::DecodeValue(const Description& description, DeviceField& out) {
  const std::vector<StructDescription>& structs = description.structs;
  const std::string& type = description.type;
  const uint64_t size = description.size;
  if (const KnownType* const known = FindType(type, size)) {
    if (known->kind == Kind::kRaw) {
      out.value = RawBytes{ReadBytes(size)};
    } else if (known->kind == Kind::kUnsigned) {
      out.value = in_.ReadBigEndian(size);
    } else {
      const size_t unused_bits = 64 - 8 * size;
      out.value = static_cast<int64_t>(in_.ReadBigEndian(size) << unused_bits) >> unused_bits;
    }
  } else if (type == "bool" && size == 1) {
    // As QEMU loads it.
    out.value = in_.ReadBigEndian(1) != 0;
  } else if (type == "nullptr" && size == 1) {
    out.value = NullPointer();
    if (const uint64_t sign = in_.ReadBigEndian(1); sign != '0') in_.Fail(sign, " is no nullptr");
  } else if (type == "capability") {
    out.value = ReadBytes(in_.ReadBigEndian(1));
  } else if (structs.size() == 1 &&
             (type == "struct" || (type == "tmp" && structs[0].size == size))) {
    out.value = DecodeStruct(structs[0]);
  } else if ((type == "qtailq" || type == "qlist") && IsLoop(description, 0, 0, 1)) {
    out.value = DecodeList(description);
  } else if (type == "gtree" && IsLoop(description, 4, 8, 1)) {
    out.value = DecodeTree(description, true);
  } else if (type == "gtree" && IsLoop(description, 4, 0, 2)) {
    out.value = DecodeTree(description, false);
  } else {
    out.value = OpaqueBytes{ReadBytes(size)};
  }
}

bool Decoder::IsLoop(const Description& description, uint64_t prefix, uint64_t key,
                     size_t each) const {
  if (description.size > in_.remaining() || description.structs.size() % each != 0) return false;
  const absl::Span<const uint8_t> bytes =
      payload_.subspan(offset() - begin_, static_cast<size_t>(description.size));
  uint64_t at = prefix;
  for (size_t i = 0; i < description.structs.size(); ++i) {
    if (i % each == 0) {
      if (at >= bytes.size() || bytes[at] != 1) return false;
      at = AddSizes(at, 1 + key);
    }
    at = AddSizes(at, description.structs[i].size);
  }
  return at + 1 == bytes.size() && bytes[at] == 0;
}

FieldArray Decoder::DecodeList(const Description& description) {
  FieldArray out;
  for (const StructDescription& body : description.structs) {
    if (!in_.ok()) break;
    const Wire::Step step = in_.Enter(out.elements.size());
    in_.ReadBigEndian(1);
    out.elements.push_back(DecodeStructElement("", body));
  }
  in_.ReadBigEndian(1);
  return out;
}

FieldArray Decoder::DecodeTree(const Description& description, bool direct_keys) {
  FieldArray out;
  const size_t each = direct_keys ? 1 : 2;
  const size_t count = description.structs.size() / each;
  if (const uint64_t claimed = in_.ReadBigEndian(4); claimed != count) {
    in_.Fail("a tree of ", claimed, " elements, of which ", count, " are described");
  }
  for (size_t i = 0; i < count && in_.ok(); ++i) {
    const Wire::Step step = in_.Enter(i);
    DeviceField entry{"", "gtree entry", offset(), 0, {}};
    in_.ReadBigEndian(1);
    FieldStruct pair;
    if (direct_keys) {
      pair.fields.push_back({"key", "uint64", offset(), 8, in_.ReadBigEndian(8)});
    } else {
      pair.fields.push_back(DecodeStructElement("key", description.structs[each * i]));
    }
    pair.fields.push_back(DecodeStructElement("value", description.structs[each * i + each - 1]));
    entry.size = offset() - entry.offset;
    entry.value = std::move(pair);
    out.elements.push_back(std::move(entry));
  }
  in_.ReadBigEndian(1);
  return out;
}

DeviceField Decoder::DecodeStructElement(absl::string_view name, const StructDescription& body) {
  DeviceField element{std::string(name), "struct", offset(), body.size, {}};
  element.value = DecodeStruct(body);
  return element;
}

}  // namespace

absl::StatusOr<std::vector<FieldStruct>> DecodeDevices(absl::string_view vmdesc,
                                                       const std::vector<DevicePayload>& payloads) {
  const absl::StatusOr<std::vector<StructDescription>> descriptions = ParseDescriptions(vmdesc);
  if (!descriptions.ok()) return descriptions.status();
  if (descriptions->size() != payloads.size()) {
    return absl::DataLossError(absl::StrCat("vmdesc: describes ", descriptions->size(),
                                            " devices, not ", payloads.size()));
  }
  uint64_t payload_bytes = 0;
  for (const DevicePayload& payload : payloads) payload_bytes += payload.bytes.size();
  uint64_t values_left = MaxValues(vmdesc.size(), payload_bytes);
  std::vector<FieldStruct> devices;
  for (size_t i = 0; i < payloads.size(); ++i) {
    absl::StatusOr<FieldStruct> device =
        Decoder(payloads[i], values_left).Decode((*descriptions)[i]);
    if (!device.ok()) return device.status();
    devices.push_back(*std::move(device));
  }
  return devices;
}

absl::StatusOr<std::optional<std::vector<FieldStruct>>> ReadDeviceFields(
    const File& file, const SnapshotDescription& description) {
  const absl::StatusOr<std::optional<std::string>> vmdesc =
      FindVmdesc(file, description.stream_offset);
  if (!vmdesc.ok()) return vmdesc.status();
  if (!vmdesc->has_value()) return std::nullopt;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<DevicePayload> payloads;
  for (const DeviceSection& device : description.devices) {
    std::vector<uint8_t>& content = bytes.emplace_back(device.size);
    if (absl::Status read = file.ReadAt(device.offset, absl::MakeSpan(content)); !read.ok()) {
      return read;
    }
    payloads.push_back({device.name, content, device.offset});
  }
  absl::StatusOr<std::vector<FieldStruct>> devices = DecodeDevices(**vmdesc, payloads);
  if (!devices.ok()) return DataLossError(file, devices.status().message());
  return *std::move(devices);
}

}  // namespace ramjet
