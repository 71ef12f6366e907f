// The handle goes by the name of our namespace, and C++ lets only one of them have it.
#define ramjet ramjet_handle
#include "loader/ramjet.h"
#undef ramjet

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loader/device_loader.h"
#include "loader/indexed_buffers.h"
#include "loader/snapshot_loader.h"
#include "loader/stats_json.h"
#include "mappedram/file.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"
#include "mappedram/zero_scan.h"

struct ramjet_handle {
  std::shared_ptr<ramjet::Snapshot> snapshot;
  std::unique_ptr<ramjet::SnapshotLoader> loader;  // nullptr: RAMJET_NOT_LAZY
};

struct ramjet_buffers {
  std::shared_ptr<ramjet::QueueLimit> limit_of_all;
  std::unique_ptr<ramjet::IndexedBuffers> buffers;
};

// Never defined: a ramjet_device_state is a DeviceState of ours.
struct ramjet_device_state;

namespace ramjet {
namespace {

constexpr uint64_t kSavePageBytes = 4096;  // QEMU's TARGET_PAGE_SIZE of x86

std::string& LastError() {
  static thread_local std::string error;
  return error;
}

int Fail(int error, std::string why) {
  LastError() = std::move(why);
  return -error;
}

// How convention 1 spells each kind of failure.
int ErrnoOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return EINVAL;
    case absl::StatusCode::kNotFound:
      return ENOENT;
    case absl::StatusCode::kAlreadyExists:
      return EALREADY;
    case absl::StatusCode::kPermissionDenied:
      return EACCES;
    case absl::StatusCode::kResourceExhausted:
      return ENOMEM;
    case absl::StatusCode::kFailedPrecondition:
      return ENOTSUP;
    case absl::StatusCode::kDeadlineExceeded:
      return ETIMEDOUT;
    case absl::StatusCode::kAborted:
      return ENOTRECOVERABLE;
    case absl::StatusCode::kCancelled:
      return ECANCELED;
    case absl::StatusCode::kUnimplemented:
      return ENOSYS;
    case absl::StatusCode::kDataLoss:
      return EILSEQ;
    default:
      return EIO;
  }
}

int Result(const absl::Status& status) {
  return status.ok() ? 0 : Fail(ErrnoOf(status.code()), std::string(status.message()));
}

// Of the first version of each struct. What is smaller is no version at all.
template <typename Struct>
constexpr uint64_t kFirstSize = sizeof(Struct);
template <>
constexpr uint64_t kFirstSize<ramjet_options> = offsetof(ramjet_options, working_set);
template <>
constexpr uint64_t kFirstSize<ramjet_load_devices_options> = offsetof(ramjet_load_devices_options,
                                                                      read_ahead_bytes);
template <>
constexpr uint64_t kFirstSize<ramjet_buffers_options> = offsetof(ramjet_buffers_options,
                                                                 queue_with);

// A copy of what the caller has filled in, in the size that it knew; the rest is 0.
template <typename Struct>
std::optional<Struct> Read(const Struct* given) {
  Struct known{};
  if (given == nullptr || given->size < kFirstSize<Struct>) return std::nullopt;
  std::memcpy(&known, given, std::min<uint64_t>(given->size, sizeof(known)));
  return known;
}

int BadStruct(const char* name) {
  return Fail(EINVAL, absl::StrCat(name, ".size is not set: begin with the INIT macro"));
}

