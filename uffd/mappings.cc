#include "uffd/mappings.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ramjet {
namespace {

// Linux 6.11 include/uapi/linux/fs.h: struct procmap_query.
struct ProcmapQuery {
  uint64_t size;
  uint64_t query_flags;
  uint64_t query_addr;
  uint64_t vma_start;
  uint64_t vma_end;
  uint64_t vma_flags;
  uint64_t vma_page_size;
  uint64_t vma_offset;
  uint64_t inode;
  uint32_t dev_major;
  uint32_t dev_minor;
  uint32_t vma_name_size;
  uint32_t build_id_size;
  uint64_t vma_name_addr;
  uint64_t build_id_addr;
};
static_assert(sizeof(ProcmapQuery) == 104);
constexpr unsigned long kProcmapQuery = _IOWR('f', 17, ProcmapQuery);

// Linux 6.7 include/uapi/linux/fs.h: struct page_region, struct pm_scan_arg.
struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct PagemapScan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;  // out
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
static_assert(sizeof(PagemapScan) == 96);
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);
constexpr uint64_t kPageIsPresent = 1 << 3;
constexpr uint64_t kPageIsSwapped = 1 << 4;  // or a mark

absl::Status NothingMapped(uintptr_t addr) {
  return absl::InvalidArgumentError(absl::StrFormat("nothing is mapped at %#x", addr));
}

// In vma_flags.
constexpr uint64_t kVmaReadable = 0x01;
constexpr uint64_t kVmaWritable = 0x02;
constexpr uint64_t kVmaShared = 0x08;

// nullopt: this kernel does not know the question.
std::optional<absl::StatusOr<KernelMapping>> AskKernel(uintptr_t addr) {
  const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (maps < 0) return std::nullopt;
  ProcmapQuery query{};
  query.size = sizeof(query);
  query.query_addr = addr;
  std::array<char, PATH_MAX> name{};
  query.vma_name_size = name.size();
  query.vma_name_addr = reinterpret_cast<uintptr_t>(name.data());
  const int result = ioctl(maps, kProcmapQuery, &query);
  const int error = errno;
  close(maps);
  if (result == 0) {
    return KernelMapping{.start = query.vma_start,
                         .end = query.vma_end,
                         .writable = (~query.vma_flags & (kVmaReadable | kVmaWritable)) == 0,
                         .shared = (query.vma_flags & kVmaShared) != 0,
                         .page_bytes = query.vma_page_size,
                         .offset = query.inode == 0 ? 0 : query.vma_offset,
                         .device_major = query.dev_major,
                         .device_minor = query.dev_minor,
                         .inode = query.inode,
                         .path = query.vma_name_size > 0 ? name.data() : ""};
  }
  if (error == ENOENT) return NothingMapped(addr);
  return std::nullopt;
}

absl::StatusOr<KernelMapping> ReadSmaps(uintptr_t addr) {
  std::optional<KernelMapping> found;
  const absl::Status read = VisitMappings([&](const KernelMapping& mapping) {
    if (mapping.start <= addr && addr < mapping.end) found = mapping;
    return mapping.end <= addr;
  });
  if (!read.ok()) return read;
  if (!found) return NothingMapped(addr);
  return *found;
}

}  // namespace

// Linux Documentation/filesystems/proc.rst has the format.
absl::Status VisitMappings(absl::FunctionRef<bool(const KernelMapping&)> visit) {
  std::ifstream smaps("/proc/self/smaps");
  if (!smaps) return absl::FailedPreconditionError("/proc/self/smaps cannot be read");
  KernelMapping mapping;
  for (std::string line; std::getline(smaps, line);) {
    KernelMapping head;
    char access[5] = {};
    int path_at = 0;
    uint64_t number;
    if (std::sscanf(line.c_str(),
                    "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64 " %" SCNx64 ":%" SCNx64 " %" SCNu64
                    " %n",
                    &head.start, &head.end, access, &head.offset, &head.device_major,
                    &head.device_minor, &head.inode, &path_at) == 7) {
      mapping = head;
      mapping.huge = HugeAdvice::kWanted;  // perhaps: before 5.0 Linux does not tell
      mapping.writable = access[0] == 'r' && access[1] == 'w';
      mapping.shared = access[3] == 's';
      mapping.path = line.substr(static_cast<size_t>(path_at));
    } else if (std::sscanf(line.c_str(), "KernelPageSize: %" SCNu64, &number) == 1) {
      mapping.page_bytes = number << 10;
    } else if (std::sscanf(line.c_str(), "THPeligible: %" SCNu64, &number) == 1) {
      mapping.huge = number != 0 ? HugeAdvice::kWanted : HugeAdvice::kNone;
    } else if (line.rfind("VmFlags:", 0) == 0) {  // the last of a mapping's lines
      // Missing, or minor.
      mapping.registered =
          line.find(" um") != std::string::npos || line.find(" ui") != std::string::npos;
      if (line.find(" nh") != std::string::npos) mapping.huge = HugeAdvice::kUnwanted;
      mapping.huge_advised = line.find(" hg") != std::string::npos;
      if (!visit(mapping)) break;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<KernelMapping> MappingAt(uintptr_t addr) {
  std::optional<absl::StatusOr<KernelMapping>> answer = AskKernel(addr);
  return answer ? *std::move(answer) : ReadSmaps(addr);
}

std::optional<bool> HoldsAnything(uintptr_t start, uintptr_t end) {
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return std::nullopt;
  PageRegion first{};
  PagemapScan scan{};
  scan.size = sizeof(scan);
  scan.start = start;
  scan.end = end;
  scan.vec = reinterpret_cast<uintptr_t>(&first);
  scan.vec_len = 1;
  scan.max_pages = 1;
  scan.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
  scan.return_mask = scan.category_anyof_mask;
  const int regions = ioctl(pagemap, kPagemapScan, &scan);
  close(pagemap);
  if (regions < 0 || (regions == 0 && scan.walk_end != end)) return std::nullopt;
  return regions > 0;
}

absl::StatusOr<std::vector<RegisteredRange>> RegisteredRanges(uintptr_t start, uintptr_t end) {
  std::vector<RegisteredRange> ranges;
  const absl::Status read = VisitMappings([&](const KernelMapping& mapping) {
    const RegisteredRange inside{std::max(start, mapping.start), std::min(end, mapping.end),
                                 mapping.huge};
    if (mapping.registered && inside.start < inside.end) ranges.push_back(inside);
    return mapping.end < end;
  });
  if (!read.ok()) return read;
  return ranges;
}

}  // namespace ramjet
