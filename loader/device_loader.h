// Device state, loaded by those who understand it: several devices at once, while RAM loads.
#ifndef RAMJET_LOADER_DEVICE_LOADER_H_
#define RAMJET_LOADER_DEVICE_LOADER_H_

#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

// A device as the stream names it.
struct DeviceId {
  std::string name;  // QEMU's idstr: "0000:00:02.0/virtio-net"
  uint32_t instance_id = 0;

  auto operator<=>(const DeviceId&) const = default;
};

// The state of one device in the file. Read when it is asked for, so it takes no memory here.
//
// Threads: every method may be called concurrently. Valid until LoadDevices() returns.
class DeviceState {
 public:
  DeviceState(const Snapshot& snapshot, const DeviceSection& section,
              const std::atomic<bool>& cancelled)
      : snapshot_(snapshot), section_(section), cancelled_(cancelled) {}

  // Name, instance, version and size.
  const DeviceSection& section() const { return section_; }

  // Fills `buffer` with what lies at `offset` in the state. Exactly that is read from the disk,
  // with nothing ahead of it, so large pieces are better. OutOfRange: there is not so much.
  // DataLoss: the file has changed since it was opened. Unavailable: it cannot be read.
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const;

  // Another device has failed: what this one loads will not be used, and it may return an error at
  // once, which nobody will see.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  const Snapshot& snapshot_;
  const DeviceSection& section_;
  const std::atomic<bool>& cancelled_;  // relaxed: seen late, it only takes a little longer
};

// How the state of one device is loaded: by `load` alone, or in buffers by `load_buffer`, after
// which `load`, if there is one, ends it.
struct DeviceLoader {
  DeviceId device;
  std::function<absl::Status(const DeviceState&)> load = nullptr;

  // The state in buffers of `buffer_bytes`, the last of which may be shorter. `bytes` lies at
  // `offset` in the state, and is valid during the call. The next buffer is read meanwhile, so this
  // is for a state that is large; two buffers are all the memory that it takes. In order, one call
  // at a time, though not by one thread; but with any_order up to four at the same time, in any
  // order.
  std::function<absl::Status(const DeviceState&, uint64_t offset, absl::Span<const uint8_t> bytes)>
      load_buffer = nullptr;
  uint64_t buffer_bytes = uint64_t{1} << 20;
  bool any_order = false;

  // The snapshot may be without the device; nothing is called then, and those after it do not wait.
  bool optional = false;
  // Those that must be complete before this one begins: each has a DeviceLoader of its own.
  std::vector<DeviceId> after = {};
};

struct LoadDevicesOptions {
  // 1 to 64; 0: one for each device, two for one that comes in buffers, up to 16. Most of them wait
  // for a device, not for a processor.
  unsigned threads = 0;
  // Buffers that are read before their turn take no more than that, those of all devices together.
  // The one whose turn it is comes without counting, so any limit will do.
  uint64_t read_ahead_bytes = uint64_t{256} << 20;
  // Called for each device of the snapshot that nobody loads, before any loader is. Without it such
  // a device is an error: a guest that lacks the state of a device is not the one that was saved.
  std::function<void(const DeviceSection&)> on_unclaimed = nullptr;
};

// Has each of `loaders` load its device, and returns when all have, in threads of its own
// ("ramjet-device", all signals blocked, 8 MiB of stack). Each begins as soon as those that it
// comes after are complete; otherwise in the stream's order, as far as there are threads. What one
// loader did is visible to those after it.
//
// First it checks, and nothing is called if something is wrong. InvalidArgument: two loaders of one
// device, one that comes after a device without a loader, or devices that wait for each other in a
// circle. NotFound: the snapshot lacks a device. FailedPrecondition: nobody loads one of the
// snapshot's. DataLoss: it has one twice.
// ResourceExhausted: no thread can be started.
//
// The first loader that fails ends it: those that have not begun never begin, those that run are
// told by cancelled(), and waited for. Its error is returned, with the device's name and instance
// in front of the message; raw_code() is as it was.
//
// Threads: may be called from any, also several times at once, as long as no loader does.
absl::Status LoadDevices(const Snapshot& snapshot, absl::Span<const DeviceLoader> loaders,
                         const LoadDevicesOptions& options = {});

}  // namespace ramjet

#endif  // RAMJET_LOADER_DEVICE_LOADER_H_