absl::StatusOr<SnapshotLoader::Options> ReadOptions(const ramjet_options& given) {
  SnapshotLoader::Options options{.uffd = given.uffd, .device_fd = given.device_fd};
  if (given.eager_threads > SnapshotLoader::kMaxEagerThreads) {
    return absl::InvalidArgumentError(absl::StrCat("eager_threads is ", given.eager_threads,
                                                   ", at most ", SnapshotLoader::kMaxEagerThreads));
  }
  if (given.eager_threads != 0) options.eager_threads = given.eager_threads;
  if (given.on_unreadable > RAMJET_STOP_VM) {
    return absl::InvalidArgumentError("on_unreadable is neither RAMJET_POISON nor RAMJET_STOP_VM");
  }
  if (given.on_unreadable == RAMJET_STOP_VM) options.on_unreadable = OnUnreadable::kStopVm;
  if (given.stop_vm != nullptr) {
    options.stop_vm = [stop_vm = given.stop_vm, opaque = given.opaque](const absl::Status& why) {
      stop_vm(opaque, std::string(why.message()).c_str());
    };
  }
  if ((given.flags & ~(RAMJET_NOT_LAZY | RAMJET_RECORD | RAMJET_SINGLE_PAGES)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("flags ", given.flags, " are not known"));
  }
  options.record = (given.flags & RAMJET_RECORD) != 0;
  options.whole_windows = (given.flags & RAMJET_SINGLE_PAGES) == 0;
  if (given.working_set != nullptr) options.working_set = given.working_set;
  if (given.checksums != nullptr) options.checksums = given.checksums;
  if (options.record && !options.working_set.empty()) {
    return absl::InvalidArgumentError(
        "RAMJET_RECORD with a working_set would record what the guest finds missing, not what it "
        "touches");
  }
  if (given.direct > RAMJET_DIRECT_OFF) {
    return absl::InvalidArgumentError(absl::StrCat("direct ", given.direct, " is not known"));
  }
  options.direct = given.direct == RAMJET_DIRECT_AUTO ? DirectReads::kAuto
                   : given.direct == RAMJET_DIRECT_ON ? DirectReads::kAlways
                                                      : DirectReads::kNever;
  options.eager_bytes_per_s = given.eager_rate;
  if (given.kill_pid < 0) return absl::InvalidArgumentError("kill_pid is negative");
  options.kill_pid = given.kill_pid;
  return options;
}

absl::StatusOr<std::shared_ptr<Snapshot>> OpenSnapshot(const char* path, uint64_t stream_offset) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(
      *std::move(file), stream_offset == 0 ? std::nullopt : std::optional(stream_offset));
  if (!snapshot.ok()) return snapshot.status();
  return std::shared_ptr<Snapshot>(*std::move(snapshot));
}

std::optional<size_t> FindBlock(const Snapshot& snapshot, const char* idstr) {
  for (size_t i = 0; i < snapshot.blocks().size(); ++i) {
    if (snapshot.blocks()[i].idstr == idstr) return i;
  }
  return std::nullopt;
}

std::string StatsText(const ramjet_handle& load) {
  if (load.loader == nullptr) return FormatStats({.complete = true}, nullptr);
  const SnapshotLoader::PageCounts lazy = load.loader->attached_pages();
  StatsContent content{.complete = load.loader->complete(),
                       .lazy_pages = lazy.total,
                       .lazy_nonzero_pages = lazy.nonzero,
                       .to_complete = load.loader->to_complete(),
                       .cpu = absl::Nanoseconds(static_cast<int64_t>(load.loader->cpu_ns()))};
  for (size_t i = 0; i < load.snapshot->blocks().size(); ++i) {
    const SnapshotBlock& block = load.snapshot->blocks()[i];
    content.blocks.push_back({.idstr = block.idstr,
                              .pages = block.pages(),
                              .nonzero = block.nonzero_pages,
                              .lazy = load.loader->attached(i)});
  }
  return FormatStats(content, &load.loader->stats());
}

// memcpy() from memory that may be poisoned, which would be a SIGBUS.
bool ReadSafely(const uint8_t* from, absl::Span<uint8_t> to) {
  const iovec local{.iov_base = to.data(), .iov_len = to.size()};
  const iovec remote{.iov_base = const_cast<uint8_t*>(from), .iov_len = to.size()};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(to.size());
}

// What a function of the caller's has returned. Its number goes through as it is, as a code that
// Abseil has none of. (A payload would do, too; but absl::Cord cannot be linked without a symbol
// that the shared library would export.)
constexpr int kFirstErrnoCode = 1 << 16;

absl::Status StatusOf(absl::string_view whose, int returned) {
  if (returned >= 0) return absl::OkStatus();
  const int error = -std::max(returned, -4095);  // as high as the kernel's go
  const std::string why = LastError();  // of this thread: what the function was told, if anything
  return absl::Status(static_cast<absl::StatusCode>(kFirstErrnoCode + error),
                      absl::StrCat(whose, " has returned -", error, " (", std::strerror(error), ")",
                                   why.empty() ? "" : ": ", why));
}

