// Our own VMM restores through the C face, on KVM and with threads that play the guest.
#include "tools/demo_vm/demo_vm.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/loader_testing.h"
#include "uffd/userfaultfd.h"

namespace demo_vm {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A KVM that emulates the guest takes a second for each MiB that it sums up.
constexpr uint64_t kMemoryBytes = uint64_t{1} << 20;
constexpr uint32_t kSeed = 7;

struct Case {
  Backend backend;
  MemoryKind memory;
};

class DemoVmTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    if (const absl::Status can = Create(1).status(); !can.ok()) GTEST_SKIP() << can;
  }
  void TearDown() override {
    vm_.reset();
    EXPECT_THAT(ramjet::ThreadsLeft(), IsEmpty());
    EXPECT_EQ(ramjet::OpenUserfaultfds(), 0);
    unlink(path_.c_str());
    close(writer_);
  }

  Backend backend() const { return GetParam().backend; }
  const std::string& path() const { return path_; }

  absl::StatusOr<std::unique_ptr<DemoVm>> Create(int vcpus) const {
    return DemoVm::Create({.vcpus = vcpus,
                           .memory_bytes = kMemoryBytes,
                           .backend = backend(),
                           .memory = GetParam().memory});
  }

  // Saves a guest whose memory is full of random numbers; returns the sum of it. Its vCPUs are
  // threads, which are fast everywhere; who restores it does not notice.
  uint32_t SaveFilled(int vcpus) {
    const auto vm =
        DemoVm::Create({.vcpus = vcpus, .memory_bytes = kMemoryBytes, .backend = Backend::kThread});
    EXPECT_TRUE(vm.ok()) << vm.status();
    EXPECT_TRUE((*vm)->Run(0, Fill((*vm)->free_memory(), kSeed)).ok());
    const absl::StatusOr<uint32_t> sum = (*vm)->SumOfMemory();
    EXPECT_TRUE(sum.ok()) << sum.status();
    const absl::Status saved = (*vm)->Save(path_);
    EXPECT_TRUE(saved.ok()) << saved;
    return sum.value_or(0);
  }

  // Where somebody has the snapshot open for writing, ramjet has no lease on it: DamageSnapshot()
  // would wait for the end of the load.
  void AllowDamage() {
    writer_ = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    EXPECT_GE(writer_, 0);
  }

  DemoVm& Restore(bool eager) {
    auto restored =
        DemoVm::Restore(path_, {.backend = backend(), .memory = GetParam().memory, .eager = eager});
    if (!restored.ok()) {
      ADD_FAILURE() << restored.status();
      std::abort();
    }
    vm_ = *std::move(restored);
    return *vm_;
  }

  nlohmann::json Stats() const { return nlohmann::json::parse(vm_->StatsJson()); }

  // Makes every page of the snapshot unreadable, as ramjet notices: the file is cut off.
  void DamageSnapshot() const { EXPECT_EQ(truncate(path_.c_str(), 4096), 0); }

 private:
  const std::string path_ = absl::StrCat(::testing::TempDir(), "/demo_vm.", getpid(), ".mr");
  int writer_ = -1;
  std::unique_ptr<DemoVm> vm_;
};

TEST_P(DemoVmTest, LazyRestoreWithoutEagerThreadsGivesTheMemoryThatWasSaved) {
  const uint32_t sum = SaveFilled(1);
  DemoVm& vm = Restore(/*eager=*/false);
  EXPECT_EQ(*vm.SumOfMemory(), sum);
  // Each page came because the guest has touched it.
  EXPECT_EQ(Stats()["pages"]["eager"], 0);
  // The last one may not have been noted yet.
  EXPECT_GE(Stats()["fault_us"]["count"], vm.whole_memory().pages() - 1);
  EXPECT_TRUE(vm.FinishLoad(absl::ZeroDuration()).ok());
}

