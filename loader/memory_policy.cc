#include "loader/memory_policy.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cerrno>

namespace ramjet {
namespace {

// The kernel takes the bits for one fewer than it is told.
constexpr unsigned long kBits = MemoryPolicy::kMaxNodes + 1;

bool Ask(MemoryPolicy& policy, uintptr_t addr, int flags) {
  return syscall(SYS_get_mempolicy, &policy.mode, policy.nodes.data(), kBits, addr, flags) == 0;
}

int CountNodes(const MemoryPolicy& policy) {
  int count = 0;
  for (const uint64_t word : policy.nodes) count += std::popcount(word);
  return count;
}

// The `n`th of its nodes. REQUIRES: it has so many.
MemoryPolicy PreferNth(const MemoryPolicy& policy, uint64_t n) {
  MemoryPolicy result{.mode = MPOL_PREFERRED};
  for (size_t i = 0; i < policy.nodes.size(); ++i) {
    uint64_t word = policy.nodes[i];
    for (; word != 0; word &= word - 1, --n) {
      if (n > 0) continue;
      result.nodes[i] = word & -word;
      return result;
    }
  }
  return result;
}

}  // namespace

bool SeveralNodes() {
  MemoryPolicy allowed;
  if (!Ask(allowed, 0, MPOL_F_MEMS_ALLOWED)) return errno != ENOSYS;
  return CountNodes(allowed) > 1;
}

std::optional<MemoryPolicy> MemoryPolicyOfHugePage(uintptr_t addr, uint64_t bytes) {
  MemoryPolicy policy;
  if (!Ask(policy, addr, MPOL_F_ADDR)) return std::nullopt;
  switch (policy.mode & ~MPOL_MODE_FLAGS) {
    case MPOL_DEFAULT:
    case MPOL_PREFERRED:
    case MPOL_BIND:
    case MPOL_LOCAL:
    case MPOL_PREFERRED_MANY:
      return policy;
    case MPOL_INTERLEAVE: {
      // Huge pages take the nodes in turn, by their addresses; so the memory to be moved there must
      // not take one by its own. With flags, `nodes` are not those that it has come down to.
      const int nodes = CountNodes(policy);
      if (policy.mode != MPOL_INTERLEAVE || nodes == 0) return std::nullopt;
      return PreferNth(policy, addr / bytes % static_cast<uint64_t>(nodes));
    }
    default:  // weighted interleave, and what is not known yet
      return std::nullopt;
  }
}

bool SetMemoryPolicy(uintptr_t addr, uint64_t length, const MemoryPolicy& policy) {
  return syscall(SYS_mbind, addr, length, policy.mode, policy.nodes.data(), kBits, 0) == 0;
}

}  // namespace ramjet
