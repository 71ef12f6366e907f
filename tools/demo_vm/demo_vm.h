// A virtual machine of our own: the smallest VMM that restores snapshots lazily, and an example for
// those who write a real one. It knows of ramjet what loader/ramjet.h says and nothing else.
//
// Its guest (guest_code.h) has 1 to 64 vCPUs, RAM from physical address 0 on, and nothing else. It
// does what it is told, one operation of one vCPU at a time.
//
//   absl::StatusOr<std::unique_ptr<DemoVm>> vm = DemoVm::Restore("vm.mr", {});
//   (*vm)->Run(0, RandomTouch((*vm)->whole_memory(), 1000, 1));  // at once, while memory arrives
//   (*vm)->FinishLoad();                                         // an ordinary VM from here on
//
// Not in ramjet's namespace: it is an example of a VMM, which has ramjet.h and nothing else of us.
#ifndef RAMJET_TOOLS_DEMO_VM_DEMO_VM_H_
#define RAMJET_TOOLS_DEMO_VM_DEMO_VM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "tools/demo_vm/guest_code.h"
#include "tools/demo_vm/vcpu.h"

namespace demo_vm {

// Guest physical, half-open, whole pages.
struct MemoryRange {
  uint32_t start = 0;
  uint32_t length = 0;

  uint32_t pages() const { return length / kGuestPageBytes; }
};

// What a vCPU is asked to do: a routine and its parameters.
struct Operation {
  Routine routine = Routine::kHello;
  Registers parameters;
};

Operation Hello();                   // Executes one instruction. The result is 0.
Operation Touch(MemoryRange range);  // Reads the first word of each page. The result is a hash.
Operation Sum(MemoryRange range);    // Reads all words. The result is a hash.
// Writes a random number into the first word of each page, or into every word.
Operation WritePages(MemoryRange range, uint32_t seed);
Operation Fill(MemoryRange range, uint32_t seed);
// Reads the first word of `touches` random pages. The result is a hash.
Operation RandomTouch(MemoryRange range, uint32_t touches, uint32_t seed);

enum class Backend {
  kAuto,    // KVM, unless it is missing or emulates every instruction; threads then
  kKvm,     // /dev/kvm, or an error
  kThread,  // threads that play the guest
};

// OK, or why kAuto becomes kThread. Found out once in a process, in a few milliseconds: call it
// before something is timed.
const absl::Status& KvmIsFast();

// How guest RAM is mapped.
enum class MemoryKind {
  kPrivate,  // anonymous
  kMemfd,    // shared, of a memfd
};

struct VmOptions {
  int vcpus = 1;
  uint64_t memory_bytes = uint64_t{64} << 20;  // whole pages, 1 MiB to 3 GiB
  Backend backend = Backend::kAuto;
  MemoryKind memory = MemoryKind::kPrivate;
};

struct RestoreOptions {
  Backend backend = Backend::kAuto;
  MemoryKind memory = MemoryKind::kPrivate;
  bool eager = true;           // load ahead; else pages come only when they are touched
  uint32_t eager_threads = 0;  // 0: ramjet's default
  // Instead of lazily: reads block "ram" of the snapshot into `memory`, which is all zeros, before
  // anything runs.
  std::function<absl::Status(const std::string& path, absl::Span<uint8_t> memory)> read_ram =
      nullptr;
};

// Threads: Run() may be called for different vCPUs at the same time, for one vCPU by one thread at
// a time. The other methods are for one thread, the VMM's; while a vCPU runs, it may call those
// that say so.
class DemoVm {
 public:
  // A VM whose memory is zero but for the guest's code.
  static absl::StatusOr<std::unique_ptr<DemoVm>> Create(const VmOptions& options);

  // The VM that was saved as `path`: the number of its vCPUs, their registers and the size of its
  // memory are the snapshot's.
  static absl::StatusOr<std::unique_ptr<DemoVm>> Restore(const std::string& path,
                                                         const RestoreOptions& options);

  // What of a load is not complete is given up. REQUIRES: no vCPU runs.
  ~DemoVm();
  DemoVm(const DemoVm&) = delete;
  DemoVm& operator=(const DemoVm&) = delete;

  // Writes a snapshot; if this VM is itself still being loaded, the rest is loaded first.
  // REQUIRES: no vCPU runs.
  absl::Status Save(const std::string& path);

  // Has `vcpu` do it, and returns its result. DataLoss, naming the guest address: the memory there
  // cannot be had, as the snapshot could not be read or the load was abandoned.
  absl::StatusOr<uint32_t> Run(int vcpu, const Operation& operation);

  // Has vCPU i do operation i, all of them at the same time; the results in that order, or the
  // first error when all have ended. REQUIRES: no vCPU runs; not more operations than vCPUs.
  absl::StatusOr<std::vector<uint32_t>> RunAll(absl::Span<const Operation> operations);

  // A hash of all memory: each vCPU sums its part. Depends on the number of vCPUs.
  absl::StatusOr<uint32_t> SumOfMemory();

  // Where vCPU `vcpu` is. REQUIRES: it does not run.
  absl::StatusOr<Registers> registers(int vcpu) const { return vcpus_[vcpu]->GetRegisters(); }

  // What a balloon does: gives the memory back to the host, so that it reads as zeros. Also while
  // vCPUs run.
  absl::Status Discard(MemoryRange range);

  // Waits until all memory is there and takes ramjet out of the way; OK if nothing is being loaded.
  // DeadlineExceeded: not yet. Also while vCPUs run.
  absl::Status FinishLoad(absl::Duration timeout = absl::InfiniteDuration());

  // Ends the load; the guest is of no use any more. vCPUs that run get an error where memory was
  // not loaded. Also while vCPUs run.
  absl::Status AbandonLoad();

  // ramjet.stats/1 of the load; empty if nothing was loaded lazily. Also while vCPUs run.
  std::string StatsJson() const;

  int vcpus() const { return static_cast<int>(vcpus_.size()); }
  MemoryRange whole_memory() const;
  MemoryRange free_memory() const;  // all but the guest's code
  // The i-th of `parts` about equal parts of `range`.
  static MemoryRange Part(MemoryRange range, int i, int parts);

  Backend backend() const { return backend_; }  // kKvm or kThread
  // Why kAuto did not become kKvm; empty if it did, or was not asked for.
  const std::string& backend_reason() const { return backend_reason_; }

 private:
  class GuestMemory;
  class LazyLoad;

  explicit DemoVm(std::unique_ptr<GuestMemory> memory);
  static absl::StatusOr<std::unique_ptr<DemoVm>> CreateEmpty(const VmOptions& options);
  absl::Status CreateVcpus(Backend wanted, int count);
  // DataLoss, naming the address, if there is a poisoned page. ramjet_save() reads memory as any
  // program does, and would get the signal.
  absl::Status CheckReadable() const;

  // In the order of dependence: vCPUs use the memory, and the load fills it.
  const std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<LazyLoad> load_;  // null: not restored lazily
  Backend backend_ = Backend::kThread;
  std::string backend_reason_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

// The words for a command line: "kvm", "thread".
const char* NameOf(Backend backend);

}  // namespace demo_vm

#endif  // RAMJET_TOOLS_DEMO_VM_DEMO_VM_H_
