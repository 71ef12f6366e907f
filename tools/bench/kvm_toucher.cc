#include "tools/bench/kvm_toucher.h"

#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/demo_vm/demo_vm.h"
#include "tools/demo_vm/vcpu.h"

// The processor is as guest_code.h of the demo VM has it.
asm(R"(
    .pushsection .rodata.ramjet_touch, "a"
    .code32
ramjet_touch_code:

# esi: addresses of bytes to touch; ecx: how many; edi: where time stamps go, one more than those
ramjet_touch_read:
    rdtsc
    movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $8, %edi
    jecxz 2f
1:  movl (%esi), %ebx
    movb (%ebx), %al
    addl $4, %esi
    rdtsc
    movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $8, %edi
    decl %ecx
    jnz 1b
2:  hlt

ramjet_touch_write:
    rdtsc
    movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $8, %edi
    jecxz 2f
1:  movl (%esi), %ebx
    movb $1, (%ebx)
    addl $4, %esi
    rdtsc
    movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $8, %edi
    decl %ecx
    jnz 1b
2:  hlt

ramjet_touch_end:
    .code64
    .popsection
)");

extern "C" {
extern const uint8_t ramjet_touch_code[];
extern const uint8_t ramjet_touch_read[];
extern const uint8_t ramjet_touch_write[];
extern const uint8_t ramjet_touch_end[];
}

namespace ramjet::bench {
namespace {

// The snapshot's memory lies below, KVM's own pages above.
constexpr uint32_t kOwnAddress = 0xd0000000;
constexpr uint64_t kMostMemoryBytes = uint64_t{3} << 30;
constexpr uint64_t kMostOwnBytes = uint64_t{512} << 20;

// The guest's own memory, handed out from its beginning on.
class OwnMemory {
 public:
  static absl::StatusOr<std::shared_ptr<OwnMemory>> Create(uint64_t length) {
    void* const mapped =
        mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of the guest's program");
    std::memset(mapped, 0, length);  // present
    return std::shared_ptr<OwnMemory>(new OwnMemory({static_cast<uint8_t*>(mapped), length}));
  }
  ~OwnMemory() { munmap(bytes_.data(), bytes_.size()); }
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;

  // Room for `count` of them. REQUIRES: there is.
  template <typename T>
  absl::Span<T> Take(size_t count) {
    taken_ = (taken_ + alignof(T) - 1) / alignof(T) * alignof(T);
    auto* const first = reinterpret_cast<T*>(bytes_.data() + taken_);
    taken_ += count * sizeof(T);
    return {first, count};
  }
  // Of what was taken.
  uint32_t AddressOf(const void* ours) const {
    return kOwnAddress + static_cast<uint32_t>(static_cast<const uint8_t*>(ours) - bytes_.data());
  }
  absl::Span<uint8_t> bytes() const { return bytes_; }

 private:
  explicit OwnMemory(absl::Span<uint8_t> bytes) : bytes_(bytes) {}

  const absl::Span<uint8_t> bytes_;
  size_t taken_ = 0;
};

class KvmToucher : public Toucher {
 public:
  KvmToucher(const std::vector<uint32_t>& pages, bool write, absl::Span<uint8_t> memory,
             uint64_t page_size, std::shared_ptr<OwnMemory> own, uint32_t code,
             std::unique_ptr<demo_vm::Vcpu> vcpu)
      : Toucher(pages, write, memory, page_size),
        own_(std::move(own)),
        entry_(code + static_cast<uint32_t>((write ? ramjet_touch_write : ramjet_touch_read) -
                                            ramjet_touch_code)),
        stamps_(own_->Take<uint64_t>(pages.size() + kStarts)),
        addresses_(own_->Take<uint32_t>(pages.size())),
        vcpu_(std::move(vcpu)) {
    for (size_t i = 0; i < pages.size(); ++i) {
      addresses_[i] = static_cast<uint32_t>(pages[i] * page_size);
    }
  }

  // KVM makes much when a vCPU runs for the first time, and when another thread runs it.
  absl::Status Prepare() override { return RunGuest(0, 0, 0); }

  // How much room in the guest's own memory it takes.
  static uint64_t OwnBytes(uint64_t touches) {
    return touches * (sizeof(uint32_t) + sizeof(uint64_t)) + kStarts * sizeof(uint64_t) +
           alignof(uint64_t);
  }

