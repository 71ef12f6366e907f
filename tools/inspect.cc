#include "tools/inspect.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mappedram/device_fields.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"
#include "tools/device_report.h"
#include "tools/error_line.h"
#include "tools/foreign_snapshot.h"

namespace ramjet {
namespace {

using Json = nlohmann::ordered_json;

struct RamSums {
  uint64_t total_bytes = 0;
  uint64_t nonzero_bytes = 0;
};

RamSums SumsOf(const SnapshotDescription& description) {
  RamSums sums;
  for (const SnapshotBlock& block : description.blocks) {
    sums.total_bytes += block.used_length;
    sums.nonzero_bytes += block.nonzero_pages * block.page_size;
  }
  return sums;
}

// The fields of each device, in their order.
using DevicesFields = std::vector<FieldStruct>;

// `fields` is null if they were not asked for, and empty inside if the file does not describe them.
std::string AsJson(const SnapshotDescription& description,
                   const std::optional<DevicesFields>* fields) {
  Json blocks = Json::array();
  for (const SnapshotBlock& block : description.blocks) {
    blocks.push_back({{"idstr", block.idstr},
                      {"used_length", block.used_length},
                      {"page_size", block.page_size},
                      {"bitmap_offset", block.bitmap_offset},
                      {"pages_offset", block.pages_offset},
                      {"nonzero_pages", block.nonzero_pages}});
  }
  Json devices = Json::array();
  for (const DeviceSection& device : description.devices) {
    devices.push_back({{"name", device.name},
                       {"instance_id", device.instance_id},
                       {"version_id", device.version_id},
                       {"offset", device.offset},
                       {"size", device.size}});
    if (fields != nullptr) {
      devices.back()["fields"] =
          fields->has_value() ? FieldsAsJson((*fields)->at(devices.size() - 1)) : Json(nullptr);
    }
  }
  const RamSums ram = SumsOf(description);
  const Json object = {{"schema", "ramjet.inspect/1"},
                       {"format", "mapped-ram"},
                       {"stream_offset", description.stream_offset},
                       {"machine", description.machine},
                       {"capabilities", description.capabilities},
                       {"complete", description.complete.ok()},
                       {"ram",
                        {{"total_bytes", ram.total_bytes},
                         {"nonzero_bytes", ram.nonzero_bytes},
                         {"blocks", std::move(blocks)}}},
                       {"devices", std::move(devices)}};
  // Names were checked to be ASCII; should one not be, a replacement character is better than the
  // end of the program.
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// "1.5 GiB": up to one digit behind the point, none for whole numbers.
std::string HumanBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  double value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  const bool whole = value == static_cast<double>(static_cast<uint64_t>(value));
  return absl::StrFormat("%.*f %s", whole ? 0 : 1, value, kUnits[unit]);
}

std::string AsText(const std::string& path, const SnapshotDescription& description) {
  const RamSums ram = SumsOf(description);
  std::string text = absl::StrCat(
      path, ": mapped-ram snapshot, ", description.complete.ok() ? "complete" : "INCOMPLETE",
      "\nmachine ", description.machine, ", capabilities ",
      absl::StrJoin(description.capabilities, " "), ", stream at offset ",
      description.stream_offset, "\nRAM ", HumanBytes(ram.total_bytes), " (", ram.total_bytes,
      " bytes), of which not zero ", HumanBytes(ram.nonzero_bytes), " (", ram.nonzero_bytes,
      " bytes)\n\n");

  size_t width = 5;
  for (const SnapshotBlock& block : description.blocks) width = std::max(width, block.idstr.size());
  for (const DeviceSection& device : description.devices) {
    width = std::max(width, device.name.size());
  }
  const int name_width = static_cast<int>(width);
  absl::StrAppendFormat(&text, "%-*s %10s %15s %9s %12s %15s %15s\n", name_width, "block", "size",
                        "bytes", "page size", "not zero", "bitmap at", "pages at");
  for (const SnapshotBlock& block : description.blocks) {
    absl::StrAppendFormat(&text, "%-*s %10s %15d %9d %12d %15d %15d\n", name_width, block.idstr,
                          HumanBytes(block.used_length), block.used_length, block.page_size,
                          block.nonzero_pages, block.bitmap_offset, block.pages_offset);
  }
  if (description.devices.empty()) return text;
  absl::StrAppendFormat(&text, "\n%-*s %10s %15s %9s %28s\n", name_width, "device", "size", "bytes",
                        "version", "at");
  for (const DeviceSection& device : description.devices) {
    absl::StrAppendFormat(
        &text, "%-*s %10s %15d %9d %28d\n", name_width,
        device.instance_id == 0 ? device.name : absl::StrCat(device.name, " #", device.instance_id),
        HumanBytes(device.size), device.size, device.version_id, device.offset);
  }
  return text;
}

std::string FieldsAsText(const SnapshotDescription& description,
                         const std::optional<DevicesFields>& fields) {
  if (!fields.has_value()) return "\nThe file does not describe what is in its devices.\n";
  std::string text;
  for (size_t i = 0; i < fields->size(); ++i) {
    const DeviceSection& device = description.devices[i];
    absl::StrAppend(&text, "\n", device.name, " #", device.instance_id, ", version ",
                    device.version_id, "\n", FieldsAsText((*fields)[i], 2));
  }
  return text;
}

int Fail(const absl::Status& status) {
  PrintError(status.message());
  return 1;
}

}  // namespace

int RunInspect(const std::string& path, const InspectOptions& options) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return Fail(NameForeignSnapshot(path, file.status()));
  const absl::StatusOr<SnapshotDescription> description =
      Snapshot::Describe(*file, options.stream_offset);
  if (!description.ok()) {
    return Fail(NameForeignSnapshot(path, description.status(), options.stream_offset));
  }
  std::optional<DevicesFields> fields;
  if (options.devices) {
    absl::StatusOr<std::optional<DevicesFields>> read = ReadDeviceFields(*file, *description);
    if (!read.ok()) return Fail(read.status());
    fields = *std::move(read);
  }
  std::string text;
  if (options.json) {
    text = AsJson(*description, options.devices ? &fields : nullptr);
  } else {
    text = AsText(path, *description);
    if (options.devices) text += FieldsAsText(*description, fields);
  }
  if (fwrite(text.data(), 1, text.size(), stdout) != text.size() || fflush(stdout) != 0) {
    return Fail(absl::ErrnoToStatus(errno, "stdout"));
  }
  return description->complete.ok() ? 0 : Fail(description->complete);
}

}  // namespace ramjet