// Result() of what may be a StatusOf().
int ResultOfCallbacks(const absl::Status& status) {
  if (status.raw_code() < kFirstErrnoCode) return Result(status);
  return Fail(status.raw_code() - kFirstErrnoCode, std::string(status.message()));
}

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
      LastError().clear();
      return StatusOf("its loader", load(opaque, Opaque(state)));
    };
  }
  if (given.load_buffer != nullptr) {
    loader.load_buffer = [load_buffer = given.load_buffer, opaque = given.opaque](
                             const DeviceState& state, uint64_t offset,
                             absl::Span<const uint8_t> bytes) {
      LastError().clear();
      return StatusOf("its loader",
                      load_buffer(opaque, Opaque(state), offset, bytes.data(), bytes.size()));
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

// A block's memory, some of which may be poisoned.
class SafeMemory : public RamSource {
 public:
  explicit SafeMemory(const ramjet_save_block& block) : block_(block) {}

  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override {
    return Extent{offset, limit - offset};
  }
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override {
    if (ReadSafely(static_cast<const uint8_t*>(block_.host) + offset, buffer)) {
      return absl::OkStatus();
    }
    return absl::UnavailableError(absl::StrCat("block \"", block_.idstr,
                                               "\" cannot be read between bytes ", offset, " and ",
                                               offset + buffer.size()));
  }

 private:
  const ramjet_save_block block_;
};

// Makes zero what is not, without touching what is.
void ClearUnlessZero(absl::Span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const absl::Span<uint8_t> page = bytes.first(std::min<uint64_t>(kSavePageBytes, bytes.size()));
    if (!IsZero(page)) std::memset(page.data(), 0, page.size());
    bytes.remove_prefix(page.size());
  }
}

absl::Status ReadBlock(const Snapshot& snapshot, size_t index, absl::Span<uint8_t> to) {
  const SnapshotBlock& block = snapshot.blocks()[index];
  const PageBitmap& nonzero = snapshot.nonzero(index);
  uint64_t done = 0;
  for (auto run = nonzero.FindRun(true, 0, nonzero.size()); run;
       run = nonzero.FindRun(true, run->end(), nonzero.size())) {
    const uint64_t offset = run->first * block.page_size;
    const uint64_t length = run->count * block.page_size;
    ClearUnlessZero(to.subspan(done, offset - done));
    absl::Status read = snapshot.ReadPages(index, offset, to.subspan(offset, length));
    if (!read.ok()) return read;
    done = offset + length;
  }
  ClearUnlessZero(to.subspan(done, block.used_length - done));
  return absl::OkStatus();
}

}  // namespace
}  // namespace ramjet

using ramjet::BadStruct;
using ramjet::Fail;
using ramjet::Read;
using ramjet::Result;

const char* ramjet_version(void) { return "0.1.0"; }

const char* ramjet_error(void) { return ramjet::LastError().c_str(); }

int ramjet_open(const char* path, const ramjet_options* options, ramjet_handle** load) {
  if (path == nullptr || load == nullptr) return Fail(EINVAL, "path or load is NULL");
  *load = nullptr;
  const ramjet_options defaults = RAMJET_OPTIONS_INIT;
  const std::optional<ramjet_options> given = Read(options == nullptr ? &defaults : options);
  if (!given) return BadStruct("ramjet_options");
  const absl::StatusOr<ramjet::SnapshotLoader::Options> read = ramjet::ReadOptions(*given);
  if (!read.ok()) return Result(read.status());

  absl::StatusOr<std::shared_ptr<ramjet::Snapshot>> snapshot =
      ramjet::OpenSnapshot(path, given->stream_offset);
  if (!snapshot.ok()) {
    const int result = Result(snapshot.status());
    return result == -EINVAL ? -EBADMSG : result;
  }
  if ((given->flags & RAMJET_NOT_LAZY) != 0) {
    *load = new ramjet_handle{*std::move(snapshot), nullptr};
    return 0;
  }
  absl::StatusOr<std::unique_ptr<ramjet::SnapshotLoader>> loader =
      ramjet::SnapshotLoader::Create(*snapshot, *read);
  if (!loader.ok()) {
    const int result = Result(loader.status());
    return result == -ENOTSUP ? -EPERM : result;
  }
  *load = new ramjet_handle{*std::move(snapshot), *std::move(loader)};
  return 0;
}

uint64_t ramjet_block_count(const ramjet_handle* load) { return load->snapshot->blocks().size(); }

