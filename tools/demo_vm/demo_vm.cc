#include "tools/demo_vm/demo_vm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "loader/ramjet.h"

namespace demo_vm {
namespace {

constexpr char kRam[] = "ram";    // our block's idstr
constexpr char kVcpu[] = "vcpu";  // our devices' name; the instance is the vCPU's index
constexpr int kMaxVcpus = 64;
constexpr uint64_t kMinMemoryBytes = uint64_t{1} << 20;
constexpr uint64_t kMaxMemoryBytes = uint64_t{3} << 30;

// The state of device "vcpu". Without padding, and x86 is little-endian as the file is to be.
struct SavedVcpu {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  Registers registers;
};
static_assert(sizeof(SavedVcpu) == 40 && std::endian::native == std::endian::little);

absl::Status SystemError(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// What ramjet_*() has returned, as a Status. To be called by the thread that has called it.
absl::Status Result(int64_t returned) {
  if (returned >= 0) return absl::OkStatus();
  return absl::Status(absl::ErrnoToStatusCode(static_cast<int>(-returned)), ramjet_error());
}

absl::Status CheckOptions(const VmOptions& options) {
  if (options.vcpus < 1 || options.vcpus > kMaxVcpus) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.vcpus, " vCPUs: there are 1 to ", kMaxVcpus));
  }
  if (options.memory_bytes < kMinMemoryBytes || options.memory_bytes > kMaxMemoryBytes ||
      options.memory_bytes % kGuestPageBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.memory_bytes, " bytes of memory: it is 1 MiB to 3 GiB, in pages of ",
                     kGuestPageBytes));
  }
  return absl::OkStatus();
}

Operation Strided(Routine routine, uint32_t start, uint32_t words, uint32_t stride, uint32_t seed) {
  return {routine, {.eax = seed, .ecx = words, .edx = stride, .esi = start}};
}

// Whether KVM runs our guest in a time that somebody would wait for. Where the processor gives no
// virtualization (some nested ones), KVM emulates each instruction, 500 times slower; a sum over
// the memory then takes minutes.
absl::Status MeasureKvm() {
  constexpr uint32_t kLoops = 1000;  // of five instructions
  constexpr absl::Duration kSlow = absl::Nanoseconds(100);
  VmOptions options;
  options.memory_bytes = kMinMemoryBytes;
  options.backend = Backend::kKvm;
  const absl::StatusOr<std::unique_ptr<DemoVm>> vm = DemoVm::Create(options);
  if (!vm.ok()) return vm.status();
  const absl::StatusOr<uint32_t> warm_up = (*vm)->Run(0, Hello());
  if (!warm_up.ok()) return warm_up.status();
  absl::Duration instruction = absl::InfiniteDuration();
  for (int i = 0; i < 3; ++i) {  // the best one: the others may have waited for a processor
    const absl::Time start = absl::Now();
    const absl::StatusOr<uint32_t> loops =
        (*vm)->Run(0, Strided(Routine::kRead, kCodeAddress, kLoops, 0, 0));
    if (!loops.ok()) return loops.status();
    instruction = std::min(instruction, (absl::Now() - start) / (5 * kLoops));
  }
  if (instruction < kSlow) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrFormat("KVM emulates the guest here, %.1f us an instruction",
                      absl::ToDoubleMicroseconds(instruction)));
}

}  // namespace

const absl::Status& KvmIsFast() {
  static const absl::Status& kvm = *new absl::Status(MeasureKvm());  // threads may outlive main()
  return kvm;
}

Operation Hello() { return {}; }

Operation Touch(MemoryRange range) {
  return Strided(Routine::kRead, range.start, range.pages(), kGuestPageBytes, 0);
}

Operation Sum(MemoryRange range) {
  return Strided(Routine::kRead, range.start, range.length / 4, 4, 0);
}

Operation WritePages(MemoryRange range, uint32_t seed) {
  return Strided(Routine::kWrite, range.start, range.pages(), kGuestPageBytes, seed);
}

Operation Fill(MemoryRange range, uint32_t seed) {
  return Strided(Routine::kWrite, range.start, range.length / 4, 4, seed);
}

Operation RandomTouch(MemoryRange range, uint32_t touches, uint32_t seed) {
  return {Routine::kRandomRead,
          {.ebx = range.pages(), .ecx = touches, .esi = range.start, .edi = seed}};
}

