#include "tools/preload/process_view.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ramjet {
namespace {

absl::StatusOr<std::string> ReadProcFile(const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
  std::string text;
  size_t length = 0;
  for (;;) {
    text.resize(length + (64 << 10));
    const ssize_t got = read(fd, text.data() + length, text.size() - length);
    if (got <= 0) break;
    length += static_cast<size_t>(got);
  }
  close(fd);
  text.resize(length);
  return text;
}

// The second number of a line; 0 if there is none.
uintptr_t EndOfMapsLine(absl::string_view line) {
  uintptr_t end = 0;
  const size_t dash = line.find('-');
  if (dash != absl::string_view::npos) {
    std::from_chars(line.data() + dash + 1, line.data() + line.size(), end, 16);
  }
  return end;
}

// Whether most of [host, host + length) is present, judged by a page here and there. Before an
// incoming load guest memory is all but empty; if not, somebody wanted it so.
bool MostlyPresent(uintptr_t host, uint64_t length) {
  constexpr uint64_t kSamples = 32;
  const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t pages = length / page_bytes;
  uint64_t present = 0;
  for (uint64_t i = 0; i < kSamples; ++i) {
    unsigned char resident = 0;
    const uint64_t page = pages * (2 * i + 1) / (2 * kSamples);
    if (mincore(reinterpret_cast<void*>(host + page * page_bytes), page_bytes, &resident) == 0) {
      present += resident & 1;
    }
  }
  return present > kSamples / 2;
}

}  // namespace

std::optional<Mapping> ParseMapsLine(absl::string_view line) {
  // 7f1683fff000-7f1783fff000 rw-s 00000000 00:01 1234      /memfd:memory-backend-memfd (deleted)
  const std::string text(line);
  uint64_t start, end, offset, inode;
  unsigned device_major, device_minor;
  std::array<char, 5> access{};
  int path_at = 0;
  if (std::sscanf(text.c_str(), "%lx-%lx %4s %lx %x:%x %lu %n", &start, &end, access.data(),
                  &offset, &device_major, &device_minor, &inode, &path_at) != 7) {
    return std::nullopt;
  }
  return Mapping{.start = start,
                 .end = end,
                 .writable = access[0] == 'r' && access[1] == 'w',
                 .shared = access[3] == 's',
                 .offset = offset,
                 .device = makedev(device_major, device_minor),
                 .inode = inode,
                 .path = text.substr(static_cast<size_t>(path_at))};
}

absl::StatusOr<Mapping> FindMapping(uintptr_t addr) {
  absl::StatusOr<std::string> maps = ReadProcFile("/proc/self/maps");
  if (!maps.ok()) return maps.status();
  for (absl::string_view rest = *maps; !rest.empty();) {
    const size_t length = std::min(rest.find('\n'), rest.size());
    // The lines are in order of address. Only the one that matters is parsed whole: a QEMU has
    // hundreds, and its guest waits.
    if (addr < EndOfMapsLine(rest)) {
      std::optional<Mapping> mapping = ParseMapsLine(rest.substr(0, length));
      if (mapping && addr >= mapping->start) return *std::move(mapping);
      break;
    }
    rest.remove_prefix(std::min(length + 1, rest.size()));
  }
  return absl::NotFoundError(absl::StrFormat("nothing is mapped at %#x", addr));
}

absl::StatusOr<Mapping> CheckGuestMemory(uintptr_t host, uint64_t length) {
  absl::StatusOr<Mapping> mapping = FindMapping(host);
  if (!mapping.ok()) return absl::FailedPreconditionError(mapping.status().message());
  // QEMU maps each block by itself, with an inaccessible page behind it. Anything else may be the
  // middle of a heap, and emptying it would be a disaster.
  if (mapping->start != host || mapping->end - host < length) {
    return absl::FailedPreconditionError("its memory is not one mapping of its own");
  }
  if (!mapping->writable) return absl::FailedPreconditionError("its memory is not writable");
  if (!mapping->shared && mapping->inode != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("its memory is a private mapping of ", mapping->path));
  }
  if (mapping->shared && !absl::EndsWith(mapping->path, " (deleted)")) {
    return absl::FailedPreconditionError(
        absl::StrCat("its memory is the file ", mapping->path, ", which others may use"));
  }
  if (MostlyPresent(host, length)) {
    return absl::FailedPreconditionError("its memory is populated already (prealloc or mlock)");
  }
  return mapping;
}

absl::Status CheckNoPinningDevice() {
  const std::unique_ptr<DIR, int (*)(DIR*)> fds(opendir("/proc/self/fd"), closedir);
  if (fds == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("/proc/self/fd: ", std::strerror(errno)));
  }
  constexpr absl::string_view kPinning[] = {"/dev/vfio/",      "/dev/iommu",
                                            "/dev/vhost-vdpa", "anon_inode:[vfio",
                                            "anon_inode:vfio", "anon_inode:[iommufd"};
  std::array<char, PATH_MAX> target;
  while (const dirent* entry = readdir(fds.get())) {
    const ssize_t length =
        readlinkat(dirfd(fds.get()), entry->d_name, target.data(), target.size());
    if (length <= 0) continue;
    const absl::string_view name(target.data(), static_cast<size_t>(length));
    for (const absl::string_view prefix : kPinning) {
      if (absl::StartsWith(name, prefix)) {
        return absl::FailedPreconditionError(
            absl::StrCat("a device that pins guest memory is in use (", name, ")"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace ramjet
