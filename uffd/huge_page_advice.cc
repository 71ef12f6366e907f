#include "uffd/huge_page_advice.h"

#include <sys/mman.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace ramjet {
namespace {

bool SameFile(const KernelMapping& a, const KernelMapping& b) {
  return a.inode == b.inode && a.device_major == b.device_major && a.device_minor == b.device_minor;
}

// What `mapping` shows of the bytes that `of` shows; nothing if start == end.
KernelMapping Overlap(const KernelMapping& mapping, const KernelMapping& of) {
  KernelMapping part = mapping;
  const uint64_t of_end = of.offset + (of.end - of.start);
  const uint64_t end = mapping.offset + (mapping.end - mapping.start);
  const uint64_t first = std::max(mapping.offset, of.offset);
  const uint64_t last = std::min(end, of_end);
  if (!SameFile(mapping, of) || first >= last) {
    part.end = part.start;
    return part;
  }
  part.start = mapping.start + (first - mapping.offset);
  part.end = mapping.start + (last - mapping.offset);
  part.offset = first;
  return part;
}

absl::StatusOr<std::vector<KernelMapping>> FileMappings() {
  std::vector<KernelMapping> all;
  const absl::Status read = VisitMappings([&](const KernelMapping& mapping) {
    if (mapping.inode != 0) all.push_back(mapping);
    return true;
  });
  if (!read.ok()) return read;
  return all;
}

}  // namespace

bool HugePagesFillHoles() {
  utsname name;
  unsigned major = 0;
  unsigned minor = 0;
  return uname(&name) == 0 && std::sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
         (major < 6 || (major == 6 && minor < 4));
}

absl::StatusOr<HugePagesOff> HugePagesOff::Over(uintptr_t addr, uint64_t length) {
  const absl::StatusOr<std::vector<KernelMapping>> all = FileMappings();
  if (!all.ok()) return all.status();
  HugePagesOff result;
  for (const KernelMapping& named : *all) {
    KernelMapping bytes = named;
    bytes.start = std::max<uintptr_t>(named.start, addr);
    bytes.end = std::min<uintptr_t>(named.end, addr + length);
    if (bytes.start >= bytes.end) continue;
    bytes.offset += bytes.start - named.start;
    for (const KernelMapping& mapping : *all) {
      const KernelMapping part = Overlap(mapping, bytes);
      if (part.start == part.end || (!part.huge_advised && part.huge != HugeAdvice::kWanted)) {
        continue;
      }
      if (madvise(reinterpret_cast<void*>(part.start), part.end - part.start, MADV_NOHUGEPAGE) !=
          0) {
        if (errno == EINVAL) continue;  // this kernel has no huge pages
        return absl::FailedPreconditionError(
            absl::StrFormat("this kernel would fill its holes with zeros, and keeps huge pages on "
                            "for %d bytes at %#x: %s",
                            part.end - part.start, part.start, std::strerror(errno)));
      }
      result.off_.push_back(part);
    }
  }
  return result;
}

HugePagesOff::~HugePagesOff() {
  if (off_.empty()) return;
  const absl::StatusOr<std::vector<KernelMapping>> all = FileMappings();
  if (!all.ok()) return;  // small pages are slower, and nothing else
  for (const KernelMapping& was : off_) {
    for (const KernelMapping& is : *all) {
      // Something else may be mapped there by now.
      const uintptr_t start = std::max(is.start, was.start);
      const uintptr_t end = std::min(is.end, was.end);
      if (start >= end || !SameFile(is, was) ||
          is.offset + (start - is.start) != was.offset + (start - was.start)) {
        continue;
      }
      (void)madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
    }
  }
}

}  // namespace ramjet
