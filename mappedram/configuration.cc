#include "mappedram/configuration.h"

#include <algorithm>

#include "mappedram/file.h"
#include "mappedram/format.h"

namespace ramjet {
namespace {

bool Contains(const std::vector<std::string>& names, absl::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> ReadCapabilities(StreamReader& reader) {
  const uint32_t count = reader.ReadBe32();
  if (count > kMaxCapabilities) {
    reader.Fail("configuration: ", count, " capabilities are more than ", kMaxCapabilities);
  }
  std::vector<std::string> capabilities;
  while (reader.ok() && capabilities.size() < count) capabilities.push_back(reader.ReadName8());
  return capabilities;
}

uint32_t ReadPageBits(StreamReader& reader) {
  const uint32_t bits = reader.ReadBe32();
  if (bits < kMinPageBits || bits > kMaxPageBits) {
    reader.Fail("configuration: target-page-bits ", bits, " is not from ", kMinPageBits, " to ",
                kMaxPageBits);
  }
  return bits;
}

void ReadSubsection(StreamReader& reader, absl::string_view name, Configuration& configuration) {
  const uint32_t version = reader.ReadBe32();
  if (version != kConfigurationVersion) reader.Fail(name, ": version ", version, " is unknown");
  if (name == kCapabilitiesSubsection) {
    configuration.capabilities = ReadCapabilities(reader);
  } else if (name == kTargetPageBitsSubsection) {
    configuration.page_bits = ReadPageBits(reader);
  } else if (name == kUuidSubsection) {
    reader.Skip(kUuidBytes);
  } else {
    reader.Fail("unknown part of the configuration: \"", name, "\"");
  }
}

}  // namespace

bool Configuration::HasCapability(absl::string_view name) const {
  return Contains(capabilities, name);
}

Configuration ReadConfiguration(StreamReader& reader) {
  if (reader.ReadU8() != kConfiguration && reader.ok()) {
    reader.FailWith(InvalidArgumentError(
        reader.file(),
        "migration stream without a configuration, which would name \"mapped-ram\""));
  }
  Configuration configuration;
  configuration.machine = reader.ReadName(reader.ReadBe32());
  std::vector<std::string> seen;
  while (reader.PeekU8() == kSubsection) {
    reader.ReadU8();
    const std::string name = reader.ReadName8();
    if (Contains(seen, name)) reader.Fail(name, " stands twice");
    ReadSubsection(reader, name, configuration);
    seen.push_back(name);
  }
  // Where the file ends here, another capability might have followed.
  if (reader.remaining() > 0 && !configuration.HasCapability(kMappedRamCapability)) {
    reader.FailWith(InvalidArgumentError(
        reader.file(),
        "migration stream without the capability \"mapped-ram\": its RAM has no fixed place"));
  }
  return configuration;
}

}  // namespace ramjet
