// What is loaded lies on the NUMA node that the guest's memory is bound to: huge pages that were
// moved there lay on the loading thread's.
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <vector>

#include "gtest/gtest.h"
#include "loader/memory_policy.h"
#include "loader/snapshot_loader.h"
#include "tests/loader_testing.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

constexpr uint64_t kWindowPages = 512;
constexpr uint64_t kWindows = 4;
constexpr uint64_t kPages = kWindows * kWindowPages;
constexpr int kWeightedInterleave = 6;  // MPOL_WEIGHTED_INTERLEAVE, Linux 6.9

MemoryPolicy Policy(int mode, uint64_t nodes) { return {.mode = mode, .nodes = {nodes}}; }

class Numa : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SKIP_WITHOUT_HUGE_WINDOWS();
    if (!SeveralNodes()) GTEST_SKIP() << "this machine has one NUMA node";
    // Left alone it would make huge pages of what was copied, on nodes of its own choice.
    if (std::getenv("RAMJET_TEST_GUEST") != nullptr) {
      std::ofstream("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs")
          << 3'600'000;
    }
    // The threads that load begin where this one is: beside node 0.
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    ASSERT_EQ(sched_getaffinity(0, sizeof(before_), &before_), 0);
    ASSERT_EQ(sched_setaffinity(0, sizeof(first), &first), 0);
    unsigned cpu;
    unsigned node;
    ASSERT_EQ(syscall(SYS_getcpu, &cpu, &node, nullptr), 0);
    ASSERT_EQ(node, 0u) << "processor 0 is beside node 0";
  }
  void TearDown() override { (void)sched_setaffinity(0, sizeof(before_), &before_); }

  void Begin(MemoryKind kind = MemoryKind::kPrivate) {
    load_.emplace(kPages, std::vector<PageRun>{{0, kPages}}, kind,
                  SnapshotLoader::Options{.eager_threads = 1});
    load_->source->SetCached(true);
  }
  void Bind(uint64_t first, uint64_t pages, const MemoryPolicy& policy) {
    ASSERT_TRUE(SetMemoryPolicy(load_->memory.addr(first), pages * HostPageBytes(), policy));
  }
  void Finish() {
    ASSERT_TRUE(load_->loader->StartEager().ok());
    ASSERT_TRUE(load_->loader->Wait().ok());
    ASSERT_TRUE(load_->loader->Detach().ok());
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_TRUE(load_->memory.HoldsPattern(page)) << "page " << page;
    }
  }
  uint64_t moved() const { return load_->loader->stats().moved; }
  // On which each of the pages lies, as the kernel says.
  static std::vector<int> Nodes(const GuestMemory& memory) {
    std::vector<void*> pages(kPages);
    std::vector<int> nodes(kPages, -1);
    for (uint64_t i = 0; i < kPages; ++i) pages[i] = reinterpret_cast<void*>(memory.addr(i));
    EXPECT_EQ(syscall(SYS_move_pages, 0, kPages, pages.data(), nullptr, nodes.data(), 0), 0);
    return nodes;
  }
  // Of the pages [first, first + pages).
  uint64_t CountOn(int node, uint64_t first = 0, uint64_t pages = kPages) const {
    const std::vector<int> nodes = Nodes(load_->memory);
    uint64_t count = 0;
    for (uint64_t i = first; i < first + pages; ++i) count += nodes[i] == node;
    return count;
  }

  std::optional<OneBlockLoad> load_;
  cpu_set_t before_;
};

TEST_F(Numa, BoundPrivateMemoryIsOnItsNodeInHugePages) {
  Begin();
  Bind(0, kPages, Policy(MPOL_BIND, 2));
  Finish();
  EXPECT_EQ(CountOn(1), kPages);
  EXPECT_EQ(moved(), kPages);
}

TEST_F(Numa, AWindowThatTheGuestTouchedIsOnItsNode) {
  Begin();
  Bind(0, kPages, Policy(MPOL_PREFERRED, 2));
  load_->source->Hold(5);
  ASSERT_TRUE(load_->loader->StartEager().ok());
  load_->source->AwaitHeld(5);  // by the eager thread, in the first window
  ASSERT_TRUE(load_->memory.HoldsPattern(3 * kWindowPages + 7));
  EXPECT_EQ(moved(), kWindowPages);
  load_->source->Release(5);
  Finish();
  EXPECT_EQ(CountOn(1), kPages);
  EXPECT_EQ(moved(), kPages);
}

TEST_F(Numa, EveryPartOfABlockIsOnItsNode) {
  Begin();
  Bind(0, kPages / 2, Policy(MPOL_BIND, 1));
  Bind(kPages / 2, kPages / 2, Policy(MPOL_BIND | MPOL_F_STATIC_NODES, 2));
  Finish();
  EXPECT_EQ(CountOn(0, 0, kPages / 2), kPages / 2);
  EXPECT_EQ(CountOn(1, kPages / 2, kPages / 2), kPages / 2);
  EXPECT_EQ(moved(), kPages);
}

TEST_F(Numa, InterleavedHugePagesTakeTheNodesInTurn) {
  Begin();
  Bind(0, kPages, Policy(MPOL_INTERLEAVE, 3));
  Finish();
  for (uint64_t first = 0; first < kPages; first += 2 * kWindowPages) {
    EXPECT_EQ(CountOn(0, first, 2 * kWindowPages), kWindowPages);
    EXPECT_EQ(CountOn(1, first, 2 * kWindowPages), kWindowPages);
  }
  EXPECT_EQ(moved(), kPages);
}

// How it would place a huge page only the kernel knows, so pages come singly.
TEST_F(Numa, InterleavedByWeightTheyLieAsIfTouched) {
  Begin();
  const GuestMemory touched(load_->memory.length(), MemoryKind::kPrivate);
  ASSERT_EQ(madvise(touched.data(), touched.length(), MADV_NOHUGEPAGE), 0);
  const MemoryPolicy policy = Policy(kWeightedInterleave, 3);
  if (!SetMemoryPolicy(touched.addr(), touched.length(), policy)) {
    load_.reset();
    GTEST_SKIP() << "no weighted interleave (Linux 6.9)";
  }
  std::memset(touched.data(), 1, touched.length());
  Bind(0, kPages, policy);
  Finish();
  const std::vector<int> nodes = Nodes(touched);
  EXPECT_EQ(CountOn(1), static_cast<uint64_t>(std::count(nodes.begin(), nodes.end(), 1)));
  EXPECT_EQ(moved(), 0u);
}

TEST_F(Numa, WithoutAPolicyThatOfTheThreadHolds) {
  const uint64_t second = 2;
  ASSERT_EQ(syscall(SYS_set_mempolicy, MPOL_BIND, &second, 64), 0);
  Begin();
  Finish();
  ASSERT_EQ(syscall(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0), 0);
  EXPECT_EQ(CountOn(1), kPages);
  EXPECT_EQ(moved(), kPages);
}

TEST_F(Numa, WithoutAnyPolicyItIsBesideTheThreadsThatLoad) {
  Begin();
  Finish();
  EXPECT_EQ(CountOn(0), kPages);
  EXPECT_EQ(moved(), kPages);
}

TEST_F(Numa, BoundSharedMemoryIsOnItsNode) {
  for (const MemoryKind kind : {MemoryKind::kShared, MemoryKind::kAliased}) {
    Begin(kind);
    Bind(0, kPages, Policy(MPOL_BIND, 2));
    Finish();
    EXPECT_EQ(CountOn(1), kPages);
  }
}

}  // namespace
}  // namespace ramjet