TEST_P(DemoVmTest, LazyRestoreWithEagerThreadsGivesTheMemoryThatWasSaved) {
  const uint32_t sum = SaveFilled(1);
  DemoVm& vm = Restore(/*eager=*/true);
  EXPECT_TRUE(vm.Run(0, RandomTouch(vm.whole_memory(), 100, kSeed)).ok());
  const absl::Status finished = vm.FinishLoad();
  EXPECT_TRUE(finished.ok()) << finished;
  EXPECT_THAT(ramjet::ThreadsLeft(), IsEmpty());
  EXPECT_EQ(*vm.SumOfMemory(), sum);
  EXPECT_TRUE(Stats()["complete"]);
}

TEST_P(DemoVmTest, WhatTheGuestWroteWhileLoadingIsSavedAgain) {
  SaveFilled(1);
  DemoVm& vm = Restore(/*eager=*/true);
  const MemoryRange half = DemoVm::Part(vm.free_memory(), 0, 2);
  EXPECT_TRUE(vm.Run(0, WritePages(half, kSeed + 1)).ok());
  const absl::Status saved = vm.Save(path());
  EXPECT_TRUE(saved.ok()) << saved;
  const uint32_t sum = *vm.SumOfMemory();
  EXPECT_EQ(*Restore(/*eager=*/false).SumOfMemory(), sum);
}

TEST_P(DemoVmTest, VcpusTouchTheSamePagesAtTheSameTime) {
  constexpr int kVcpus = 3;
  SaveFilled(kVcpus);
  for (const bool eager : {false, true}) {
    DemoVm& vm = Restore(eager);
    const std::vector<Operation> same(kVcpus, Touch(vm.whole_memory()));
    const absl::StatusOr<std::vector<uint32_t>> hashes = vm.RunAll(same);
    ASSERT_TRUE(hashes.ok()) << hashes.status();
    const absl::Status finished = vm.FinishLoad();
    EXPECT_TRUE(finished.ok()) << finished;
    for (const uint32_t hash : *hashes) EXPECT_EQ(hash, *vm.Run(0, Touch(vm.whole_memory())));
  }
}

TEST_P(DemoVmTest, RegistersSurvive) {
  constexpr int kVcpus = 2;
  std::vector<Registers> before;
  {
    const auto vm = Create(kVcpus);
    ASSERT_TRUE(vm.ok()) << vm.status();
    ASSERT_TRUE((*vm)->Run(0, RandomTouch((*vm)->whole_memory(), 10, kSeed)).ok());
    ASSERT_TRUE((*vm)->Run(1, WritePages((*vm)->free_memory(), kSeed)).ok());
    for (int i = 0; i < kVcpus; ++i) before.push_back(*(*vm)->registers(i));
    ASSERT_TRUE((*vm)->Save(path()).ok());
  }
  DemoVm& vm = Restore(/*eager=*/true);
  ASSERT_EQ(vm.vcpus(), kVcpus);
  EXPECT_NE(before[0].eip, before[1].eip);
  for (int i = 0; i < kVcpus; ++i) EXPECT_EQ(*vm.registers(i), before[i]) << i;
}

TEST_P(DemoVmTest, PoisonedPageIsAnErrorThatNamesItsAddress) {
  SaveFilled(1);
  AllowDamage();
  DemoVm& vm = Restore(/*eager=*/false);
  ASSERT_TRUE(vm.Run(0, Hello()).ok());  // has its code by now
  DamageSnapshot();
  const MemoryRange page = {kFreeAddress + 5 * kGuestPageBytes, kGuestPageBytes};
  if (GetParam().memory == MemoryKind::kMemfd) {
    // Other mappings of it would see zeros where one is poisoned, so the VM is stopped.
    const absl::StatusOr<uint32_t> result = vm.Run(0, Touch(page));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << result.status();
    EXPECT_EQ(Stats()["pages"]["poisoned"], 0);
    EXPECT_FALSE(vm.Save(path()).ok());
    return;
  }
  for (const Operation& operation :
       {Touch(page), WritePages(page, kSeed), RandomTouch(page, 1, kSeed)}) {
    const absl::StatusOr<uint32_t> result = vm.Run(0, operation);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("0x15000 "));
  }
  EXPECT_GE(Stats()["pages"]["poisoned"], 1);
  // The vCPU goes on, and no snapshot is made of what is not there.
  EXPECT_TRUE(vm.Run(0, Hello()).ok());
  EXPECT_EQ(vm.Save(path()).code(), absl::StatusCode::kDataLoss);
}

