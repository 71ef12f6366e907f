// The threads of a VM that is being loaded, which do everything a guest may do.
#ifndef RAMJET_TESTS_SOAK_GUEST_H_
#define RAMJET_TESTS_SOAK_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/soak_model.h"
#include "tests/soak_vm.h"

namespace ramjet::soak {

// A guest thread, with what it needs for system calls.
class Guest {
 public:
  // `doing` is kept up to date for the watching thread.
  Guest(Vm& vm, unsigned number, uint64_t seed, Doing& doing);
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // Does so many things by chance.
  void Run(uint64_t ops);
  // Touches the page and compares all of it, or, being refused, whether it may be.
  void CompareWhole(size_t block, uint64_t page, bool by_kernel);

 private:
  void Step();
  void Write(size_t block, uint64_t page, bool by_kernel);
  void Discard(size_t block, const Extent& extent, uint64_t page);
  void Unmap(size_t block, const Extent& extent, uint64_t page);
  void TouchForeign(size_t block, uint64_t page, bool by_kernel);
  bool KernelRead(const void* addr, void* to, size_t length);
  bool KernelWrite(void* addr, const void* from, size_t length);
  void CheckRefusal(size_t block, uint64_t page);
  PageWords WordsOf(size_t block, uint64_t page) const { return {vm_.layout.salt, block, page}; }

  Vm& vm_;
  const unsigned number_;
  Random random_;
  Doing& doing_;
  std::vector<Word> buffer_;
  std::vector<Word> expected_;
  uint32_t version_ = 0;
  int pipe_[2];
  int memfd_;
};

}  // namespace ramjet::soak

#endif  // RAMJET_TESTS_SOAK_GUEST_H_
