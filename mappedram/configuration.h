// The configuration at the head of a migration stream: what kind of machine was saved, and how.
#ifndef RAMJET_MAPPEDRAM_CONFIGURATION_H_
#define RAMJET_MAPPEDRAM_CONFIGURATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "mappedram/stream.h"

namespace ramjet {

struct Configuration {
  std::string machine;
  std::vector<std::string> capabilities;
  std::optional<uint32_t> page_bits;  // of all RAM; not told: any

  bool HasCapability(absl::string_view name) const;
};

// Reads the configuration and all of its subsections. What is wrong is in reader.status():
// InvalidArgument if there is none or it lacks "mapped-ram", else DataLoss.
Configuration ReadConfiguration(StreamReader& reader);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_CONFIGURATION_H_