TEST_P(DemoVmTest, CodeThatCannotBeReadIsAnError) {
  SaveFilled(1);
  AllowDamage();
  DemoVm& vm = Restore(/*eager=*/false);
  DamageSnapshot();
  const absl::StatusOr<uint32_t> result = vm.Run(0, Hello());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("0x1000 "));
}

TEST_P(DemoVmTest, WhatIsDiscardedWhileLoadingIsZero) {
  SaveFilled(2);
  for (const bool eager : {false, true}) {
    DemoVm& vm = Restore(eager);
    const MemoryRange gone = DemoVm::Part(vm.free_memory(), 1, 3);
    const MemoryRange kept = DemoVm::Part(vm.free_memory(), 2, 3);
    absl::StatusOr<uint32_t> touched;
    std::thread vcpu([&] { touched = vm.Run(1, Touch(kept)); });
    const absl::Status discarded = vm.Discard(gone);
    EXPECT_TRUE(discarded.ok()) << discarded;
    vcpu.join();
    EXPECT_TRUE(touched.ok()) << touched.status();

    const auto zeros = Create(1);
    ASSERT_TRUE(zeros.ok()) << zeros.status();
    EXPECT_EQ(*vm.Run(0, Sum(gone)), *(*zeros)->Run(0, Sum(gone)));
    EXPECT_NE(*vm.Run(0, Touch(kept)), *(*zeros)->Run(0, Touch(kept)));
    EXPECT_TRUE(vm.Run(0, Touch(vm.whole_memory())).ok());
    const absl::Status finished = vm.FinishLoad();
    EXPECT_TRUE(finished.ok()) << finished;
    EXPECT_EQ(*vm.Run(0, Touch(gone)), *(*zeros)->Run(0, Touch(gone)));
  }
}

TEST_P(DemoVmTest, AbandonedLoadReturnsItsVcpusWithAnError) {
  constexpr int kVcpus = 2;
  SaveFilled(kVcpus);
  DemoVm& vm = Restore(/*eager=*/false);
  std::atomic<int> running{0};
  std::vector<absl::Status> ends(kVcpus);
  std::vector<std::thread> vcpus;
  for (int i = 0; i < kVcpus; ++i) {
    vcpus.emplace_back([&, i] {
      // The last page is left alone, so the load never becomes complete.
      const MemoryRange most = {0, vm.whole_memory().length - kGuestPageBytes};
      while (ends[i].ok()) {
        ends[i] = vm.Run(i, Touch(most)).status();
        ++running;
      }
    });
  }
  while (running < kVcpus) std::this_thread::yield();
  EXPECT_TRUE(vm.AbandonLoad().ok());
  for (std::thread& vcpu : vcpus) vcpu.join();
  for (const absl::Status& end : ends) EXPECT_EQ(end.code(), absl::StatusCode::kDataLoss) << end;
  EXPECT_EQ(vm.FinishLoad().code(), absl::StatusCode::kCancelled) << vm.FinishLoad();
  EXPECT_THAT(ramjet::ThreadsLeft(), IsEmpty());
  EXPECT_EQ(ramjet::OpenUserfaultfds(), 0);
}

TEST_P(DemoVmTest, AbandonWakesVcpusThatSleepOnAPage) {
  constexpr int kVcpus = 4;
  SaveFilled(kVcpus);
  for (int round = 0; round < 20; ++round) {
    DemoVm& vm = Restore(/*eager=*/round % 2 == 1);
    std::thread vmm([&vm] { EXPECT_TRUE(vm.AbandonLoad().ok()); });
    // Either all is there before the load is abandoned, or it is an error.
    const std::vector<Operation> same(kVcpus, Touch(vm.whole_memory()));
    const absl::StatusOr<std::vector<uint32_t>> ends = vm.RunAll(same);
    vmm.join();
    if (!ends.ok()) {
      EXPECT_EQ(ends.status().code(), absl::StatusCode::kDataLoss) << ends.status();
    }
  }
}