int ramjet_get_block(const ramjet_handle* load, uint64_t index, ramjet_block_info* info) {
  if (info == nullptr || info->size < sizeof(info->size)) return BadStruct("ramjet_block_info");
  if (index >= ramjet_block_count(load)) {
    return Fail(ENOENT, absl::StrCat("there is no block ", index, ": the snapshot has ",
                                     ramjet_block_count(load)));
  }
  const ramjet::SnapshotBlock& block = load->snapshot->blocks()[index];
  const ramjet_block_info known{.size = info->size,
                                .idstr = block.idstr.c_str(),
                                .used_length = block.used_length,
                                .page_size = block.page_size,
                                .nonzero_pages = block.nonzero_pages};
  std::memcpy(info, &known, std::min<uint64_t>(info->size, sizeof(known)));
  return 0;
}

uint64_t ramjet_device_count(const ramjet_handle* load) {
  return load->snapshot->description().devices.size();
}

int ramjet_get_device(const ramjet_handle* load, uint64_t index, ramjet_device_info* info) {
  if (info == nullptr || info->size < sizeof(info->size)) return BadStruct("ramjet_device_info");
  if (index >= ramjet_device_count(load)) {
    return Fail(ENOENT, absl::StrCat("there is no device ", index, ": the snapshot has ",
                                     ramjet_device_count(load)));
  }
  return ramjet::GetInfo(load->snapshot->description().devices[index], info);
}

