#include "loader/guest_mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "loader/page_buffer.h"
#include "uffd/mappings.h"

namespace ramjet {
namespace {

constexpr int kCollapseAttempts = 3;
constexpr int kMadvCollapse = 25;  // Linux 6.1 include/uapi/asm-generic/mman-common.h

uint64_t RoundUp(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Whether `length` bytes from `a` in one mapping and from `b` in the other are the same of one
// file.
bool SameBytes(const KernelMapping& one, uintptr_t a, const KernelMapping& other, uintptr_t b,
               uint64_t length) {
  return other.shared && one.inode == other.inode && one.device_major == other.device_major &&
         one.device_minor == other.device_minor &&
         one.offset + (a - one.start) == other.offset + (b - other.start) &&
         other.end - b >= length && one.page_bytes == other.page_bytes;
}

// Whether a page that was there, or had content to come, is not: the guest has given it up, during
// the load or since, and a huge page would bring its memory back.
bool AnyDiscarded(const RamBlock& block, PageRun window) {
  std::vector<unsigned char> resident(window.count);
  if (mincore(reinterpret_cast<void*>(block.AddrOf(window.first)), block.BytesOf(window.count),
              resident.data()) != 0) {
    return true;  // unmapped, in part at least
  }
  for (uint64_t i = 0; i < window.count; ++i) {
    const uint64_t page = window.first + i;
    if ((resident[i] & 1) == 0 && (block.nonzero(page) || block.received(page))) return true;
  }
  return false;
}

// Makes every access to the range a SIGSEGV. A seccomp filter may deny mprotect(2), and the kernel
// refuses it to a process that has as many mappings as it may; only munmap(2) needs no new one.
void TakeAway(uintptr_t start, uintptr_t end) {
  void* const memory = reinterpret_cast<void*>(start);
  if (mprotect(memory, end - start, PROT_NONE) == 0) return;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(memory, end - start, PROT_NONE, kFlags, -1, 0) != MAP_FAILED) return;
  (void)munmap(memory, end - start);
}

absl::Status Empty(const RamBlock::Memory& memory, uint64_t length, BlockMemory kind) {
  // MADV_DONTNEED would leave the pages of shared memory in the page cache, where the next fault
  // finds them.
  const int advice = kind == BlockMemory::kShared ? MADV_REMOVE : MADV_DONTNEED;
  if (madvise(reinterpret_cast<void*>(memory.host), length, advice) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      errno != EINVAL ? absl::StrCat("it cannot be emptied: ", std::strerror(errno))
      : memory.zeroable
          ? std::string("it is locked in memory (mlock)")
          : std::string("it is locked, or this kernel cannot empty huge pages (Linux 5.18)"));
}

}  // namespace

uint64_t SystemPageSize() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

absl::StatusOr<HostMemory> CheckMapping(const SnapshotBlock& stored, const BlockMapping& mapping,
                                        const Userfaultfd::Features& features, const RamMap& map) {
  const uintptr_t addr = reinterpret_cast<uintptr_t>(mapping.host);
  const absl::StatusOr<KernelMapping> actual = MappingAt(addr);
  if (absl::IsInvalidArgument(actual.status())) return actual.status();
  // Without /proc the caller is believed; that pages are huge, or are not, shows in
  // RegisterEmpty().
  const uint64_t page_size = actual.ok()                   ? actual->page_bytes
                             : mapping.host_page_size != 0 ? mapping.host_page_size
                                                           : SystemPageSize();
  if (actual.ok() && actual->shared != (mapping.memory == BlockMemory::kShared)) {
    return absl::InvalidArgumentError(actual->shared
                                          ? "its memory is shared, and said to be private"
                                          : "its memory is private, and said to be shared");
  }
  if (mapping.host_page_size != 0 && mapping.host_page_size != page_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "its host page size is said to be %d, and is %d", mapping.host_page_size, page_size));
  }
  const uint64_t needed = RoundUp(stored.used_length, page_size);
  const uint64_t length = mapping.length == 0 ? needed : mapping.length;
  if (addr % page_size != 0 || length % page_size != 0 || length < needed ||
      length > UINTPTR_MAX - addr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("block \"%s\" of %d bytes does not fit %d bytes at %#x in pages of %d",
                        stored.idstr, stored.used_length, length, addr, page_size));
  }
  const RamBlock* const next = map.FindFrom(addr);
  if (next != nullptr && next->host() < addr + needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("block \"", next->idstr(), "\" is attached there"));
  }
  if (mapping.alias == nullptr) {
    return HostMemory{
        page_size, needed,
        actual.ok() && !actual->shared && actual->inode == 0 && actual->end >= addr + needed};
  }

  if (mapping.memory != BlockMemory::kShared) {
    return absl::InvalidArgumentError("private memory has no alias");
  }
  const auto alias = reinterpret_cast<uintptr_t>(mapping.alias);
  const absl::StatusOr<KernelMapping> other = MappingAt(alias);
  if (absl::IsInvalidArgument(other.status())) return other.status();
  // What is written there would go anywhere.
  if (actual.ok() && other.ok() && !SameBytes(*actual, addr, *other, alias, needed)) {
    return absl::InvalidArgumentError("its alias is not a mapping of the same bytes");
  }
  const bool can_continue =
      page_size == SystemPageSize() ? features.minor_shmem : features.minor_hugetlb;
  if (!can_continue) {
    return absl::FailedPreconditionError(
        "this kernel or this userfaultfd cannot fill memory through an alias (Linux 5.14)");
  }
  return HostMemory{page_size, needed, false};
}

