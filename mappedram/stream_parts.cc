#include "mappedram/stream_parts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "mappedram/stream.h"

namespace ramjet {
namespace {

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && IsPrintable(name);
}

absl::Status CheckContent(const StreamContent& content) {
  std::vector<std::string> names = content.capabilities;
  names.push_back(content.machine);
  for (const auto* sections : {&content.early_devices, &content.live, &content.devices}) {
    for (const SectionContent& section : *sections) names.push_back(section.name);
  }
  for (const std::string& name : names) {
    if (!IsName(name)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" is not 1 to ", kMaxNameBytes,
                                                     " printable characters, so no name"));
    }
  }
  if (!content.uuid.empty() && content.uuid.size() != kUuidBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a uuid of ", content.uuid.size(), " bytes is not one of ", kUuidBytes));
  }
  return absl::OkStatus();
}

void PutConfiguration(StreamEncoder& out, const StreamContent& content) {
  const auto put_subsection = [&out](absl::string_view name) {
    out.PutU8(kSubsection);
    out.PutName8(name);
    out.PutBe32(kConfigurationVersion);
  };
  out.PutU8(kConfiguration);
  out.PutBe32(static_cast<uint32_t>(content.machine.size()));
  out.PutBytes(content.machine);
  if (content.page_bits.has_value()) {
    put_subsection(kTargetPageBitsSubsection);
    out.PutBe32(*content.page_bits);
  }
  put_subsection(kCapabilitiesSubsection);
  out.PutBe32(static_cast<uint32_t>(content.capabilities.size()));
  for (const std::string& capability : content.capabilities) out.PutName8(capability);
  if (!content.uuid.empty()) {
    put_subsection(kUuidSubsection);
    out.PutBytes(content.uuid);
  }
}

// A section that is whole in one record, or the start of a live one.
void PutSection(StreamEncoder& out, RecordType type, uint32_t id, const SectionContent& section) {
  out.PutSectionHeader(type, id, section.name, section.instance_id, section.version_id);
  out.PutBytes(section.payload);
  out.PutFooter(id);
}

void PutPartOrEnd(StreamEncoder& out, RecordType type, uint32_t id, absl::string_view payload) {
  out.PutU8(type);
  out.PutBe32(id);
  out.PutBytes(payload);
  out.PutFooter(id);
}

// As JSON has it. The name is printable.
std::string Escaped(absl::string_view name) {
  std::string escaped;
  for (const char c : name) {
    if (c == '"' || c == '\\') escaped.push_back('\\');
    escaped.push_back(c);
  }
  return escaped;
}

std::string DescribeDevice(const SectionContent& device) {
  const std::string name = Escaped(device.name);
  return absl::StrCat("{\"name\": \"", name, "\", \"instance_id\": ", device.instance_id,
                      ", \"vmsd_name\": \"", name, "\", \"version\": ", device.version_id,
                      ", \"fields\": [{\"name\": \"data\", \"type\": \"buffer\", \"size\": ",
                      device.payload.size(), "}]}");
}

void PutVmdesc(StreamEncoder& out, const StreamContent& content) {
  std::vector<std::string> devices;
  for (const auto* sections : {&content.early_devices, &content.devices}) {
    for (const SectionContent& device : *sections) devices.push_back(DescribeDevice(device));
  }
  const std::string text = absl::StrCat("{\"devices\": [", absl::StrJoin(devices, ", "), "]}");
  out.PutU8(kVmdescription);
  out.PutBe32(static_cast<uint32_t>(text.size()));
  out.PutBytes(text);
}

}  // namespace

void StreamEncoder::PutBigEndian(uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    bytes_.push_back(static_cast<char>(value >> shift));
  }
}

void StreamEncoder::PutSectionHeader(RecordType type, uint32_t id, absl::string_view name,
                                     uint32_t instance_id, uint32_t version_id) {
  PutU8(type);
  PutBe32(id);
  PutName8(name);
  PutBe32(instance_id);
  PutBe32(version_id);
}

void StreamEncoder::PutFooter(uint32_t id) {
  PutU8(kFooter);
  PutBe32(id);
}

absl::StatusOr<StreamParts> EncodeStream(const StreamContent& content) {
  if (absl::Status status = CheckContent(content); !status.ok()) return status;
  StreamParts parts;
  StreamEncoder out;
  uint32_t id = 0;
  out.PutBe32(kStreamMagic);
  out.PutBe32(kStreamVersion);
  PutConfiguration(out, content);
  for (const SectionContent& device : content.early_devices) {
    PutSection(out, kSectionFull, id++, device);
  }
  parts.head = out.Take();
  parts.ram_section_id = id++;
  parts.block_addresses = std::find(content.capabilities.begin(), content.capabilities.end(),
                                    kIgnoreSharedCapability) != content.capabilities.end();

  const uint32_t first_live_id = id;
  for (const SectionContent& section : content.live) PutSection(out, kSectionStart, id++, section);
  const std::string ram_end_of_section = {0, 0, 0, 0, 0, 0, 0, kRamFlagEndOfSection};
  PutPartOrEnd(out, kSectionPart, parts.ram_section_id, ram_end_of_section);
  PutPartOrEnd(out, kSectionEnd, parts.ram_section_id, ram_end_of_section);
  for (size_t i = 0; i < content.live.size(); ++i) {
    PutPartOrEnd(out, kSectionEnd, first_live_id + static_cast<uint32_t>(i),
                 content.live[i].payload);
  }
  for (const SectionContent& device : content.devices) PutSection(out, kSectionFull, id++, device);
  out.PutU8(kEof);
  if (content.vmdesc) PutVmdesc(out, content);
  parts.tail = out.Take();
  return parts;
}

absl::StatusOr<StreamParts> CarryStream(std::shared_ptr<const Snapshot> from) {
  const SnapshotDescription& description = from->description();
  StreamParts parts;
  parts.head.resize(description.ram_start_offset - description.stream_offset);
  absl::Status read = from->file().ReadAt(
      description.stream_offset,
      absl::MakeSpan(reinterpret_cast<uint8_t*>(parts.head.data()), parts.head.size()));
  read.Update(from->file().CheckUnchanged());
  if (!read.ok()) return read;
  parts.ram_section_id = description.ram_section_id;
  parts.block_addresses =
      std::find(description.capabilities.begin(), description.capabilities.end(),
                kIgnoreSharedCapability) != description.capabilities.end();
  parts.carried_offset = description.ram_end_offset;
  parts.carried_length = from->file().size() - description.ram_end_offset;
  parts.carried = std::move(from);
  return parts;
}

}  // namespace ramjet
