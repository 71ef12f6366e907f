// Plays the guest in the calling thread. It follows the routines of guest_code.cc register by
// register, so that a snapshot of one kind of vCPU is continued by the other.
//
// Guest memory is reached by process_vm_readv() and process_vm_writev() on our own process: they
// wait for a page that is being loaded as any access does, and where the host has none (a poisoned
// page, an abandoned load) they return EFAULT. A plain load would be a SIGBUS or SIGSEGV there,
// whose handler belongs to the program and not to a library.
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "tools/demo_vm/guest_code.h"
#include "tools/demo_vm/vcpu.h"

namespace demo_vm {
namespace {

constexpr uint32_t kWordBytes = sizeof(uint32_t);
constexpr size_t kBufferBytes = 64 << 10;

class ThreadVcpu : public Vcpu {
 public:
  explicit ThreadVcpu(absl::Span<uint8_t> memory) : memory_(memory), buffer_(kBufferBytes) {}

  absl::StatusOr<Registers> GetRegisters() const override { return registers_; }
  absl::Status SetRegisters(const Registers& registers) override {
    registers_ = registers;
    return absl::OkStatus();
  }

  absl::Status Run() override {
    const absl::StatusOr<Routine> routine = FetchCode();
    if (!routine.ok()) return routine.status();
    absl::Status done;
    switch (*routine) {
      case Routine::kHello:
        break;
      case Routine::kRead:
        done = Stride([this](uint32_t* word) { registers_.eax = MixWord(registers_.eax, *word); },
                      process_vm_readv, nullptr);
        break;
      case Routine::kWrite:
        done =
            Stride([this](uint32_t* word) { *word = registers_.eax = NextRandom(registers_.eax); },
                   nullptr, process_vm_writev);
        break;
      case Routine::kRandomRead:
        done = ReadRandomPages();
        break;
    }
    if (done.ok()) registers_.eip = end_of_routine_;
    return done;
  }

 private:
  // process_vm_readv or process_vm_writev.
  using Transfer = ssize_t (*)(pid_t, const iovec*, unsigned long, const iovec*, unsigned long,
                               unsigned long);

  // Moves `length` bytes between `ours` and guest memory at `address`.
  absl::Status Move(Transfer transfer, uint32_t address, void* ours, size_t length) {
    if (address > memory_.size() || length > memory_.size() - address) {
      return absl::InternalError(absl::StrCat("the guest has accessed 0x", absl::Hex(address),
                                              ", and its memory ends at 0x",
                                              absl::Hex(memory_.size())));
    }
    auto* to = static_cast<uint8_t*>(ours);
    while (length > 0) {
      const iovec local = {to, length};
      const iovec remote = {memory_.data() + address, length};
      const ssize_t moved = transfer(getpid(), &local, 1, &remote, 1, 0);
      if (moved < 0 && errno == EINTR) continue;
      if (moved <= 0) {
        return absl::DataLossError(absl::StrCat("guest memory at 0x", absl::Hex(address),
                                                " cannot be had (", std::strerror(errno), ")"));
      }
      to += moved;
      address += static_cast<uint32_t>(moved);
      length -= static_cast<size_t>(moved);
    }
    return absl::OkStatus();
  }

  // Which routine begins at eip. Reads it from guest memory as a processor would: it is the first
  // page that a restored guest needs.
  absl::StatusOr<Routine> FetchCode() {
    const absl::Span<const uint8_t> code = GuestCode();
    for (const Routine routine : kRoutines) {
      if (EntryOf(routine) != registers_.eip) continue;
      const size_t first = EntryOf(routine) - kCodeAddress;
      std::vector<uint8_t> fetched(code.size());
      absl::Status read = Move(process_vm_readv, kCodeAddress, fetched.data(), fetched.size());
      if (!read.ok()) return read;
      if (std::memcmp(fetched.data() + first, code.data() + first, code.size() - first) != 0) break;
      end_of_routine_ = kCodeAddress + static_cast<uint32_t>(code.size());
      for (const Routine next : kRoutines) {
        if (EntryOf(next) <= registers_.eip) continue;
        end_of_routine_ = std::min(end_of_routine_, EntryOf(next));
      }
      return routine;
    }
    return absl::InternalError(
        absl::StrCat("there is no code of ours at 0x", absl::Hex(registers_.eip)));
  }

  // The loop of kRead and kWrite: `visit` for each word, with as many words in one transfer as the
  // stride puts side by side.
  template <typename Visit>
  absl::Status Stride(Visit visit, Transfer read, Transfer write) {
    const uint32_t together =
        registers_.edx == kWordBytes ? static_cast<uint32_t>(buffer_.size() / kWordBytes) : 1;
    do {
      const uint32_t words = std::min(registers_.ecx - 1, together - 1) + 1;  // 0 means 2^32 to x86
      auto* const first = reinterpret_cast<uint32_t*>(buffer_.data());
      if (read != nullptr) {
        absl::Status done = Move(read, registers_.esi, first, size_t{words} * kWordBytes);
        if (!done.ok()) return done;
      }
      const uint32_t before = registers_.eax;
      for (uint32_t i = 0; i < words; ++i) visit(first + i);
      if (write != nullptr) {
        absl::Status done = Move(write, registers_.esi, first, size_t{words} * kWordBytes);
        if (!done.ok()) {
          registers_.eax = before;
          return done;
        }
      }
      registers_.esi += words * registers_.edx;
      registers_.ecx -= words;
    } while (registers_.ecx != 0);
    return absl::OkStatus();
  }

  absl::Status ReadRandomPages() {
    do {
      registers_.edi = NextRandom(registers_.edi);
      const uint64_t page = (uint64_t{registers_.edi} * registers_.ebx) >> 32;
      registers_.edx = static_cast<uint32_t>(page * kGuestPageBytes);
      uint32_t word;
      absl::Status read =
          Move(process_vm_readv, registers_.esi + registers_.edx, &word, kWordBytes);
      if (!read.ok()) return read;
      registers_.ebp = MixWord(registers_.ebp, word);
    } while (--registers_.ecx != 0);
    registers_.eax = registers_.ebp;
    return absl::OkStatus();
  }

  const absl::Span<uint8_t> memory_;
  std::vector<uint8_t> buffer_;
  Registers registers_;
  uint32_t end_of_routine_ = 0;  // behind its hlt
};

}  // namespace

std::vector<std::unique_ptr<Vcpu>> CreateThreadVcpus(absl::Span<uint8_t> memory, int count) {
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (int i = 0; i < count; ++i) vcpus.push_back(std::make_unique<ThreadVcpu>(memory));
  return vcpus;
}

}  // namespace demo_vm
