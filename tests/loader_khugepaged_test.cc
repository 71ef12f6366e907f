// Where the host makes huge pages of a guest's memory by itself while it is being loaded, no page
// is lost: on Linux before 6.4 khugepaged filled the holes of shared memory with zeros.
//
// Changes what the whole machine does about huge pages, so it runs in the guest of under_kernel.py.
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "uffd/mappings.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr uint64_t kWindowPages = 512;
constexpr uint64_t kWindows = 2;
constexpr uint64_t kPages = kWindows * kWindowPages;
constexpr int kMadvCollapse = 25;
constexpr char kSettings[] = "/sys/kernel/mm/transparent_hugepage/";

void Set(const std::string& setting, const std::string& value) {
  std::ofstream file(kSettings + setting);
  file << value << std::flush;
  EXPECT_TRUE(file.good()) << setting;
}

uint64_t FullScans() {
  uint64_t scans = 0;
  std::ifstream(std::string(kSettings) + "khugepaged/full_scans") >> scans;
  return scans;
}

// khugepaged has looked at everything meanwhile, and what it was busy with at first is done.
void AwaitKhugepaged() {
  const absl::Time deadline = absl::Now() + absl::Minutes(2);
  for (const uint64_t begun = FullScans(); FullScans() < begun + 2;) {
    ASSERT_LT(absl::Now(), deadline) << "khugepaged does not run";
    absl::SleepFor(absl::Milliseconds(5));
  }
}

// MADV_HUGEPAGE of the mapping at `addr`; nullopt: it is not mapped.
std::optional<bool> HugeAdvised(uintptr_t addr) {
  std::optional<bool> advised;
  const absl::Status read = VisitMappings([&](const KernelMapping& mapping) {
    if (mapping.start <= addr && addr < mapping.end) advised = mapping.huge_advised;
    return true;
  });
  EXPECT_TRUE(read.ok()) << read;
  return advised;
}

struct Situation {
  const char* name;
  MemoryKind kind;
  const char* shmem_enabled;
};
std::ostream& operator<<(std::ostream& out, const Situation& situation) {
  return out << situation.name;
}

class Khugepaged : public ::testing::TestWithParam<Situation> {
 protected:
  void SetUp() override {
    if (std::getenv("RAMJET_TEST_GUEST") == nullptr) {
      GTEST_SKIP() << "it changes the host's settings: bazel run //tests:under_kernel -- 6.1 "
                      "loader_khugepaged_test";
    }
    SKIP_WITHOUT_USERFAULTFD();
    Set("shmem_enabled", GetParam().shmem_enabled);
    Set("khugepaged/alloc_sleep_millisecs", "0");
    Set("khugepaged/pages_to_scan", "1000000");
    Set("khugepaged/scan_sleep_millisecs", "10");
    load_.emplace(kPages, std::vector<PageRun>{{0, kPages}}, GetParam().kind);
  }
  // One page of each window is there, which is enough for khugepaged.
  void TouchAPageOfEachWindow() {
    for (uint64_t page = 7; page < kPages; page += kWindowPages) {
      ASSERT_TRUE(load_->memory.HoldsPattern(page));
    }
  }
  void ExpectThatAllArrives() {
    ASSERT_TRUE(load_->loader->StartEager().ok());
    ASSERT_TRUE(load_->loader->Wait().ok());
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < kPages; ++page) wrong += !load_->memory.HoldsPattern(page);
    EXPECT_EQ(wrong, 0u) << "pages of " << kPages;
    EXPECT_EQ(load_->loader->stats().redundant, 0u);
  }

  std::optional<OneBlockLoad> load_;
};

TEST_P(Khugepaged, FillsNoHoleThatItIsAskedToFill) {
  TouchAPageOfEachWindow();
  std::vector<uint8_t*> mappings = {load_->memory.data()};
  const void* const alias = load_->memory.mapping().alias;
  if (alias != nullptr) mappings.push_back(static_cast<uint8_t*>(const_cast<void*>(alias)));
  for (uint8_t* const mapping : mappings) {
    for (uint64_t at = 0; at < load_->memory.length(); at += kHugeBytes) {
      (void)madvise(mapping + at, kHugeBytes, kMadvCollapse);  // is refused, or does no harm
    }
  }
  ExpectThatAllArrives();
  ASSERT_TRUE(load_->loader->Detach().ok());
  EXPECT_EQ(HugeAdvised(load_->memory.addr()), true) << "the owner's advice is back";
}

// The same by khugepaged itself, which takes a while.
class KhugepagedItself : public Khugepaged {};

TEST_P(KhugepagedItself, FillsNoHole) {
  TouchAPageOfEachWindow();
  AwaitKhugepaged();
  ExpectThatAllArrives();
}

TEST_P(KhugepagedItself, HasItsWayAfterALoadThatWasAbandoned) {
  TouchAPageOfEachWindow();
  load_->loader->Abandon();
  EXPECT_EQ(HugeAdvised(load_->memory.addr()), true) << "the owner's advice is back";
}

constexpr Situation kPrivate{"Private", MemoryKind::kPrivate, "advise"};
constexpr Situation kShared{"Shared", MemoryKind::kShared, "advise"};

INSTANTIATE_TEST_SUITE_P(Hosts, KhugepagedItself, ::testing::Values(kPrivate, kShared),
                         [](const auto& param) { return std::string(param.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Hosts, Khugepaged,
    ::testing::Values(kPrivate, kShared, Situation{"SharedAlways", MemoryKind::kShared, "always"},
                      Situation{"SharedWithinSize", MemoryKind::kShared, "within_size"},
                      Situation{"SharedForce", MemoryKind::kShared, "force"},
                      Situation{"Aliased", MemoryKind::kAliased, "advise"},
                      Situation{"AliasedAlways", MemoryKind::kAliased, "always"}),
    [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace ramjet
