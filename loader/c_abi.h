// What all of the C face (ramjet.h) is written with: its handles, how it reads structs that may be
// of another version, and how a failure gets from a Status to a negative errno and ramjet_error().
#ifndef RAMJET_LOADER_C_ABI_H_
#define RAMJET_LOADER_C_ABI_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "loader/indexed_buffers.h"
#include "loader/ramjet.h"
#include "loader/snapshot_loader.h"
#include "mappedram/checksums.h"
#include "mappedram/snapshot.h"

struct ramjet_load {
  std::shared_ptr<ramjet::Snapshot> snapshot;
  std::unique_ptr<ramjet::SnapshotLoader> loader;  // nullptr: RAMJET_NOT_LAZY
  // Without a loader, which has its own; none unless asked for.
  std::optional<ramjet::BoundChecksums> checksums;
};

struct ramjet_buffers {
  std::shared_ptr<ramjet::QueueLimit> limit_of_all;
  std::unique_ptr<ramjet::IndexedBuffers> buffers;
};

namespace ramjet::c_abi {

// What ramjet_error() says, of the calling thread.
std::string& LastError();

// Notes why; returns -error.
int Fail(int error, std::string why);
int BadStruct(const char* name);
// 0, or Fail() with convention 1's number for that kind of failure.
int Result(const absl::Status& status);

// 0, or Fail(EPERM) if CopySafely() is denied.
int CheckCopying();

// Of the first version of each struct. What is smaller is no version at all.
template <typename Struct>
inline constexpr uint64_t kFirstSize = sizeof(Struct);
template <>
inline constexpr uint64_t kFirstSize<ramjet_options> = offsetof(ramjet_options, working_set);
template <>
inline constexpr uint64_t kFirstSize<ramjet_load_devices_options> =
    offsetof(ramjet_load_devices_options, read_ahead_bytes);
template <>
inline constexpr uint64_t kFirstSize<ramjet_buffers_options> = offsetof(ramjet_buffers_options,
                                                                        queue_with);

// A copy of what the caller has filled in, in the size that it knew; the rest is 0.
template <typename Struct>
std::optional<Struct> Read(const Struct* given) {
  Struct known{};
  if (given == nullptr || given->size < kFirstSize<Struct>) return std::nullopt;
  std::memcpy(&known, given, std::min<uint64_t>(given->size, sizeof(known)));
  return known;
}

// What a function of the caller's has returned, `whose` it is.
absl::Status StatusOf(absl::string_view whose, int returned);
// Result() of what may be a StatusOf(): its number goes through as it is.
int ResultOfCallbacks(const absl::Status& status);

}  // namespace ramjet::c_abi

#endif  // RAMJET_LOADER_C_ABI_H_