// The guest's RAM in this process.
class DemoVm::GuestMemory {
 public:
  static absl::StatusOr<std::unique_ptr<GuestMemory>> Create(uint64_t length, MemoryKind kind) {
    int memfd = -1;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (kind == MemoryKind::kMemfd) {
      memfd = memfd_create("demo_vm", MFD_CLOEXEC);
      if (memfd < 0) return SystemError("memfd_create");
      flags = MAP_SHARED | MAP_NORESERVE;
    }
    // From here on the descriptor has an owner.
    auto memory = std::unique_ptr<GuestMemory>(new GuestMemory(length, memfd));
    if (memfd >= 0 && ftruncate(memfd, static_cast<off_t>(length)) < 0) {
      return SystemError(absl::StrCat("a memfd of ", length, " bytes"));
    }
    void* const address = mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, memfd, 0);
    if (address == MAP_FAILED) return SystemError(absl::StrCat("mmap of ", length, " bytes"));
    memory->address_ = static_cast<uint8_t*>(address);
    // A child that somebody forks would see zeros in pages that have not arrived.
    madvise(address, length, MADV_DONTFORK);
    return memory;
  }
  ~GuestMemory() {
    if (address_ != nullptr) munmap(address_, length_);
    if (memfd_ >= 0) close(memfd_);
  }
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  uint8_t* host(uint32_t address) const { return address_ + address; }
  absl::Span<uint8_t> bytes() const { return {address_, length_}; }
  bool shared() const { return memfd_ >= 0; }

  absl::Status Discard(MemoryRange range) const {
    if (memfd_ < 0) {
      if (madvise(host(range.start), range.length, MADV_DONTNEED) == 0) return absl::OkStatus();
      return SystemError("madvise(MADV_DONTNEED)");
    }
    // MADV_DONTNEED would leave the content in the memfd.
    if (fallocate(memfd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range.start, range.length) <
        0) {
      return SystemError("fallocate(FALLOC_FL_PUNCH_HOLE)");
    }
    return absl::OkStatus();
  }

 private:
  GuestMemory(uint64_t length, int memfd) : length_(length), memfd_(memfd) {}

  const uint64_t length_;
  const int memfd_;  // -1: private
  uint8_t* address_ = nullptr;
};

// The restore path of a VMM: all that it needs of ramjet. Owns the handle.
class DemoVm::LazyLoad {
 public:
  static absl::StatusOr<std::unique_ptr<LazyLoad>> Open(const std::string& path,
                                                        uint32_t eager_threads) {
    std::unique_ptr<LazyLoad> self(new LazyLoad());
    ramjet_options options = RAMJET_OPTIONS_INIT;
    options.eager_threads = eager_threads;
    options.stop_vm = [](void* opaque, const char*) { static_cast<LazyLoad*>(opaque)->Stop(true); };
    options.opaque = self.get();
    const absl::Status opened = Result(ramjet_open(path.c_str(), &options, &self->handle_));
    if (!opened.ok()) return opened;
    return self;
  }

  // A guest that goes away needs the rest of its memory no more, and ramjet_close() alone would
  // load it. Harmless if the load is complete, or nothing is attached.
  ~LazyLoad() {
    Stop(false);
    stopper_.join();
    if (handle_ == nullptr) return;
    ramjet_abandon(handle_);
    ramjet_close(handle_);
  }
  LazyLoad(const LazyLoad&) = delete;
  LazyLoad& operator=(const LazyLoad&) = delete;

  // How much RAM the saved guest has.
  absl::StatusOr<uint64_t> MemoryBytes() const {
    for (uint64_t i = 0; i < ramjet_block_count(handle_); ++i) {
      ramjet_block_info info = RAMJET_BLOCK_INFO_INIT;
      const absl::Status got = Result(ramjet_get_block(handle_, i, &info));
      if (!got.ok()) return got;
      if (std::strcmp(info.idstr, kRam) == 0) return info.used_length;
    }
    return absl::InvalidArgumentError("the snapshot has no block \"ram\": it is of another VMM");
  }

  // How many vCPUs it has.
  absl::StatusOr<int> CountVcpus() const {
    int vcpus = 0;
    for (uint64_t i = 0; i < ramjet_device_count(handle_); ++i) {
      ramjet_device_info info = RAMJET_DEVICE_INFO_INIT;
      const absl::Status got = Result(ramjet_get_device(handle_, i, &info));
      if (!got.ok()) return got;
      if (std::strcmp(info.name, kVcpu) == 0) ++vcpus;
    }
    return vcpus;
  }

