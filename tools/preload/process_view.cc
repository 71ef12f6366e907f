#include "tools/preload/process_view.h"

#include <dirent.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

enum class Presence {
  kSparse,  // most pages are missing
  kZeros,   // most pages are present, and no byte of them is set
  kContent
};

// What is in [host, host + length), judged by a page here and there. Before an incoming load guest
// memory is all but empty; if not, somebody wanted it so.
Presence FindPresence(uintptr_t host, uint64_t length) {
  constexpr uint64_t kSamples = 32;
  const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t pages = length / page_bytes;
  uint64_t present = 0;
  bool zeros = true;
  for (uint64_t i = 0; i < kSamples; ++i) {
    unsigned char resident = 0;
    const uint64_t page = pages * (2 * i + 1) / (2 * kSamples);
    auto* const bytes = reinterpret_cast<char*>(host + page * page_bytes);
    if (mincore(bytes, page_bytes, &resident) != 0 || (resident & 1) == 0) continue;
    ++present;
    zeros = zeros && std::all_of(bytes, bytes + page_bytes, [](char byte) { return byte == 0; });
  }
  return present <= kSamples / 2 ? Presence::kSparse
         : zeros                 ? Presence::kZeros
                                 : Presence::kContent;
}

}  // namespace

absl::StatusOr<KernelMapping> CheckGuestMemory(uintptr_t host, uint64_t length) {
  absl::StatusOr<KernelMapping> mapping = MappingAt(host);
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
  const Presence presence = FindPresence(host, length);
  if (presence == Presence::kZeros) {
    return absl::FailedPreconditionError("its memory is populated already (prealloc or mlock)");
  }
  if (presence == Presence::kContent) {
    return absl::AlreadyExistsError("its memory holds content already");
  }
  return mapping;
}

absl::Status CheckDescriptors() {
  const std::unique_ptr<DIR, int (*)(DIR*)> fds(opendir("/proc/self/fd"), closedir);
  if (fds == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("/proc/self/fd: ", std::strerror(errno)));
  }
  // Each keeps pages of its user's memory, or gives them to hardware or to another hypervisor. Not
  // among them: what allocates its own (dma_heap, sgx), and what follows the page tables (kvm,
  // vhost-net, dri).
  constexpr absl::string_view kPinning[] = {"/dev/vfio/",
                                            "/dev/iommu",
                                            "/dev/vhost-vdpa",
                                            "/dev/udmabuf",  // of virtio-gpu's blobs
                                            "/dev/infiniband/uverbs",
                                            "/dev/mshv",
                                            "/dev/nitro_enclaves",
                                            "/dev/sev",
                                            "anon_inode:[vfio",
                                            "anon_inode:vfio",
                                            "anon_inode:[iommufd",
                                            "anon_inode:mshv"};
  std::array<char, PATH_MAX> target;
  while (const dirent* entry = readdir(fds.get())) {
    const ssize_t length =
        readlinkat(dirfd(fds.get()), entry->d_name, target.data(), target.size());
    if (length <= 0) continue;
    const absl::string_view name(target.data(), static_cast<size_t>(length));
    if (name == "anon_inode:[userfaultfd]") {
      return absl::FailedPreconditionError(
          "QEMU loads it lazily by itself (mapped-ram with postcopy-ram); turn the capability "
          "postcopy-ram off to use ramjet");
    }
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
