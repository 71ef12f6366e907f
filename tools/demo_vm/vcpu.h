// A virtual processor: one of KVM's, or a thread that plays the guest where KVM cannot be had.
#ifndef RAMJET_TOOLS_DEMO_VM_VCPU_H_
#define RAMJET_TOOLS_DEMO_VM_VCPU_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace demo_vm {

// All that distinguishes one of our processors from another, and so all of it that a snapshot
// keeps: in this order, each as four bytes, the lowest first.
struct Registers {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  uint32_t esi = 0;
  uint32_t edi = 0;
  uint32_t ebp = 0;
  uint32_t eip = 0;
  uint32_t eflags = 2;  // bit 1 is always set

  bool operator==(const Registers&) const = default;
};

// Threads: one at a time, whichever.
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  virtual absl::StatusOr<Registers> GetRegisters() const = 0;
  virtual absl::Status SetRegisters(const Registers& registers) = 0;

  // Runs the guest from eip on until it stops with `hlt`. DataLoss, naming the guest address, if
  // memory cannot be had there (a poisoned page, or a load that was abandoned); the process gets no
  // signal, and the vCPU can be used again. Internal: the guest has done what ours never does.
  virtual absl::Status Run() = 0;
};

// What the guest has besides: [address, address + bytes.size()), whole pages, behind `memory`.
struct ExtraMemory {
  uint32_t address = 0;
  absl::Span<uint8_t> bytes = {};
};

// `memory` is that of the guest, at physical address 0; it and `extra` outlive the vCPUs.
// Unavailable, with the reason, where there is no KVM, or none that can run our guest.
absl::StatusOr<std::vector<std::unique_ptr<Vcpu>>> CreateKvmVcpus(absl::Span<uint8_t> memory,
                                                                  int count,
                                                                  ExtraMemory extra = {});
std::vector<std::unique_ptr<Vcpu>> CreateThreadVcpus(absl::Span<uint8_t> memory, int count);

}  // namespace demo_vm

#endif  // RAMJET_TOOLS_DEMO_VM_VCPU_H_
