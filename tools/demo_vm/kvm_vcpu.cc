// What KVM does when a vCPU touches memory that the host cannot give (poisoned by ramjet, or
// inaccessible because the load was abandoned). No page, no answer; the ways in which it says so:
//
//   KVM_RUN fails with EFAULT or EHWPOISON    hardware virtualization; since Linux 6.8 the exit
//                                             reason is KVM_EXIT_MEMORY_FAULT and has the address
//   SIGBUS, BUS_MCEERR_AR, and EINTR          hardware virtualization, a poisoned page: meant for
//                                             VMMs which pass it on as a machine check
//   KVM_EXIT_MMIO at an address that is RAM   KVM's instruction emulator, which runs the guest on
//                                             machines without hardware virtualization
//   KVM_EXIT_INTERNAL_ERROR                   the same, when it is the code that cannot be read
//
// The first two are what the kernel's source says; the tests have met the others.
//
// SIGBUS needs care. If it is blocked during KVM_RUN, KVM faults on the same page for ever; if it
// is not, it ends the process, or calls a handler that is not ours. KVM_SET_SIGNAL_MASK has the
// third way: the signal is blocked in the thread and not in KVM_RUN, so it makes KVM_RUN return,
// stays pending, and is taken by sigtimedwait().
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "tools/demo_vm/vcpu.h"