  // Each vCPU gets its registers: all of them at the same time, while memory loads. Ours come in a
  // microsecond; a VMM's GPU or network card with a gigabyte of state takes seconds.
  absl::Status LoadVcpus(absl::Span<const std::unique_ptr<Vcpu>> vcpus) const {
    std::vector<ramjet_device_loader> loaders;
    for (size_t i = 0; i < vcpus.size(); ++i) {
      ramjet_device_loader loader = RAMJET_DEVICE_LOADER_INIT;
      loader.name = kVcpu;
      loader.instance_id = static_cast<uint32_t>(i);
      loader.load = LoadVcpu;
      loader.opaque = vcpus[i].get();
      loaders.push_back(loader);
    }
    return Result(ramjet_load_devices(handle_, loaders.data(), loaders.size(), nullptr));
  }

  // From here on the memory has the snapshot's content, whether it has been read or not.
  absl::Status Attach(const GuestMemory& memory) {
    ramjet_block block = RAMJET_BLOCK_INIT;
    block.idstr = kRam;
    block.host = memory.bytes().data();
    block.length = memory.bytes().size();
    block.memory = memory.shared() ? RAMJET_SHARED : RAMJET_PRIVATE;
    return Result(ramjet_attach(handle_, &block));
  }

  absl::Status StartEager() { return Result(ramjet_start_eager(handle_)); }

  absl::Status Finish(absl::Duration timeout) {
    // Without a limit the caller cannot go on before all of it is there.
    absl::Status complete = Result(timeout == absl::InfiniteDuration()
                                       ? ramjet_finish(handle_)
                                       : ramjet_wait(handle_, absl::ToInt64Milliseconds(timeout)));
    if (!complete.ok()) return complete;
    return Result(ramjet_detach(handle_));
  }

  absl::Status Abandon() { return Result(ramjet_abandon(handle_)); }

  // The kernel says nothing of a hole in a memfd, so ramjet has to hear of it first.
  absl::Status ExpectHole(uint8_t* start, uint64_t length) {
    return Result(ramjet_discard(handle_, start, length));
  }

  std::string StatsJson() const {
    std::string text;
    for (;;) {
      const int64_t length = ramjet_stats_json(handle_, text.data(), text.size());
      if (length < 0) return "";
      if (static_cast<uint64_t>(length) < text.size()) {
        text.resize(static_cast<size_t>(length));
        return text;
      }
      text.resize(static_cast<size_t>(length) + 1);  // for the zero; it may have grown by then
    }
  }

 private:
  enum State { kLoading, kStopped, kEnded };

  LazyLoad() = default;

  // A page of shared memory cannot be had (private memory is poisoned there), or the load ends.
  // ramjet calls this by a thread of its own, which may call no function of it; so the stopper
  // does.
  void Stop(bool because_of_a_page) {
    int loading = kLoading;
    state_.compare_exchange_strong(loading, because_of_a_page ? kStopped : kEnded);
    state_.notify_all();
  }

  // Memory that is abandoned wakes the vCPUs that sleep on its pages, with an error.
  void AwaitStop() {
    state_.wait(kLoading);
    if (state_.load() == kStopped) ramjet_abandon(handle_);
  }

  static int LoadVcpu(void* vcpu, const ramjet_device_state* state) {
    ramjet_device_info info = RAMJET_DEVICE_INFO_INIT;
    int result = ramjet_get_device_state(state, &info);
    if (result < 0) return result;
    SavedVcpu saved;
    if (info.length != sizeof(saved)) return -EPROTONOSUPPORT;
    result = ramjet_read_device_state(state, 0, &saved, sizeof(saved));
    if (result < 0) return result;
    if (saved.version != SavedVcpu::kVersion) return -EPROTONOSUPPORT;
    return static_cast<Vcpu*>(vcpu)->SetRegisters(saved.registers).ok() ? 0 : -EIO;
  }

  ramjet_load* handle_ = nullptr;  // constant once a block is attached
  std::atomic<int> state_{kLoading};
  std::thread stopper_{[this] { AwaitStop(); }};
};

DemoVm::DemoVm(std::unique_ptr<GuestMemory> memory) : memory_(std::move(memory)) {}

DemoVm::~DemoVm() {
  vcpus_.clear();
  load_.reset();  // before the memory that it fills
}