 protected:
  absl::Status Touch() override {
    const uint64_t start_ns = MonotonicNs();
    const uint64_t start_ticks = __rdtsc();
    const size_t first = first_work();
    absl::Status ran = RunGuest(0, first, 0);
    first_work_ns_ = done_ns_ = MonotonicNs();
    if (!ran.ok() || first == pages_.size()) return NoteStalls(ran, start_ns, start_ticks);
    ran = RunGuest(first, pages_.size() - first, first + 1);
    done_ns_ = MonotonicNs();
    return NoteStalls(ran, start_ns, start_ticks);
  }

 private:
  // The guest is entered twice, and stamps the time at each beginning, too.
  static constexpr size_t kStarts = 2;

  absl::Status RunGuest(size_t first, size_t count, size_t stamp) {
    absl::Status set = vcpu_->SetRegisters({.ecx = static_cast<uint32_t>(count),
                                            .esi = own_->AddressOf(addresses_.data() + first),
                                            .edi = own_->AddressOf(stamps_.data() + stamp),
                                            .eip = entry_});
    return set.ok() ? vcpu_->Run() : set;
  }

  // The guest's counter runs as fast as ours. Where KVM emulates the guest any touch takes longer
  // than a stall elsewhere, so the fastest of them is left out of account.
  absl::Status NoteStalls(absl::Status ran, uint64_t start_ns, uint64_t start_ticks) {
    if (!ran.ok()) return ran;
    const double ns_per_tick = static_cast<double>(MonotonicNs() - start_ns) /
                               static_cast<double>(__rdtsc() - start_ticks);
    const auto ns_of = [&](size_t i) {
      const size_t stamp = i < first_work() ? i : i + 1;
      return static_cast<uint64_t>(static_cast<double>(stamps_[stamp + 1] - stamps_[stamp]) *
                                   ns_per_tick);
    };
    uint64_t fastest = std::numeric_limits<uint64_t>::max();
    for (size_t i = 0; i < pages_.size(); ++i) fastest = std::min(fastest, ns_of(i));
    for (size_t i = 0; i < pages_.size(); ++i) {
      if (ns_of(i) > fastest + kStallNs) NoteStall(pages_[i], ns_of(i));
    }
    return ran;
  }

  const std::shared_ptr<OwnMemory> own_;
  const uint32_t entry_;
  const absl::Span<uint64_t> stamps_;
  const absl::Span<uint32_t> addresses_;
  const std::unique_ptr<demo_vm::Vcpu> vcpu_;
};

}  // namespace

absl::Status KvmIsHere() {
  demo_vm::VmOptions options;
  options.backend = demo_vm::Backend::kKvm;
  return demo_vm::DemoVm::Create(options).status();
}

std::string DoubtsAboutKvm() { return std::string(demo_vm::KvmIsFast().message()); }

absl::StatusOr<std::vector<std::unique_ptr<Toucher>>> MakeKvmTouchers(const Workload& workload,
                                                                      absl::Span<uint8_t> memory,
                                                                      uint64_t page_size) {
  const auto code_bytes = static_cast<size_t>(ramjet_touch_end - ramjet_touch_code);
  const auto unit = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  uint64_t own_bytes = unit;  // the code; what follows is aligned
  for (const auto& pages : workload.pages) own_bytes += KvmToucher::OwnBytes(pages.size());
  own_bytes = (own_bytes + unit - 1) / unit * unit;
  if (memory.size() > kMostMemoryBytes || own_bytes > kMostOwnBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the guest of KVM vCPUs has at most ", kMostMemoryBytes,
                     " bytes of memory, and the largest RAM block ", memory.size()));
  }
  const absl::StatusOr<std::shared_ptr<OwnMemory>> own = OwnMemory::Create(own_bytes);
  if (!own.ok()) return own.status();
  const absl::Span<uint8_t> code = (*own)->Take<uint8_t>(unit);
  std::memcpy(code.data(), ramjet_touch_code, code_bytes);
  absl::StatusOr<std::vector<std::unique_ptr<demo_vm::Vcpu>>> vcpus =
      demo_vm::CreateKvmVcpus(memory, static_cast<int>(workload.pages.size()),
                              {.address = kOwnAddress, .bytes = (*own)->bytes()});
  if (!vcpus.ok()) return vcpus.status();
  std::vector<std::unique_ptr<Toucher>> touchers;
  for (size_t i = 0; i < workload.pages.size(); ++i) {
    touchers.push_back(std::make_unique<KvmToucher>(workload.pages[i], workload.write, memory,
                                                    page_size, *own, kOwnAddress,
                                                    std::move((*vcpus)[i])));
  }
  return touchers;
}

}  // namespace ramjet::bench
