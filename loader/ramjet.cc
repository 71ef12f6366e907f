// The C face's loads: a snapshot that is opened, attached to memory, waited for and closed.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loader/c_abi.h"
#include "loader/read_block.h"
#include "loader/snapshot_loader.h"
#include "loader/stats_json.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"

namespace ramjet {
namespace {

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

std::string StatsText(const ramjet_load& load) {
  if (load.loader == nullptr) return FormatStats({.lazy = false, .complete = true}, nullptr);
  const SnapshotLoader::PageCounts lazy = load.loader->attached_pages();
  StatsContent content{.complete = load.loader->complete(),
                       .lazy_pages = lazy.total,
                       .lazy_nonzero_pages = lazy.nonzero,
                       .missing_pages = lazy.missing,
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

absl::Status ReadPlain(const ramjet_load& load, size_t index, absl::Span<uint8_t> to) {
  const Snapshot& snapshot = *load.snapshot;
  const SnapshotBlock& block = snapshot.blocks()[index];
  const PageBitmap& nonzero = snapshot.nonzero(index);
  if (!load.checksums) return ReadBlock(snapshot, block, index, nonzero, to);
  return ReadBlock(CheckedSource(snapshot, *load.checksums), block, index, nonzero, to);
}

}  // namespace
}  // namespace ramjet

using ramjet::c_abi::BadStruct;
using ramjet::c_abi::Fail;
using ramjet::c_abi::Read;
using ramjet::c_abi::Result;

const char* ramjet_version(void) { return "0.1.0"; }

const char* ramjet_error(void) { return ramjet::c_abi::LastError().c_str(); }

int ramjet_open(const char* path, const ramjet_options* options, ramjet_load** load) {
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
    absl::StatusOr<std::optional<ramjet::BoundChecksums>> checksums =
        ramjet::SnapshotLoader::BindChecksums(read->checksums, **snapshot);
    if (!checksums.ok()) return Result(checksums.status());
    *load = new ramjet_load{*std::move(snapshot), nullptr, *std::move(checksums)};
    return 0;
  }
  absl::StatusOr<std::unique_ptr<ramjet::SnapshotLoader>> loader =
      ramjet::SnapshotLoader::Create(*snapshot, *read);
  if (!loader.ok()) {
    const int result = Result(loader.status());
    return result == -ENOTSUP ? -EPERM : result;
  }
  *load = new ramjet_load{*std::move(snapshot), *std::move(loader), std::nullopt};
  return 0;
}

uint64_t ramjet_block_count(const ramjet_load* load) { return load->snapshot->blocks().size(); }

int ramjet_get_block(const ramjet_load* load, uint64_t index, ramjet_block_info* info) {
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

int ramjet_attach(ramjet_load* load, const ramjet_block* block) {
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
  if (given->alias != nullptr) {
    if (const int denied = ramjet::c_abi::CheckCopying(); denied < 0) return denied;
  }
  return Result(load->loader->Attach(
      *index, {.host = given->host,
               .length = given->length,
               .memory = given->memory == RAMJET_SHARED ? ramjet::BlockMemory::kShared
                                                        : ramjet::BlockMemory::kPrivate,
               .host_page_size = given->host_page_size,
               .alias = given->alias}));
}

int ramjet_read_block(const ramjet_load* load, const char* idstr, void* to, uint64_t length) {
  if (idstr == nullptr || to == nullptr) return Fail(EINVAL, "idstr or to is NULL");
  const std::optional<size_t> index = ramjet::FindBlock(*load->snapshot, idstr);
  if (!index) return Fail(ENOENT, absl::StrCat("the snapshot has no block \"", idstr, "\""));
  const uint64_t used_length = load->snapshot->blocks()[*index].used_length;
  if (length < used_length) {
    return Fail(EINVAL, absl::StrCat("block \"", idstr, "\" is ", used_length,
                                     " bytes long, and there is room for ", length));
  }
  const absl::Span<uint8_t> memory(static_cast<uint8_t*>(to), used_length);
  if (load->loader != nullptr) return Result(load->loader->ReadUnattached(*index, memory));
  return Result(ramjet::ReadPlain(*load, *index, memory));
}

int ramjet_start_eager(ramjet_load* load) {
  return load->loader == nullptr ? 0 : Result(load->loader->StartEager());
}

int ramjet_save_working_set(const ramjet_load* load, const char* path) {
  if (path == nullptr) return Fail(EINVAL, "path is NULL");
  if (load->loader == nullptr) return Fail(ENOTSUP, "the snapshot was opened with RAMJET_NOT_LAZY");
  return Result(load->loader->SaveWorkingSet(path));
}

int ramjet_discard(ramjet_load* load, void* start, uint64_t length) {
  const auto addr = reinterpret_cast<uintptr_t>(start);
  if (length > UINTPTR_MAX - addr) return Fail(EINVAL, "the range wraps around");
  if (load->loader != nullptr) load->loader->Discard(addr, addr + length);
  return 0;
}

int ramjet_wait(ramjet_load* load, int64_t timeout_ms) {
  if (load->loader == nullptr) return 0;
  return Result(load->loader->Wait(timeout_ms < 0 ? absl::InfiniteDuration()
                                                  : absl::Milliseconds(timeout_ms)));
}

int ramjet_finish(ramjet_load* load) {
  return load->loader == nullptr ? 0 : Result(load->loader->Finish());
}

int64_t ramjet_stats_json(const ramjet_load* load, char* buffer, uint64_t size) {
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

int ramjet_get_stats(const ramjet_load* load, ramjet_stats* stats) {
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

int ramjet_detach(ramjet_load* load) {
  if (load->loader == nullptr) return 0;
  const int result = Result(load->loader->Detach());
  return result == -ENOTSUP ? -EBUSY : result;
}

int ramjet_collapse(ramjet_load* load) {
  if (load->loader != nullptr) load->loader->Collapse();
  return 0;
}

int ramjet_abandon(ramjet_load* load) {
  if (load->loader != nullptr) load->loader->Abandon();
  return 0;
}

void ramjet_close(ramjet_load* load) { delete load; }