namespace demo_vm {
namespace {

// Newer than Debian 12's headers.
constexpr uint32_t kExitMemoryFault = 39;
struct MemoryFault {
  uint64_t flags;
  uint64_t gpa;
  uint64_t size;
};

// The header's own macro encodes another size in C++ than in C, and the kernel knows C's only.
constexpr unsigned long kSetSignalMask = _IOW(KVMIO, 0x8b, uint32_t);

// Three pages below 4 GiB that Intel's processors need for themselves; no RAM of ours is there.
constexpr unsigned long kTssAddress = 0xfffbd000;

absl::Status SystemError(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

absl::Status NoMemoryAt(uint64_t address, const char* how) {
  return absl::DataLossError(
      absl::StrCat("guest memory at 0x", absl::Hex(address), " cannot be had (", how, ")"));
}

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// The virtual machine, kept by its vCPUs.
struct Machine {
  Fd kvm;
  Fd vm;
  absl::Span<uint8_t> memory;
};

// Blocks SIGBUS in this thread, and takes one that came meanwhile.
class SigbusBlocked {
 public:
  SigbusBlocked() {
    sigemptyset(&sigbus_);
    sigaddset(&sigbus_, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &sigbus_, &before_);
  }
  ~SigbusBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SigbusBlocked(const SigbusBlocked&) = delete;
  SigbusBlocked& operator=(const SigbusBlocked&) = delete;

  // What else the thread blocks stays so inside KVM_RUN.
  sigset_t MaskForKvmRun() const {
    sigset_t mask = before_;
    sigdelset(&mask, SIGBUS);
    return mask;
  }
  bool Take(siginfo_t* info) const {
    const timespec at_once = {};
    return sigtimedwait(&sigbus_, info, &at_once) == SIGBUS;
  }

 private:
  sigset_t sigbus_;
  sigset_t before_;
};

class KvmVcpu : public Vcpu {
 public:
  static absl::StatusOr<std::unique_ptr<Vcpu>> Create(std::shared_ptr<const Machine> machine,
                                                      int index) {
    Fd fd(ioctl(machine->vm.get(), KVM_CREATE_VCPU, index));
    if (fd.get() < 0) return SystemError("KVM_CREATE_VCPU");
    const int length = ioctl(machine->kvm.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (length < static_cast<int>(sizeof(kvm_run))) return SystemError("KVM_GET_VCPU_MMAP_SIZE");
    void* const run =
        mmap(nullptr, static_cast<size_t>(length), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (run == MAP_FAILED) return SystemError("mmap of a vCPU");
    auto vcpu = std::unique_ptr<KvmVcpu>(new KvmVcpu(std::move(machine), std::move(fd),
                                                     static_cast<kvm_run*>(run),
                                                     static_cast<size_t>(length)));
    const absl::Status flat = vcpu->EnterFlatMode();
    if (!flat.ok()) return flat;
    return vcpu;
  }

  ~KvmVcpu() override { munmap(run_, run_bytes_); }

  absl::StatusOr<Registers> GetRegisters() const override {
    kvm_regs kvm = {};
    if (ioctl(fd_.get(), KVM_GET_REGS, &kvm) < 0) return SystemError("KVM_GET_REGS");
    const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
    return Registers{low(kvm.rax), low(kvm.rbx), low(kvm.rcx), low(kvm.rdx),   low(kvm.rsi),
                     low(kvm.rdi), low(kvm.rbp), low(kvm.rip), low(kvm.rflags)};
  }

  absl::Status SetRegisters(const Registers& registers) override {
    kvm_regs kvm = {};
    kvm.rax = registers.eax;
    kvm.rbx = registers.ebx;
    kvm.rcx = registers.ecx;
    kvm.rdx = registers.edx;
    kvm.rsi = registers.esi;
    kvm.rdi = registers.edi;
    kvm.rbp = registers.ebp;
    kvm.rip = registers.eip;
    kvm.rflags = registers.eflags;
    if (ioctl(fd_.get(), KVM_SET_REGS, &kvm) < 0) return SystemError("KVM_SET_REGS");
    return absl::OkStatus();
  }

  absl::Status Run() override {
    const SigbusBlocked sigbus;
    absl::Status masked = SetSignalMask(sigbus.MaskForKvmRun());
    if (!masked.ok()) return masked;
    for (;;) {
      if (ioctl(fd_.get(), KVM_RUN, 0) == 0) return ReadExit();
      const int error = errno;
      siginfo_t info;
      if (sigbus.Take(&info)) return NoMemoryAt(GuestAddress(info.si_addr), "SIGBUS");
      if (error == EFAULT || error == EHWPOISON) {
        return NoMemoryAt(FaultAddress(), std::strerror(error));
      }
      // EINTR: the thread got a signal that is somebody else's. EAGAIN: KVM asks for another call.
      if (error != EINTR && error != EAGAIN) return SystemError("KVM_RUN");
    }
  }

 private:
  KvmVcpu(std::shared_ptr<const Machine> machine, Fd fd, kvm_run* run, size_t run_bytes)
      : machine_(std::move(machine)), fd_(std::move(fd)), run_(run), run_bytes_(run_bytes) {}

  // From the reset state (real mode) to what guest_code.h wants. A hidden part comes with each
  // segment register here, so the guest needs no descriptor table.
  absl::Status EnterFlatMode() {
    kvm_sregs special = {};
    if (ioctl(fd_.get(), KVM_GET_SREGS, &special) < 0) return SystemError("KVM_GET_SREGS");
    kvm_segment data = {};
    data.limit = 0xffffffff;
    data.selector = 16;
    data.type = 3;  // data, writable, accessed
    data.present = 1;
    data.db = 1;  // 32 bits
    data.s = 1;   // code or data
    data.g = 1;   // the limit is in pages
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    special.cs = data;
    special.cs.selector = 8;
    special.cs.type = 11;  // code, readable, accessed
    special.cr0 |= 1;      // protected mode
    if (ioctl(fd_.get(), KVM_SET_SREGS, &special) < 0) return SystemError("KVM_SET_SREGS");
    return absl::OkStatus();
  }

  absl::Status SetSignalMask(const sigset_t& mask) {
    // As the kernel has it: a length, and that many bytes without padding between.
    constexpr uint32_t kKernelSigsetBytes = 8;
    uint8_t argument[sizeof(uint32_t) + kKernelSigsetBytes];
    std::memcpy(argument, &kKernelSigsetBytes, sizeof(uint32_t));
    std::memcpy(argument + sizeof(uint32_t), &mask, kKernelSigsetBytes);
    if (ioctl(fd_.get(), kSetSignalMask, argument) < 0) return SystemError("KVM_SET_SIGNAL_MASK");
    return absl::OkStatus();
  }

  // Why KVM_RUN has returned without an error.
  absl::Status ReadExit() {
    switch (run_->exit_reason) {
      case KVM_EXIT_HLT:
        return absl::OkStatus();
      case KVM_EXIT_MMIO: {
        const uint64_t address = run_->mmio.phys_addr;
        CompleteMmio();
        if (address < machine_->memory.size()) return NoMemoryAt(address, "KVM cannot access it");
        return absl::InternalError(absl::StrCat("the guest has accessed 0x", absl::Hex(address),
                                                ", and its memory ends at 0x",
                                                absl::Hex(machine_->memory.size())));
      }
      case KVM_EXIT_INTERNAL_ERROR: {
        const absl::StatusOr<Registers> registers = GetRegisters();
        if (!registers.ok()) return registers.status();
        return NoMemoryAt(registers->eip, "KVM cannot read the code");
      }
      default:
        return absl::InternalError(absl::StrCat("the guest has stopped for reason ",
                                                run_->exit_reason, " (KVM_EXIT_*), not by hlt"));
    }
  }

  // Lets KVM finish the instruction that the exit has interrupted, lest the next KVM_RUN does so.
  void CompleteMmio() {
    run_->immediate_exit = 1;
    ioctl(fd_.get(), KVM_RUN, 0);
    run_->immediate_exit = 0;
  }

  uint64_t GuestAddress(const void* host) const {
    return static_cast<uint64_t>(static_cast<const uint8_t*>(host) - machine_->memory.data());
  }

  // Where the vCPU could not get memory; before Linux 6.8 the best that is known is esi, from which
  // all our routines go.
  uint64_t FaultAddress() const {
    if (run_->exit_reason == kExitMemoryFault) {
      MemoryFault fault;
      std::memcpy(&fault, &run_->hw, sizeof(fault));
      return fault.gpa;
    }
    const absl::StatusOr<Registers> registers = GetRegisters();
    return registers.ok() ? registers->esi : 0;
  }

  const std::shared_ptr<const Machine> machine_;
  const Fd fd_;
  kvm_run* const run_;  // shared with KVM
  const size_t run_bytes_;
};

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<Vcpu>>> CreateKvmVcpus(absl::Span<uint8_t> memory,
                                                                  int count, ExtraMemory extra) {
  Fd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (kvm.get() < 0) return SystemError("/dev/kvm");
  if (ioctl(kvm.get(), KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
    return absl::UnavailableError("/dev/kvm: not the KVM API of version 12");
  }
  // Without it, an access that KVM has handed to us could not be ended.
  if (ioctl(kvm.get(), KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0) {
    return absl::UnavailableError("/dev/kvm: this KVM lacks KVM_CAP_IMMEDIATE_EXIT (Linux 4.13)");
  }
  Fd vm(ioctl(kvm.get(), KVM_CREATE_VM, 0));
  if (vm.get() < 0) return SystemError("KVM_CREATE_VM");
  if (ioctl(vm.get(), KVM_SET_TSS_ADDR, kTssAddress) < 0) return SystemError("KVM_SET_TSS_ADDR");
  uint32_t slot = 0;
  for (const ExtraMemory& part : {ExtraMemory{0, memory}, extra}) {
    if (part.bytes.empty()) continue;
    kvm_userspace_memory_region ram = {};
    ram.slot = slot++;
    ram.guest_phys_addr = part.address;
    ram.memory_size = part.bytes.size();
    ram.userspace_addr = reinterpret_cast<uintptr_t>(part.bytes.data());
    if (ioctl(vm.get(), KVM_SET_USER_MEMORY_REGION, &ram) < 0) {
      return SystemError("KVM_SET_USER_MEMORY_REGION");
    }
  }
  const auto machine =
      std::make_shared<const Machine>(Machine{std::move(kvm), std::move(vm), memory});
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (int i = 0; i < count; ++i) {
    absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = KvmVcpu::Create(machine, i);
    if (!vcpu.ok()) return vcpu.status();
    vcpus.push_back(*std::move(vcpu));
  }
  return vcpus;
}

}  // namespace demo_vm
