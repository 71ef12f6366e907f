// The program that our guest runs: four routines of 32-bit code which read and write its memory.
//
// The processor is in protected mode with flat segments and without paging, so an address is a
// guest physical address. A routine takes its parameters from registers, uses no stack and no
// memory but what it is told to, leaves its result in eax and stops with `hlt`.
#ifndef RAMJET_TOOLS_DEMO_VM_GUEST_CODE_H_
#define RAMJET_TOOLS_DEMO_VM_GUEST_CODE_H_

#include <cstdint>

#include "absl/types/span.h"

namespace demo_vm {

enum class Routine {
  kHello,       // nothing: one `hlt`
  kRead,        // hash `ecx` words, the first at `esi` and each `edx` bytes after the one before
  kWrite,       // write random words there
  kRandomRead,  // hash the first words of `ecx` random pages of the `ebx` pages from `esi` on
};
inline constexpr Routine kRoutines[] = {Routine::kHello, Routine::kRead, Routine::kWrite,
                                        Routine::kRandomRead};

// Where the program lies in guest memory. Everything below kFreeAddress is its own.
inline constexpr uint32_t kCodeAddress = 0x1000;
inline constexpr uint32_t kFreeAddress = 0x10000;

inline constexpr uint32_t kGuestPageBytes = 4096;  // of x86

// The machine code, and the address in it where a routine begins.
absl::Span<const uint8_t> GuestCode();
uint32_t EntryOf(Routine routine);

// What the routines compute, for those who compare: a hash (FNV-1a over words, so that the order
// counts too) and the random numbers (a linear congruential generator, good in its upper bits).
constexpr uint32_t MixWord(uint32_t hash, uint32_t word) { return (hash ^ word) * 0x01000193; }
constexpr uint32_t NextRandom(uint32_t random) { return random * 1664525 + 1013904223; }

}  // namespace demo_vm

#endif  // RAMJET_TOOLS_DEMO_VM_GUEST_CODE_H_
