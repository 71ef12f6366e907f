// Copies memory of this process where an access may fail.
#ifndef RAMJET_LOADER_SAFE_COPY_H_
#define RAMJET_LOADER_SAFE_COPY_H_

#include <cstddef>

namespace ramjet {

// memcpy() that returns an error where memcpy() would be a SIGBUS or a SIGSEGV: `from` is poisoned,
// or the kernel has no memory for `to`. Returns 0 or an errno; after an error `to` has unspecified
// content. EFAULT, ENOMEM: it is as said above. EPERM: a seccomp filter or the kernel's
// configuration denies every way to do it. Others, such as EMFILE: what is lacking may be there
// later.
//
// Uses process_vm_writev(2). Where that is denied, the bytes go through a pipe, which takes twice
// as long.
//
// Threads: may be called by any number of threads. Allocates nothing, and waits for nothing but the
// kernel's copying.
int CopySafely(void* to, const void* from, size_t length);

}  // namespace ramjet

#endif  // RAMJET_LOADER_SAFE_COPY_H_