std::string CaseName(const ::testing::TestParamInfo<Case>& test) {
  return absl::StrCat(test.param.backend == Backend::kKvm ? "Kvm" : "Threads",
                      test.param.memory == MemoryKind::kPrivate ? "Private" : "Memfd");
}

INSTANTIATE_TEST_SUITE_P(Vms, DemoVmTest,
                         ::testing::Values(Case{Backend::kKvm, MemoryKind::kPrivate},
                                           Case{Backend::kKvm, MemoryKind::kMemfd},
                                           Case{Backend::kThread, MemoryKind::kPrivate},
                                           Case{Backend::kThread, MemoryKind::kMemfd}),
                         CaseName);

// The two play the same guest: result by result, register by register.
TEST(DemoVm, ThreadsDoWhatKvmDoes) {
  std::vector<std::unique_ptr<DemoVm>> vms;
  for (const Backend backend : {Backend::kKvm, Backend::kThread}) {
    auto vm = DemoVm::Create({.memory_bytes = kMemoryBytes, .backend = backend});
    if (!vm.ok()) GTEST_SKIP() << vm.status();
    vms.push_back(*std::move(vm));
  }
  const MemoryRange some = {kFreeAddress, 20 * kGuestPageBytes};
  for (const Operation& operation : {Hello(), Fill(some, kSeed), Sum(some), WritePages(some, kSeed),
                                     Touch(some), RandomTouch(some, 50, kSeed), Sum(some)}) {
    EXPECT_EQ(*vms[0]->Run(0, operation), *vms[1]->Run(0, operation));
    Registers kvm = *vms[0]->registers(0);
    kvm.eflags = Registers().eflags;  // nothing depends on the flags that an operation leaves
    EXPECT_EQ(kvm, *vms[1]->registers(0));
  }
}

TEST(DemoVm, SumSeesSwappedPages) {
  const auto vm = DemoVm::Create({.memory_bytes = kMemoryBytes, .backend = Backend::kThread});
  ASSERT_TRUE(vm.ok()) << vm.status();
  const MemoryRange first = {kFreeAddress, kGuestPageBytes};
  const MemoryRange second = {kFreeAddress + kGuestPageBytes, kGuestPageBytes};
  ASSERT_TRUE((*vm)->Run(0, Fill(first, 1)).ok());
  ASSERT_TRUE((*vm)->Run(0, Fill(second, 2)).ok());
  const uint32_t sum = *(*vm)->SumOfMemory();
  ASSERT_TRUE((*vm)->Run(0, Fill(first, 2)).ok());
  ASSERT_TRUE((*vm)->Run(0, Fill(second, 1)).ok());
  EXPECT_NE(*(*vm)->SumOfMemory(), sum);
}

TEST(DemoVm, OptionsAndOperationsAreChecked) {
  const auto code = [](const VmOptions& options) {
    return DemoVm::Create(options).status().code();
  };
  EXPECT_EQ(code({.vcpus = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.vcpus = 65}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.memory_bytes = 4096}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.memory_bytes = kMemoryBytes + 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.memory_bytes = uint64_t{4} << 30}), absl::StatusCode::kInvalidArgument);

  const auto vm = DemoVm::Create({.memory_bytes = kMemoryBytes, .backend = Backend::kThread});
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ((*vm)->Run(1, Hello()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*vm)->Run(0, Touch({0, 0})).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*vm)->Run(0, Touch({kMemoryBytes, kGuestPageBytes})).status().code(),
            absl::StatusCode::kInternal);
}

TEST(DemoVm, FileThatIsNoSnapshotIsRefused) {
  const auto vm = DemoVm::Restore("/dev/null", {});
  EXPECT_FALSE(vm.ok());
  EXPECT_THAT(std::string(vm.status().message()), HasSubstr("/dev/null"));
}

}  // namespace
}  // namespace demo_vm
