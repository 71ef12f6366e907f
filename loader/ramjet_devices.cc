// The C face's devices: their states in a snapshot, loaded one by one or side by side.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "loader/c_abi.h"
#include "loader/device_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"

// Never defined: a ramjet_device_state is a DeviceState of ours.
struct ramjet_device_state;

namespace ramjet {
namespace {

const ramjet_device_state* Opaque(const DeviceState& state) {
  return reinterpret_cast<const ramjet_device_state*>(&state);
}

const DeviceState& Transparent(const ramjet_device_state* state) {
  return *reinterpret_cast<const DeviceState*>(state);
}

ramjet_device_info InfoOf(const DeviceSection& device) {
  return {.size = sizeof(ramjet_device_info),
          .name = device.name.c_str(),
          .instance_id = device.instance_id,
          .version_id = device.version_id,
          .length = device.size};
}

int GetInfo(const DeviceSection& device, ramjet_device_info* info) {
  ramjet_device_info known = InfoOf(device);
  known.size = info->size;
  std::memcpy(info, &known, std::min<uint64_t>(info->size, sizeof(known)));
  return 0;
}

absl::StatusOr<DeviceLoader> ReadDeviceLoader(const ramjet_device_loader& given) {
  if (given.name == nullptr) return absl::InvalidArgumentError("a device loader's name is NULL");
  if ((given.flags & ~(RAMJET_DEVICE_OPTIONAL | RAMJET_DEVICE_ANY_ORDER)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("device \"", given.name, "\": flags ", given.flags, " are not known"));
  }
  if (given.after == nullptr && given.after_count > 0) {
    return absl::InvalidArgumentError(absl::StrCat("device \"", given.name, "\": after is NULL"));
  }
  DeviceLoader loader{.device = {given.name, given.instance_id},
                      .any_order = (given.flags & RAMJET_DEVICE_ANY_ORDER) != 0,
                      .optional = (given.flags & RAMJET_DEVICE_OPTIONAL) != 0};
  if (given.load != nullptr) {
    loader.load = [load = given.load, opaque = given.opaque](const DeviceState& state) {
      c_abi::LastError().clear();
      return c_abi::StatusOf("its loader", load(opaque, Opaque(state)));
    };
  }
  if (given.load_buffer != nullptr) {
    loader.load_buffer = [load_buffer = given.load_buffer, opaque = given.opaque](
                             const DeviceState& state, uint64_t offset,
                             absl::Span<const uint8_t> bytes) {
      c_abi::LastError().clear();
      return c_abi::StatusOf(
          "its loader", load_buffer(opaque, Opaque(state), offset, bytes.data(), bytes.size()));
    };
  }
  if (given.buffer_bytes != 0) loader.buffer_bytes = given.buffer_bytes;
  for (uint64_t i = 0; i < given.after_count; ++i) {
    const ramjet_device_id& before = given.after[i];
    if (before.name == nullptr || before.reserved != 0) {
      return absl::InvalidArgumentError(absl::StrCat("device \"", given.name, "\": after[", i,
                                                     "] has no name, or reserved is not 0"));
    }
    loader.after.push_back({before.name, before.instance_id});
  }
  return loader;
}

}  // namespace
}  // namespace ramjet

using ramjet::c_abi::BadStruct;
using ramjet::c_abi::Fail;
using ramjet::c_abi::Read;
using ramjet::c_abi::Result;
using ramjet::c_abi::ResultOfCallbacks;

uint64_t ramjet_device_count(const ramjet_load* load) {
  return load->snapshot->description().devices.size();
}

int ramjet_get_device(const ramjet_load* load, uint64_t index, ramjet_device_info* info) {
  if (info == nullptr || info->size < sizeof(info->size)) return BadStruct("ramjet_device_info");
  if (index >= ramjet_device_count(load)) {
    return Fail(ENOENT, absl::StrCat("there is no device ", index, ": the snapshot has ",
                                     ramjet_device_count(load)));
  }
  return ramjet::GetInfo(load->snapshot->description().devices[index], info);
}

int64_t ramjet_read_device(const ramjet_load* load, const char* name, uint32_t instance_id,
                           void* buffer, uint64_t length) {
  if (name == nullptr || (buffer == nullptr && length > 0)) {
    return Fail(EINVAL, "name or buffer is NULL");
  }
  for (const ramjet::DeviceSection& device : load->snapshot->description().devices) {
    if (device.name != name || device.instance_id != instance_id) continue;
    const uint64_t wanted = std::min(length, device.size);
    const absl::Status read = load->snapshot->file().ReadAt(
        device.offset, absl::MakeSpan(static_cast<uint8_t*>(buffer), wanted));
    if (!read.ok()) return Result(read);
    return static_cast<int64_t>(device.size);
  }
  return Fail(ENOENT,
              absl::StrCat("the snapshot has no device \"", name, "\", instance ", instance_id));
}

int ramjet_read_device_state(const ramjet_device_state* state, uint64_t offset, void* buffer,
                             uint64_t length) {
  if (buffer == nullptr && length > 0) return Fail(EINVAL, "buffer is NULL");
  const absl::Status read = ramjet::Transparent(state).Read(
      offset, absl::MakeSpan(static_cast<uint8_t*>(buffer), length));
  if (absl::IsOutOfRange(read)) return Fail(EINVAL, std::string(read.message()));
  return Result(read);
}

int ramjet_get_device_state(const ramjet_device_state* state, ramjet_device_info* info) {
  if (info == nullptr || info->size < sizeof(info->size)) return BadStruct("ramjet_device_info");
  return ramjet::GetInfo(ramjet::Transparent(state).section(), info);
}

int ramjet_device_cancelled(const ramjet_device_state* state) {
  return ramjet::Transparent(state).cancelled() ? 1 : 0;
}

int ramjet_load_devices(const ramjet_load* load, const ramjet_device_loader* loaders,
                        uint64_t count, const ramjet_load_devices_options* options) {
  if (loaders == nullptr && count > 0) return Fail(EINVAL, "loaders is NULL");
  const ramjet_load_devices_options defaults = RAMJET_LOAD_DEVICES_OPTIONS_INIT;
  const auto given = Read(options == nullptr ? &defaults : options);
  if (!given) return BadStruct("ramjet_load_devices_options");
  if (given->reserved != 0) return Fail(EINVAL, "reserved is not 0");

  std::vector<ramjet::DeviceLoader> read_loaders;
  const auto* at = reinterpret_cast<const char*>(loaders);
  for (uint64_t i = 0; i < count; ++i, at += loaders->size) {
    const auto* const loader = reinterpret_cast<const ramjet_device_loader*>(at);
    const auto known = Read(loader);
    if (!known || loader->size != loaders->size) return BadStruct("ramjet_device_loader");
    absl::StatusOr<ramjet::DeviceLoader> read = ramjet::ReadDeviceLoader(*known);
    if (!read.ok()) return Result(read.status());
    read_loaders.push_back(*std::move(read));
  }
  ramjet::LoadDevicesOptions read_options{.threads = given->threads};
  if (given->read_ahead_bytes != 0) read_options.read_ahead_bytes = given->read_ahead_bytes;
  if (given->unclaimed != nullptr) {
    read_options.on_unclaimed = [&given](const ramjet::DeviceSection& device) {
      const ramjet_device_info info = ramjet::InfoOf(device);
      given->unclaimed(given->opaque, &info);
    };
  }
  const absl::Status loaded = ramjet::LoadDevices(*load->snapshot, read_loaders, read_options);
  return ResultOfCallbacks(loaded);
}