int64_t ramjet_read_device(const ramjet_handle* load, const char* name, uint32_t instance_id,
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

int ramjet_load_devices(const ramjet_handle* load, const ramjet_device_loader* loaders,
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
  return ramjet::ResultOfCallbacks(loaded);
}

int ramjet_buffers_open(const ramjet_buffers_options* options, ramjet_buffers** buffers) {
  if (buffers == nullptr) return Fail(EINVAL, "buffers is NULL");
  *buffers = nullptr;
  const auto given = Read(options);
  if (!given) return BadStruct("ramjet_buffers_options");
  if (given->consume == nullptr) return Fail(EINVAL, "consume is NULL");
  if ((given->flags & ~RAMJET_BUFFERS_ANY_ORDER) != 0) {
    return Fail(EINVAL, absl::StrCat("flags ", given->flags, " are not known"));
  }
  if (given->producers > INT32_MAX) {
    return Fail(EINVAL, absl::StrCat(given->producers, " producers are too many"));
  }
  auto limit_of_all = given->queue_with != nullptr
                          ? given->queue_with->limit_of_all
                          : std::make_shared<ramjet::QueueLimit>(given->queue_bytes);
  auto created = ramjet::IndexedBuffers::Create(
      {.count = given->count,
       .limit_bytes = given->queue_bytes,
       .producers = static_cast<int>(given->producers),
       .any_order = (given->flags & RAMJET_BUFFERS_ANY_ORDER) != 0,
       .limit_of_all = limit_of_all},
      [consume = given->consume, opaque = given->opaque](uint64_t index,
                                                         absl::Span<const uint8_t> bytes) {
        ramjet::LastError().clear();
        const int returned = consume(opaque, index, bytes.data(), bytes.size());
        return ramjet::StatusOf(absl::StrCat("the consumer of buffer ", index), returned);
      });
  if (!created.ok()) return Result(created.status());
  *buffers = new ramjet_buffers{std::move(limit_of_all), *std::move(created)};
  return 0;
}

int ramjet_buffers_put(ramjet_buffers* buffers, uint64_t index, const void* bytes,
                       uint64_t length) {
  if (bytes == nullptr && length > 0) return Fail(EINVAL, "bytes is NULL");
  return ramjet::ResultOfCallbacks(
      buffers->buffers->Put(index, {static_cast<const uint8_t*>(bytes), length}));
}

int ramjet_buffers_end(ramjet_buffers* buffers) {
  return ramjet::ResultOfCallbacks(buffers->buffers->EndProducer());
}

int ramjet_buffers_wait(ramjet_buffers* buffers) {
  return ramjet::ResultOfCallbacks(buffers->buffers->Wait());
}

int ramjet_buffers_cancel(ramjet_buffers* buffers) {
  buffers->buffers->Cancel(absl::CancelledError("the buffers were cancelled"));
  return 0;
}

void ramjet_buffers_close(ramjet_buffers* buffers) { delete buffers; }

int ramjet_attach(ramjet_handle* load, const ramjet_block* block) {
  const std::optional<ramjet_block> given = Read(block);
  if (!given) return BadStruct("ramjet_block");
  if (given->idstr == nullptr) return Fail(EINVAL, "idstr is NULL");
  if (given->reserved != 0) return Fail(EINVAL, "reserved is not 0");
  if (load->loader == nullptr) return Fail(ENOTSUP, "the snapshot was opened with RAMJET_NOT_LAZY");
  const std::optional<size_t> index = ramjet::FindBlock(*load->snapshot, given->idstr);
  if (!index) {
    return Fail(ENOENT, absl::StrCat("the snapshot has no block \"", given->idstr, "\""));
  }
  if (given->memory > RAMJET_SHARED) {
    return Fail(EINVAL, "memory is neither RAMJET_PRIVATE nor RAMJET_SHARED");
  }
  return Result(load->loader->Attach(
      *index, {.host = given->host,
               .length = given->length,
               .memory = given->memory == RAMJET_SHARED ? ramjet::BlockMemory::kShared
                                                        : ramjet::BlockMemory::kPrivate,
               .host_page_size = given->host_page_size,
               .alias = given->alias}));
}

int ramjet_read_block(const ramjet_handle* load, const char* idstr, void* to, uint64_t length) {
  if (idstr == nullptr || to == nullptr) return Fail(EINVAL, "idstr or to is NULL");
  const std::optional<size_t> index = ramjet::FindBlock(*load->snapshot, idstr);
  if (!index) return Fail(ENOENT, absl::StrCat("the snapshot has no block \"", idstr, "\""));
  const uint64_t used_length = load->snapshot->blocks()[*index].used_length;
  if (length < used_length) {
    return Fail(EINVAL, absl::StrCat("block \"", idstr, "\" is ", used_length,
                                     " bytes long, and there is room for ", length));
  }
  if (load->loader != nullptr && load->loader->attached(*index)) {
    return Fail(EALREADY, absl::StrCat("block \"", idstr, "\" is attached"));
  }
  return Result(ramjet::ReadBlock(*load->snapshot, *index,
                                  absl::MakeSpan(static_cast<uint8_t*>(to), used_length)));
}

int ramjet_start_eager(ramjet_handle* load) {
  return load->loader == nullptr ? 0 : Result(load->loader->StartEager());
}

int ramjet_save_working_set(const ramjet_handle* load, const char* path) {
  if (path == nullptr) return Fail(EINVAL, "path is NULL");
  if (load->loader == nullptr) return Fail(ENOTSUP, "the snapshot was opened with RAMJET_NOT_LAZY");
  return Result(load->loader->SaveWorkingSet(path));
}

int ramjet_discard(ramjet_handle* load, void* start, uint64_t length) {
  const auto addr = reinterpret_cast<uintptr_t>(start);
  if (length > UINTPTR_MAX - addr) return Fail(EINVAL, "the range wraps around");
  if (load->loader != nullptr) load->loader->Discard(addr, addr + length);
  return 0;
}

int ramjet_wait(ramjet_handle* load, int64_t timeout_ms) {
  if (load->loader == nullptr) return 0;
  return Result(load->loader->Wait(timeout_ms < 0 ? absl::InfiniteDuration()
                                                  : absl::Milliseconds(timeout_ms)));
}

int64_t ramjet_stats_json(const ramjet_handle* load, char* buffer, uint64_t size) {
  if (buffer == nullptr && size > 0) return Fail(EINVAL, "buffer is NULL");
  std::string text = ramjet::StatsText(*load);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  if (size > 0) {
    const uint64_t kept = std::min<uint64_t>(size - 1, text.size());
    std::memcpy(buffer, text.data(), kept);
    buffer[kept] = '\0';
  }
  return static_cast<int64_t>(text.size());
}

int ramjet_get_stats(const ramjet_handle* load, ramjet_stats* stats) {
  if (stats == nullptr || stats->size < sizeof(stats->size)) return BadStruct("ramjet_stats");
  ramjet_stats known{};
  known.size = stats->size;
  known.complete = 1;
  if (load->loader != nullptr) {
    const ramjet::SnapshotLoader::PageCounts attached = load->loader->attached_pages();
    // Asked first: when this says that all have arrived, the sums below agree.
    known.complete = load->loader->complete() ? 1 : 0;
    const ramjet::LoadStats& counted = load->loader->stats();
    known.pages = attached.total;
    known.nonzero_pages = attached.nonzero;
    known.eager_pages = counted.eager;
    known.faulted_pages = counted.faulted;
    known.removed_pages = counted.removed;
    known.poisoned_pages = counted.poisoned;
    known.faults = counted.faults;
    known.fault_p50_ns = counted.fault_ns.QuantileNs(0.5);
    known.fault_p99_ns = counted.fault_ns.QuantileNs(0.99);
    known.fault_max_ns = counted.fault_ns.max_ns();
    known.read_retries = counted.read_retries;
    known.rescued_faults = counted.rescued;
    known.working_set_pages = counted.working_set;
  }
  std::memcpy(stats, &known, std::min<uint64_t>(stats->size, sizeof(known)));
  return 0;
}

int ramjet_detach(ramjet_handle* load) {
  if (load->loader == nullptr) return 0;
  const int result = Result(load->loader->Detach());
  return result == -ENOTSUP ? -EBUSY : result;
}

int ramjet_collapse(ramjet_handle* load) {
  if (load->loader != nullptr) load->loader->Collapse();
  return 0;
}

int ramjet_abandon(ramjet_handle* load) {
  if (load->loader != nullptr) load->loader->Abandon();
  return 0;
}

void ramjet_close(ramjet_handle* load) { delete load; }

int ramjet_save(const char* path, const ramjet_save_block* blocks, uint64_t block_count,
                const ramjet_save_device* devices, uint64_t device_count) {
  if (path == nullptr || (blocks == nullptr && block_count > 0) ||
      (devices == nullptr && device_count > 0)) {
    return Fail(EINVAL, "path, blocks or devices is NULL");
  }
  if (block_count == 0) return Fail(EINVAL, "there is no block to save");
  std::deque<ramjet::SafeMemory> memory;
  std::vector<ramjet::NewBlock> new_blocks;
  ramjet::StreamContent content;
  for (uint64_t i = 0; i < block_count; ++i) {
    const ramjet_save_block& block = blocks[i];
    if (block.idstr == nullptr || *block.idstr == '\0' || std::strlen(block.idstr) > 255) {
      return Fail(EINVAL, absl::StrCat("block ", i, ": idstr is not 1 to 255 bytes long"));
    }
    for (uint64_t other = 0; other < i; ++other) {
      if (std::strcmp(blocks[other].idstr, block.idstr) == 0) {
        return Fail(EINVAL, absl::StrCat("two blocks are called \"", block.idstr, "\""));
      }
    }
    if (block.host == nullptr || block.length == 0 || block.length % ramjet::kSavePageBytes != 0) {
      return Fail(EINVAL, absl::StrCat("block \"", block.idstr, "\": its length of ", block.length,
                                       " bytes is no multiple of ", ramjet::kSavePageBytes));
    }
    new_blocks.push_back({.idstr = block.idstr,
                          .used_length = block.length,
                          .page_size = ramjet::kSavePageBytes,
                          .source = &memory.emplace_back(block)});
  }
  for (uint64_t i = 0; i < device_count; ++i) {
    const ramjet_save_device& device = devices[i];
    if (device.name == nullptr || *device.name == '\0' || std::strlen(device.name) > 255) {
      return Fail(EINVAL, absl::StrCat("device ", i, ": name is not 1 to 255 bytes long"));
    }
    if (device.state == nullptr && device.length > 0) {
      return Fail(EINVAL, absl::StrCat("device \"", device.name, "\": state is NULL"));
    }
    for (uint64_t other = 0; other < i; ++other) {
      if (std::strcmp(devices[other].name, device.name) == 0 &&
          devices[other].instance_id == device.instance_id) {
        return Fail(EINVAL, absl::StrCat("two devices are called \"", device.name, "\", instance ",
                                         device.instance_id));
      }
    }
    content.devices.push_back(
        {.name = device.name,
         .instance_id = device.instance_id,
         .version_id = device.version_id,
         .payload = std::string(static_cast<const char*>(device.state), device.length)});
  }
  absl::StatusOr<ramjet::StreamParts> stream = ramjet::EncodeStream(content);
  if (!stream.ok()) return Result(stream.status());
  ramjet::SnapshotWriter writer(*std::move(stream), std::move(new_blocks), {});
  return Result(writer.Write(path));
}
