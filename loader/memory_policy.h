// From which NUMA node a mapping's memory is taken: mbind(2), without libnuma.
#ifndef RAMJET_LOADER_MEMORY_POLICY_H_
#define RAMJET_LOADER_MEMORY_POLICY_H_

#include <array>
#include <cstdint>
#include <optional>

namespace ramjet {

// Default: none of its own. The policy of the thread that touches a page holds then, and a thread
// that we start has that of the thread that started it.
struct MemoryPolicy {
  static constexpr unsigned long kMaxNodes = 1024;  // that a kernel can be built for on x86-64

  int mode = 0;  // MPOL_*, with its flags
  std::array<uint64_t, kMaxNodes / 64> nodes{};

  bool operator==(const MemoryPolicy&) const = default;
};

// Whether memory can come from more than one node. True also where the kernel may not be asked.
bool SeveralNodes();

// A policy under which the huge page of `bytes` at `addr` can be allocated anywhere, and lies where
// a fault at `addr` would have put it. nullopt: there is none such, or the kernel may not be asked.
std::optional<MemoryPolicy> MemoryPolicyOfHugePage(uintptr_t addr, uint64_t bytes);

// False: the kernel refuses.
bool SetMemoryPolicy(uintptr_t addr, uint64_t length, const MemoryPolicy& policy);

}  // namespace ramjet

#endif  // RAMJET_LOADER_MEMORY_POLICY_H_
