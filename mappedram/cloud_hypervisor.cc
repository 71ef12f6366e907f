#include "mappedram/cloud_hypervisor.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mappedram/format.h"
#include "mappedram/json_reader.h"

namespace ramjet {
namespace {

constexpr uint64_t kPageBytes = 4096;  // the smallest of any guest

// Goes to member `name` of the object that comes next, and reads it. No other is looked at; two of
// that name are an error.
void ReadMember(JsonReader& json, absl::string_view name,
                const std::function<void(JsonReader&)>& read) {
  bool found = false;
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (key != name) {
      json.SkipValue();
    } else if (std::exchange(found, true)) {
      json.Fail(absl::StrCat("two members \"", name, "\""));
    } else {
      read(json);
    }
  }
  if (!found) json.Fail(absl::StrCat("no member \"", name, "\""));
}

void ReadRange(JsonReader& json, std::vector<GuestRange>& ranges) {
  std::optional<uint64_t> address;
  std::optional<uint64_t> length;
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) {
    if (key == "gpa") {
      address = json.ReadUnsigned();
    } else if (key == "length") {
      length = json.ReadUnsigned();
    } else {
      json.SkipValue();
    }
  }
  if (!address || !length) return json.Fail("a memory range without \"gpa\" or \"length\"");
  if (ranges.size() == kMaxBlocks) return json.Fail("more memory ranges than any guest has");
  ranges.push_back({*address, *length});
}

absl::Status CheckRanges(std::vector<GuestRange> ranges) {
  if (ranges.empty()) return absl::DataLossError("there are no memory ranges");
  std::sort(ranges.begin(), ranges.end(),
            [](const GuestRange& a, const GuestRange& b) { return a.address < b.address; });
  uint64_t total = 0;
  uint64_t end = 0;
  for (const GuestRange& range : ranges) {
    const auto refuse = [&range](absl::string_view why) {
      return absl::DataLossError(absl::StrFormat("the memory range of %d bytes at %#x %s",
                                                 range.length, range.address, why));
    };
    if (range.length == 0 || (range.address | range.length) % kPageBytes != 0) {
      return refuse("is empty, or does not consist of pages");
    }
    if (range.length > kMaxRamBytes - total || range.address > UINT64_MAX - range.length) {
      return refuse("is too large");
    }
    if (range.address < end) return refuse("overlaps the one before it");
    total += range.length;
    end = range.address + range.length;
  }
  return absl::OkStatus();
}

absl::Status Finished(JsonReader& json, absl::string_view what) {
  json.Finish();
  if (json.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", json.status().message()));
}

}  // namespace

absl::StatusOr<std::vector<GuestRange>> ParseMemoryRanges(absl::string_view state_json) {
  std::string inner;
  JsonReader outside(state_json);
  ReadMember(outside, "snapshots", [&](JsonReader& snapshots) {
    ReadMember(snapshots, "memory-manager", [&](JsonReader& manager) {
      ReadMember(manager, "snapshot_data", [&](JsonReader& data) {
        ReadMember(data, "state", [&](JsonReader& state) { inner = state.ReadString(); });
      });
    });
  });
  absl::Status status = Finished(outside, "no state of Cloud Hypervisor");
  if (!status.ok()) return status;

  std::vector<GuestRange> ranges;
  JsonReader inside(inner);
  ReadMember(inside, "memory_ranges", [&](JsonReader& memory) {
    ReadMember(memory, "data", [&](JsonReader& data) {
      data.EnterArray();
      while (data.NextElement()) ReadRange(data, ranges);
    });
  });
  status = Finished(inside, "the state of Cloud Hypervisor's memory manager");
  if (status.ok()) status = CheckRanges(ranges);
  if (!status.ok()) return status;
  return ranges;
}

absl::Status CheckConfiguration(absl::string_view config_json) {
  JsonReader json(config_json);
  json.EnterObject();
  for (std::string key; json.NextMember(&key);) json.SkipValue();
  return Finished(json, "no configuration of Cloud Hypervisor");
}

}  // namespace ramjet
