#include "tools/demo_vm/guest_code.h"

#include <cstddef>

// The hash is multiplied after each word, so it depends on the order: a word that is wrong always
// changes it, and words or pages that changed places do but for one case in 2^32. Jumps are
// relative and constants immediate, so the code runs wherever it is copied to.
asm(R"(
    .pushsection .rodata.demo_vm_guest, "a"
    .code32
demo_vm_code:

demo_vm_hello:
    hlt

# eax: hash so far, then the result; esi: address; ecx: words, at least 1;
# edx: bytes from one word to the next
demo_vm_read:
    xorl (%esi), %eax
    imull $0x01000193, %eax, %eax
    addl %edx, %esi
    decl %ecx
    jnz demo_vm_read
    hlt

# eax: random number, then the last one written; esi, ecx, edx as above
demo_vm_write:
    imull $1664525, %eax, %eax
    addl $1013904223, %eax
    movl %eax, (%esi)
    addl %edx, %esi
    decl %ecx
    jnz demo_vm_write
    hlt

# edi: random number; esi: address; ebx: pages there; ecx: touches, at least 1;
# ebp: hash so far; eax: the result
demo_vm_random_read:
    imull $1664525, %edi, %edi
    addl $1013904223, %edi
    movl %edi, %eax
    mull %ebx                       # edx = edi * ebx / 2^32, a page
    shll $12, %edx
    xorl (%esi,%edx), %ebp
    imull $0x01000193, %ebp, %ebp
    decl %ecx
    jnz demo_vm_random_read
    movl %ebp, %eax
    hlt

demo_vm_code_end:
    .code64
    .popsection
)");

extern "C" {
extern const uint8_t demo_vm_code[];
extern const uint8_t demo_vm_code_end[];
extern const uint8_t demo_vm_hello[];
extern const uint8_t demo_vm_read[];
extern const uint8_t demo_vm_write[];
extern const uint8_t demo_vm_random_read[];
}

namespace demo_vm {

absl::Span<const uint8_t> GuestCode() {
  return absl::MakeConstSpan(demo_vm_code, static_cast<size_t>(demo_vm_code_end - demo_vm_code));
}

uint32_t EntryOf(Routine routine) {
  const uint8_t* entry = demo_vm_hello;
  switch (routine) {
    case Routine::kHello:
      break;
    case Routine::kRead:
      entry = demo_vm_read;
      break;
    case Routine::kWrite:
      entry = demo_vm_write;
      break;
    case Routine::kRandomRead:
      entry = demo_vm_random_read;
      break;
  }
  return kCodeAddress + static_cast<uint32_t>(entry - demo_vm_code);
}

}  // namespace demo_vm