absl::Status DemoVm::CreateVcpus(Backend wanted, int count) {
  if (wanted == Backend::kAuto) {
    const absl::Status& kvm = KvmIsFast();
    wanted = kvm.ok() ? Backend::kKvm : Backend::kThread;
    backend_reason_ = std::string(kvm.message());
  }
  backend_ = wanted;
  if (wanted == Backend::kThread) {
    vcpus_ = CreateThreadVcpus(memory_->bytes(), count);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::unique_ptr<Vcpu>>> vcpus =
      CreateKvmVcpus(memory_->bytes(), count);
  if (!vcpus.ok()) return vcpus.status();
  vcpus_ = *std::move(vcpus);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DemoVm>> DemoVm::CreateEmpty(const VmOptions& options) {
  const absl::Status checked = CheckOptions(options);
  if (!checked.ok()) return checked;
  absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create(options.memory_bytes, options.memory);
  if (!memory.ok()) return memory.status();
  auto vm = std::unique_ptr<DemoVm>(new DemoVm(*std::move(memory)));
  const absl::Status created = vm->CreateVcpus(options.backend, options.vcpus);
  if (!created.ok()) return created;
  return vm;
}

absl::StatusOr<std::unique_ptr<DemoVm>> DemoVm::Create(const VmOptions& options) {
  absl::StatusOr<std::unique_ptr<DemoVm>> vm = CreateEmpty(options);
  if (!vm.ok()) return vm.status();
  std::memcpy((*vm)->memory_->host(kCodeAddress), GuestCode().data(), GuestCode().size());
  for (const std::unique_ptr<Vcpu>& vcpu : (*vm)->vcpus_) {
    const absl::Status set = vcpu->SetRegisters({.eip = kCodeAddress});
    if (!set.ok()) return set;
  }
  return vm;
}

absl::StatusOr<std::unique_ptr<DemoVm>> DemoVm::Restore(const std::string& path,
                                                        const RestoreOptions& options) {
  absl::StatusOr<std::unique_ptr<LazyLoad>> load = LazyLoad::Open(path, options.eager_threads);
  if (!load.ok()) return load.status();
  const absl::StatusOr<uint64_t> memory_bytes = (*load)->MemoryBytes();
  if (!memory_bytes.ok()) return memory_bytes.status();
  const absl::StatusOr<int> vcpus = (*load)->CountVcpus();
  if (!vcpus.ok()) return vcpus.status();

  absl::StatusOr<std::unique_ptr<DemoVm>> created = CreateEmpty({.vcpus = *vcpus,
                                                                 .memory_bytes = *memory_bytes,
                                                                 .backend = options.backend,
                                                                 .memory = options.memory});
  if (!created.ok()) return created.status();
  std::unique_ptr<DemoVm> vm = *std::move(created);
  if (options.read_ram != nullptr) {
    const absl::Status read = options.read_ram(path, vm->memory_->bytes());
    if (!read.ok()) return read;
    const absl::Status loaded = (*load)->LoadVcpus(vm->vcpus_);
    if (!loaded.ok()) return loaded;
    return vm;
  }
  vm->load_ = *std::move(load);
  const absl::Status attached = vm->load_->Attach(*vm->memory_);
  if (!attached.ok()) return attached;
  if (options.eager) {
    const absl::Status started = vm->load_->StartEager();
    if (!started.ok()) return started;
  }
  const absl::Status loaded = vm->load_->LoadVcpus(vm->vcpus_);
  if (!loaded.ok()) return loaded;
  return vm;
}

absl::Status DemoVm::CheckReadable() const {
  const std::vector<std::unique_ptr<Vcpu>> reader = CreateThreadVcpus(memory_->bytes(), 1);
  const Operation touch = Touch(whole_memory());
  Registers registers = touch.parameters;
  registers.eip = EntryOf(touch.routine);
  const absl::Status set = reader[0]->SetRegisters(registers);
  return set.ok() ? reader[0]->Run() : set;
}

absl::Status DemoVm::Save(const std::string& path) {
  if (load_ != nullptr) {
    absl::Status started = load_->StartEager();
    if (!started.ok()) return started;
    absl::Status finished = load_->Finish(absl::InfiniteDuration());
    if (!finished.ok()) return finished;
    absl::Status readable = CheckReadable();
    if (!readable.ok()) return readable;
  }

  std::vector<SavedVcpu> states(vcpus_.size());
  std::vector<ramjet_save_device> devices;
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    const absl::StatusOr<Registers> registers = vcpus_[i]->GetRegisters();
    if (!registers.ok()) return registers.status();
    states[i].registers = *registers;
    devices.push_back({.name = kVcpu,
                       .instance_id = static_cast<uint32_t>(i),
                       .version_id = SavedVcpu::kVersion,
                       .state = &states[i],
                       .length = sizeof(SavedVcpu)});
  }
  const ramjet_save_block ram = {
      .idstr = kRam, .host = memory_->bytes().data(), .length = memory_->bytes().size()};
  return Result(ramjet_save(path.c_str(), &ram, 1, devices.data(), devices.size()));
}

absl::StatusOr<uint32_t> DemoVm::Run(int vcpu, const Operation& operation) {
  if (vcpu < 0 || vcpu >= vcpus()) {
    return absl::InvalidArgumentError(absl::StrCat("there is no vCPU ", vcpu));
  }
  Registers registers = operation.parameters;
  registers.eip = EntryOf(operation.routine);
  if (operation.routine != Routine::kHello && registers.ecx == 0) {
    return absl::InvalidArgumentError(
        "an operation on nothing");  // the guest would count from 2^32
  }
  const absl::Status set = vcpus_[vcpu]->SetRegisters(registers);
  if (!set.ok()) return set;
  const absl::Status ran = vcpus_[vcpu]->Run();
  if (!ran.ok()) {
    return absl::Status(ran.code(), absl::StrCat("vCPU ", vcpu, ": ", ran.message()));
  }
  const absl::StatusOr<Registers> after = vcpus_[vcpu]->GetRegisters();
  if (!after.ok()) return after.status();
  return after->eax;
}

absl::StatusOr<std::vector<uint32_t>> DemoVm::RunAll(absl::Span<const Operation> operations) {
  std::vector<absl::StatusOr<uint32_t>> results(operations.size());
  std::vector<std::thread> threads;  // one for each vCPU, as VMMs have it
  for (size_t i = 0; i < operations.size(); ++i) {
    threads.emplace_back(
        [this, &results, &operations, i] { results[i] = Run(static_cast<int>(i), operations[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<uint32_t> values;
  for (const absl::StatusOr<uint32_t>& result : results) {
    if (!result.ok()) return result.status();
    values.push_back(*result);
  }
  return values;
}

absl::StatusOr<uint32_t> DemoVm::SumOfMemory() {
  std::vector<Operation> sums;
  for (int i = 0; i < vcpus(); ++i) sums.push_back(Sum(Part(whole_memory(), i, vcpus())));
  const absl::StatusOr<std::vector<uint32_t>> parts = RunAll(sums);
  if (!parts.ok()) return parts.status();
  uint32_t sum = 0;
  for (const uint32_t part : *parts) sum = MixWord(sum, part);
  return sum;
}

absl::Status DemoVm::Discard(MemoryRange range) {
  if (load_ != nullptr && memory_->shared()) {
    absl::Status expected = load_->ExpectHole(memory_->host(range.start), range.length);
    if (!expected.ok()) return expected;
  }
  return memory_->Discard(range);
}

absl::Status DemoVm::FinishLoad(absl::Duration timeout) {
  return load_ == nullptr ? absl::OkStatus() : load_->Finish(timeout);
}

absl::Status DemoVm::AbandonLoad() {
  return load_ == nullptr ? absl::OkStatus() : load_->Abandon();
}

std::string DemoVm::StatsJson() const { return load_ == nullptr ? "" : load_->StatsJson(); }

MemoryRange DemoVm::whole_memory() const {
  return {0, static_cast<uint32_t>(memory_->bytes().size())};
}

MemoryRange DemoVm::free_memory() const {
  return {kFreeAddress, whole_memory().length - kFreeAddress};
}

MemoryRange DemoVm::Part(MemoryRange range, int i, int parts) {
  const auto begin_of = [&](int part) {
    const uint64_t page =
        uint64_t{range.pages()} * static_cast<uint64_t>(part) / static_cast<uint64_t>(parts);
    return static_cast<uint32_t>(page * kGuestPageBytes);
  };
  return {range.start + begin_of(i), begin_of(i + 1) - begin_of(i)};
}

const char* NameOf(Backend backend) {
  switch (backend) {
    case Backend::kAuto:
      return "auto";
    case Backend::kKvm:
      return "kvm";
    case Backend::kThread:
      return "thread";
  }
  return "";
}

}  // namespace demo_vm