absl::StatusOr<EmptyMemory> RegisterEmpty(const Userfaultfd& uffd, const RamBlock::Memory& memory,
                                          uint64_t length, BlockMemory kind, bool anonymous) {
  EmptyMemory result;
  // A write through an alias may make a huge page, of which all but that write is zeros until the
  // rest has arrived; MADV_COLLAPSE would map all of it at once, by any kernel.
  if (kind == BlockMemory::kShared && memory.zeroable &&
      (memory.alias != 0 || HugePagesFillHoles())) {
    absl::StatusOr<HugePagesOff> off = HugePagesOff::Over(memory.host, length);
    if (!off.ok()) return off.status();
    result.huge_pages_off.emplace(*std::move(off));
  }
  // Register first, then empty, so that nobody can put a page there in between. Most memory is
  // empty already. But what is locked is to be refused even then (MLOCK_ONFAULT), and MADV_COLD,
  // which does nothing to memory that is empty, refuses it as a discard does.
  const bool unlocked =
      anonymous && madvise(reinterpret_cast<void*>(memory.host), length, MADV_COLD) == 0;
  const absl::StatusOr<RangeAbilities> abilities =
      uffd.Register(memory.host, length, memory.alias != 0);
  if (!abilities.ok()) return abilities.status();
  const bool is_empty = unlocked && HoldsAnything(memory.host, memory.host + length) == false;
  absl::Status status = is_empty ? absl::OkStatus() : Empty(memory, length, kind);
  if (status.ok() && abilities->zero != memory.zeroable) {
    status = absl::InvalidArgumentError("its mappings are of different page sizes");
  }
  if (!status.ok()) {
    (void)uffd.Unregister(memory.host, length);
    return status;
  }
  result.discarded = !is_empty;
  return result;
}

void MakeInaccessible(const RamBlock& block) {
  const absl::StatusOr<std::vector<RegisteredRange>> ranges =
      RegisteredRanges(block.host(), block.host() + block.length());
  if (!ranges.ok()) {
    TakeAway(block.host(), block.host() + block.length());
    return;
  }
  for (const RegisteredRange& range : *ranges) TakeAway(range.start, range.end);
}

bool CollapseWindows(const RamBlock& block, const HugePagePolicy& policy) {
  const HugePages huge = policy.of(block);
  if (huge == HugePages::kUndecided || huge == HugePages::kNever) return true;
  const uint64_t window_pages = HugeStaging::kBytes / block.page_size();
  const uint64_t first = RoundUp(block.host(), HugeStaging::kBytes);
  for (uintptr_t at = first; at + HugeStaging::kBytes <= block.host() + block.length();
       at += HugeStaging::kBytes) {
    const PageRun window{block.PageOf(at), window_pages};
    if (!policy.IsHuge(block, window) || AnyDiscarded(block, window)) continue;
    int result = 0;
    for (int i = 0; i < kCollapseAttempts; ++i) {  // somebody may be looking at one of the pages
      result = madvise(reinterpret_cast<void*>(at), HugeStaging::kBytes, kMadvCollapse);
      if (result == 0 || errno != EAGAIN) break;
    }
    if (result != 0 && errno == EINVAL) return false;
  }
  return true;
}

}  // namespace ramjet
