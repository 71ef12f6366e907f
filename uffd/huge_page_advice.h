// Keeps transparent huge pages away from shared memory whose holes are to be filled by userfaultfd.
#ifndef RAMJET_UFFD_HUGE_PAGE_ADVICE_H_
#define RAMJET_UFFD_HUGE_PAGE_ADVICE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "uffd/mappings.h"

namespace ramjet {

// Whether this kernel makes a huge page of shared memory around any page that is present, and fills
// the rest with zeros, although a userfaultfd is registered for them: those pages never fault then.
// Linux does so before 6.4. A distribution's kernel may have the mend and still say yes.
bool HugePagesFillHoles();

// While it exists, no huge page is made of a stretch of shared memory behind its user's back
// (khugepaged, MADV_COLLAPSE): all mappings of it in this process have MADV_NOHUGEPAGE.
//
// At the end those that had MADV_HUGEPAGE have it again. So have those that had no advice, and
// would have got huge pages by the host's settings: no advice at all cannot be restored. What had
// MADV_NOHUGEPAGE, or neither advice nor huge pages, is left alone.
//
// Mappings that are made later, and those of other processes, are not its concern. Movable.
class HugePagesOff {
 public:
  // The memory is that of [addr, addr + length). FailedPrecondition: the kernel refuses, or
  // /proc/self/smaps cannot be read.
  static absl::StatusOr<HugePagesOff> Over(uintptr_t addr, uint64_t length);
  HugePagesOff(HugePagesOff&& other) noexcept : off_(std::exchange(other.off_, {})) {}
  HugePagesOff& operator=(HugePagesOff&&) = delete;
  ~HugePagesOff();

 private:
  HugePagesOff() = default;

  std::vector<KernelMapping> off_;  // as they were: what to restore
};

}  // namespace ramjet

#endif  // RAMJET_UFFD_HUGE_PAGE_ADVICE_H_
