// Memory other than small pages of the file's own size: huge pages of hugetlb, larger pages in the
// file, thousands of blocks, a tebibyte.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/snapshot_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"
#include "tests/snapshot_content.h"
#include "uffd/mappings.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Snapshot> Written(const SnapshotContent& content, const char* name) {
  const std::string path = ::testing::TempDir() + "/" + name + ".mr";
  const absl::Status written = WriteSnapshot(content, path);
  EXPECT_TRUE(written.ok()) << written;
  PutStaleData(path);
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*File::Open(path));
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  unlink(path.c_str());
  return *std::move(snapshot);
}

bool In(const std::vector<PageRun>& runs, uint64_t page) {
  return std::any_of(runs.begin(), runs.end(),
                     [&](const PageRun& run) { return page >= run.first && page < run.end(); });
}

// Compares `pages` of `page_bytes`, of which those in `nonzero` hold their pattern.
void ExpectContent(const uint8_t* memory, uint64_t pages, uint64_t page_bytes,
                   const std::vector<PageRun>& nonzero) {
  std::vector<uint8_t> expected(page_bytes);
  for (uint64_t i = 0; i < pages; ++i) {
    const uint64_t page = i * 7919 % pages;  // a prime, so all of them, and not in order
    std::fill(expected.begin(), expected.end(), 0);
    if (In(nonzero, page)) FillPagePattern(page, absl::MakeSpan(expected));
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), memory + page * page_bytes))
        << "page " << page;
  }
}

// --- Huge pages ---

struct HugeKind {
  const char* name;
  uint64_t page_bytes;
  MemoryKind kind;
};

uint64_t FreeHugePages(uint64_t page_bytes) {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-" + std::to_string(page_bytes >> 10) +
                     "kB/free_hugepages");
  uint64_t free = 0;
  file >> free;
  return free;
}

class HugePages : public ::testing::TestWithParam<HugeKind> {
 protected:
  static constexpr uint64_t kHugePages = 4;
  uint64_t huge_bytes() const { return GetParam().page_bytes; }
  uint64_t huge_pages() const { return huge_bytes() > kHugeBytes ? 1 : kHugePages; }
  uint64_t small_pages() const { return huge_pages() * huge_bytes() / HostPageBytes(); }

  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    if (FreeHugePages(huge_bytes()) < huge_pages()) {
      GTEST_SKIP() << huge_pages() << " free huge pages of " << (huge_bytes() >> 20)
                   << " MiB are needed (/sys/kernel/mm/hugepages)";
    }
    const unsigned log2 = huge_bytes() > kHugeBytes ? 30 : 21;
    const uint64_t length = huge_pages() * huge_bytes();
    int flags =
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | static_cast<int>(log2 << MAP_HUGE_SHIFT);
    if (IsShared(GetParam().kind)) {
      memfd_ = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | (log2 << MAP_HUGE_SHIFT));
      ASSERT_EQ(ftruncate(memfd_, static_cast<off_t>(length)), 0);
      flags = MAP_SHARED;
    }
    void* const memory = mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, memfd_, 0);
    ASSERT_NE(memory, MAP_FAILED);
    mapping_ = {.host = memory,
                .memory = IsShared(GetParam().kind) ? BlockMemory::kShared : BlockMemory::kPrivate};
    if (GetParam().kind == MemoryKind::kAliased) {
      mapping_.alias = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, memfd_, 0);
      ASSERT_NE(mapping_.alias, MAP_FAILED);
    }
    if (huge_bytes() == kHugeBytes) {
      // The third is empty; the others have gaps, in which the file may hold anything.
      nonzero_ = {{3, 1}, {10, 400}, {511, 2}, {900, 1}, {1536, 300}};
    } else {
      nonzero_ = {{3, 1}, {100'000, 700}, {262'143, 1}};
    }
    SnapshotContent content;
    content.blocks.push_back(
        {.idstr = "ram", .used_length = length, .page_size = HostPageBytes(), .nonzero = nonzero_});
    auto loader = SnapshotLoader::Create(Written(content, GetParam().name), {});
    ASSERT_TRUE(loader.ok()) << loader.status();
    loader_ = *std::move(loader);
  }
  void TearDown() override {
    loader_.reset();
    if (mapping_.host != nullptr) munmap(mapping_.host, huge_pages() * huge_bytes());
    if (mapping_.alias != nullptr) munmap(mapping_.alias, huge_pages() * huge_bytes());
    if (memfd_ >= 0) close(memfd_);
  }
  uint8_t* memory() const { return static_cast<uint8_t*>(mapping_.host); }

  int memfd_ = -1;
  BlockMapping mapping_;
  std::vector<PageRun> nonzero_;
  std::unique_ptr<SnapshotLoader> loader_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, HugePages,
                         ::testing::Values(HugeKind{"Private2M", kHugeBytes, MemoryKind::kPrivate},
                                           HugeKind{"Shared2M", kHugeBytes, MemoryKind::kShared},
                                           HugeKind{"Aliased2M", kHugeBytes, MemoryKind::kAliased},
                                           HugeKind{"Private1G", 1 << 30, MemoryKind::kPrivate}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST_P(HugePages, Invariant1OnDemandEveryByteIsTheSnapshots) {
  const absl::Status attached = loader_->Attach(0, mapping_);
  ASSERT_TRUE(attached.ok()) << attached;
  ExpectContent(memory(), small_pages(), HostPageBytes(), nonzero_);
  EXPECT_TRUE(loader_->complete());
  EXPECT_EQ(loader_->stats().faulted, huge_pages() == 1 ? 1u : 3u);
  EXPECT_EQ(loader_->stats().zeroed, huge_pages() == 1 ? 0u : 1u);
}

TEST_P(HugePages, Invariant1LoadedAheadEveryByteIsTheSnapshots) {
  ASSERT_TRUE(loader_->Attach(0, mapping_).ok());
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  ASSERT_TRUE(loader_->Detach().ok());
  ExpectContent(memory(), small_pages(), HostPageBytes(), nonzero_);
  EXPECT_EQ(loader_->stats().eager, huge_pages() == 1 ? 1u : 3u);
}

// The file has something else there.
TEST_P(HugePages, Invariant3PartsOfAPageWhoseBitsAreClearAreZero) {
  ASSERT_TRUE(loader_->Attach(0, mapping_).ok());
  std::vector<uint8_t> expected(HostPageBytes());
  for (const PageRun& run : nonzero_) {
    for (const uint64_t page : {run.first - 1, run.end()}) {
      if (page >= small_pages() || In(nonzero_, page)) continue;
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), memory() + page * HostPageBytes()))
          << "page " << page;
    }
  }
}

TEST_P(HugePages, Invariant3DiscardedBeforeItsLoadAPageIsZeroForEver) {
  ASSERT_TRUE(loader_->Attach(0, mapping_).ok());
  if (IsShared(GetParam().kind)) {
    ASSERT_EQ(madvise(memory(), huge_bytes(), MADV_REMOVE), 0);
  } else {
    ASSERT_EQ(madvise(memory(), huge_bytes(), MADV_DONTNEED), 0);
  }
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  const uint64_t huge_is_small = huge_bytes() / HostPageBytes();
  std::vector<PageRun> left;
  for (const PageRun& run : nonzero_) {
    const uint64_t first = std::max(run.first, huge_is_small);
    if (first < run.end()) left.push_back({first, run.end() - first});
  }
  ExpectContent(memory(), small_pages(), HostPageBytes(), left);
  EXPECT_EQ(loader_->stats().removed, 1u);
}

TEST_P(HugePages, AWrongHostPageSizeIsRefusedInWords) {
  mapping_.host_page_size = HostPageBytes();
  const absl::Status attached = loader_->Attach(0, mapping_);
  EXPECT_EQ(attached.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(attached.message()), HasSubstr("its host page size is said to be 4096"));
  mapping_.host_page_size = huge_bytes();
  EXPECT_TRUE(loader_->Attach(0, mapping_).ok()) << "a refusal spoils nothing";
}

// --- Larger pages in the file than here ---

class LargeTargetPages : public ::testing::TestWithParam<MemoryKind> {
 protected:
  static constexpr uint64_t kTargetBytes = 64 << 10;
  static constexpr uint64_t kPages = 64;
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    SnapshotContent content;
    content.page_bits = 16;
    content.blocks.push_back({.idstr = "ram",
                              .used_length = kPages * kTargetBytes,
                              .page_size = kTargetBytes,
                              .nonzero = nonzero_});
    auto loader = SnapshotLoader::Create(Written(content, "large_target_pages"), {});
    ASSERT_TRUE(loader.ok()) << loader.status();
    loader_ = *std::move(loader);
    const absl::Status attached = loader_->Attach(0, memory_.mapping());
    ASSERT_TRUE(attached.ok()) << attached;
  }
  const std::vector<PageRun> nonzero_ = {{0, 3}, {40, 20}};
  GuestMemory memory_{kPages * kTargetBytes, GetParam()};
  std::unique_ptr<SnapshotLoader> loader_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, LargeTargetPages,
                         ::testing::Values(MemoryKind::kPrivate, MemoryKind::kAliased),
                         [](const auto& param) {
                           return param.param == MemoryKind::kPrivate ? "Private" : "Aliased";
                         });

TEST_P(LargeTargetPages, Invariant1OnDemandEveryByteIsTheSnapshots) {
  ExpectContent(memory_.data(), kPages, kTargetBytes, nonzero_);
  EXPECT_EQ(loader_->stats().faulted, 23 * kTargetBytes / HostPageBytes())
      << "the kernel's pages are what is loaded";
}

TEST_P(LargeTargetPages, Invariant1LoadedAheadEveryByteIsTheSnapshots) {
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  ExpectContent(memory_.data(), kPages, kTargetBytes, nonzero_);
}

// The kernel discards its own pages, which are parts of the file's.
TEST_P(LargeTargetPages, Invariant3APartOfAPageThatIsDiscardedIsZeroAndTheRestIsNot) {
  ASSERT_EQ(madvise(memory_.data() + HostPageBytes(), HostPageBytes(),
                    IsShared(GetParam()) ? MADV_REMOVE : MADV_DONTNEED),
            0);
  ASSERT_TRUE(loader_->StartEager().ok());
  ASSERT_TRUE(loader_->Wait().ok());
  std::vector<uint8_t> expected(kTargetBytes);
  FillPagePattern(0, absl::MakeSpan(expected));
  std::fill_n(expected.begin() + static_cast<ptrdiff_t>(HostPageBytes()), HostPageBytes(), 0);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), memory_.data()));
}

// --- Many blocks, and a large one ---

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total, resident;
  statm >> total >> resident;
  return resident * HostPageBytes();
}

TEST(MemoryKinds, FourThousandBlocksAreLoadedAndEachHasItsOwnContent) {
  SKIP_WITHOUT_USERFAULTFD();
  constexpr size_t kBlocks = 4096;
  constexpr uint64_t kPages = 3;
  SnapshotContent content;
  content.pages_alignment = HostPageBytes();
  for (size_t i = 0; i < kBlocks; ++i) {
    content.blocks.push_back({.idstr = "block" + std::to_string(i),
                              .used_length = kPages * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = {{i % kPages, 1}},
                              .fill = [i](uint64_t, absl::Span<uint8_t> page) {
                                std::fill(page.begin(), page.end(),
                                          static_cast<uint8_t>(i % 251 + 1));
                              }});
  }
  GuestMemory memory(kBlocks * kPages * HostPageBytes(), MemoryKind::kPrivate);
  auto loader = SnapshotLoader::Create(Written(content, "many_blocks"), {});
  ASSERT_TRUE(loader.ok()) << loader.status();
  // Neither in the order of addresses nor in that of the file.
  for (size_t i = 0; i < kBlocks; ++i) {
    const size_t block = i * 2731 % kBlocks;
    ASSERT_TRUE((*loader)
                    ->Attach(block, {.host = memory.data() + block * kPages * HostPageBytes(),
                                     .host_page_size = HostPageBytes()})
                    .ok());
  }
  const auto byte_of = [&](size_t block) {
    return memory.data()[(block * kPages + block % kPages) * HostPageBytes()];
  };
  for (size_t block = 0; block < kBlocks; block += 5) {
    ASSERT_EQ(byte_of(block), block % 251 + 1) << block;
  }
  ASSERT_TRUE((*loader)->StartEager().ok());
  ASSERT_TRUE((*loader)->Wait().ok());
  ASSERT_TRUE((*loader)->Detach().ok());
  for (size_t block = 0; block < kBlocks; ++block) {
    ASSERT_EQ(byte_of(block), block % 251 + 1) << block;
    ASSERT_EQ(memory.data()[(block * kPages + (block + 1) % kPages) * HostPageBytes()], 0);
  }
}

// Four bits a page are 128 MiB here.
TEST(MemoryKinds, ATebibyteCostsFourBitsAPageAtMost) {
  SKIP_WITHOUT_USERFAULTFD();
  constexpr uint64_t kPages = uint64_t{1} << 28;
  const uint64_t length = kPages * HostPageBytes();
  void* const memory = mmap(nullptr, length, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) GTEST_SKIP() << "this machine does not map a tebibyte";
  const std::vector<PageRun> nonzero = {{5, 2}, {kPages / 2, 1000}, {kPages - 1, 1}};
  SnapshotContent content;
  content.blocks.push_back(
      {.idstr = "ram", .used_length = length, .page_size = HostPageBytes(), .nonzero = nonzero});
  [[maybe_unused]] const uint64_t before = ResidentBytes();
  auto loader = SnapshotLoader::Create(Written(content, "tebibyte"), {});
  ASSERT_TRUE(loader.ok()) << loader.status();
  ASSERT_TRUE((*loader)->Attach(0, {.host = memory}).ok());
  ASSERT_TRUE((*loader)->StartEager().ok());
  ASSERT_TRUE((*loader)->Wait().ok());
  const auto* const bytes = static_cast<const uint8_t*>(memory);
  EXPECT_EQ(bytes[123 * HostPageBytes()], 0);
  [[maybe_unused]] const uint64_t after = ResidentBytes();
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // whose shadows count, too
  EXPECT_LT(after - before, kPages / 2 + (1003 * HostPageBytes()) + (16 << 20));
#endif
  std::vector<uint8_t> expected(HostPageBytes());
  for (const PageRun& run : nonzero) {
    FillPagePattern(run.end() - 1, absl::MakeSpan(expected));
    EXPECT_TRUE(
        std::equal(expected.begin(), expected.end(), bytes + (run.end() - 1) * HostPageBytes()));
  }
  ASSERT_TRUE((*loader)->Detach().ok());
  munmap(memory, length);
}

// --- What makes no sense ---

TEST(MemoryKinds, MappingsThatDoNotFitAreRefusedInWords) {
  SKIP_WITHOUT_USERFAULTFD();
  SnapshotContent content;
  for (const char* idstr : {"one", "two"}) {
    content.blocks.push_back({.idstr = idstr,
                              .used_length = 16 * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = {{0, 16}}});
  }
  GuestMemory memory(64 * HostPageBytes(), MemoryKind::kPrivate);
  auto loader = SnapshotLoader::Create(Written(content, "misfits"), {});
  ASSERT_TRUE(loader.ok());
  const auto refusal = [&](size_t block, const BlockMapping& mapping) {
    return (*loader)->Attach(block, mapping).ToString();
  };
  EXPECT_THAT(refusal(2, {.host = memory.data()}), HasSubstr("NOT_FOUND"));
  EXPECT_THAT(refusal(0, {.host = memory.data() + 1}), HasSubstr("does not fit"));
  EXPECT_THAT(refusal(0, {.host = memory.data(), .length = 8 * HostPageBytes()}),
              HasSubstr("block \"one\" of 65536 bytes does not fit 32768 bytes"));
  EXPECT_THAT(refusal(0, {.host = nullptr}), HasSubstr("nothing is mapped"));
  EXPECT_THAT(refusal(0, {.host = memory.data(), .alias = memory.data()}),
              HasSubstr("private memory has no alias"));
  ASSERT_TRUE((*loader)->Attach(0, {.host = memory.data()}).ok());
  EXPECT_THAT(refusal(0, {.host = memory.data()}), HasSubstr("ALREADY_EXISTS"));
  EXPECT_THAT(refusal(1, {.host = memory.data() + 8 * HostPageBytes()}),
              HasSubstr("block \"one\" is attached there"));
  EXPECT_TRUE(memory.HoldsPattern(15));
}

// What is written through an alias that is none would go to somebody else's memory.
TEST(MemoryKinds, AnAliasOfOtherBytesIsRefused) {
  SKIP_WITHOUT_USERFAULTFD();
  GuestMemory memory(64 * HostPageBytes(), MemoryKind::kAliased);
  const GuestMemory other(64 * HostPageBytes(), MemoryKind::kShared);
  auto loader = SnapshotLoader::Create(OneBlockSnapshot(64, {{0, 64}}), {});
  ASSERT_TRUE(loader.ok());
  const BlockMapping mapping = memory.mapping();
  for (uint8_t* const wrong : {other.data(), memory.data() + HostPageBytes(),
                               static_cast<uint8_t*>(mapping.alias) + HostPageBytes()}) {
    BlockMapping with_wrong = mapping;
    with_wrong.alias = wrong;
    EXPECT_THAT((*loader)->Attach(0, with_wrong).ToString(),
                HasSubstr("not a mapping of the same bytes"));
  }
  EXPECT_TRUE((*loader)->Attach(0, mapping).ok());
  EXPECT_TRUE(memory.HoldsPattern(63));
}

TEST(MemoryKinds, MemoryThatIsNotAsItIsSaidToBeIsRefused) {
  SKIP_WITHOUT_USERFAULTFD();
  const GuestMemory memory(64 * HostPageBytes(), MemoryKind::kPrivate);
  const GuestMemory shared(64 * HostPageBytes(), MemoryKind::kShared);
  auto loader = SnapshotLoader::Create(OneBlockSnapshot(64, {{0, 64}}), {});
  ASSERT_TRUE(loader.ok());
  BlockMapping wrong = memory.mapping();
  wrong.memory = BlockMemory::kShared;
  EXPECT_THAT((*loader)->Attach(0, wrong).ToString(), HasSubstr("its memory is private"));
  wrong = shared.mapping();
  wrong.memory = BlockMemory::kPrivate;
  EXPECT_THAT((*loader)->Attach(0, wrong).ToString(), HasSubstr("its memory is shared"));
}

TEST(MemoryKinds, AMappingsPageSizeIsFoundOut) {
  const int here = 0;
  const absl::StatusOr<KernelMapping> found = MappingAt(reinterpret_cast<uintptr_t>(&here));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->page_bytes, HostPageBytes());
  EXPECT_FALSE(found->shared);
  EXPECT_EQ(found->inode, 0u);
  EXPECT_FALSE(MappingAt(0).ok());
}

// --- A descriptor of the caller's ---

TEST(MemoryKinds, ADescriptorOfTheCallerServesAndStaysTheCallers) {
  SKIP_WITHOUT_USERFAULTFD();
  absl::StatusOr<Userfaultfd> given = Userfaultfd::Open();
  ASSERT_TRUE(given.ok());
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate, {.uffd = given->fd()});
  EXPECT_TRUE(load.memory.HoldsPattern(7));
  load.memory.MadviseDontNeed(8, 1);
  EXPECT_TRUE(load.memory.HoldsZeros(8));
  ASSERT_TRUE(load.loader->StartEager().ok());
  ASSERT_TRUE(load.loader->Wait().ok());
  ASSERT_TRUE(load.loader->Detach().ok());
  EXPECT_EQ(fcntl(given->fd(), F_GETFD), FD_CLOEXEC) << "it was a duplicate that was closed";
}

TEST(MemoryKinds, ADescriptorWithoutItsHandshakeIsCompleted) {
  SKIP_WITHOUT_USERFAULTFD();
  const int raw = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));  // and blocking
  if (raw < 0) GTEST_SKIP() << "userfaultfd(2) is not for this user";
  OneBlockLoad load(64, {{0, 64}}, MemoryKind::kPrivate, {.uffd = raw});
  close(raw);
  load.memory.MadviseDontNeed(8, 1);
  EXPECT_TRUE(load.memory.HoldsZeros(8)) << "discards are reported";
  EXPECT_TRUE(load.memory.HoldsPattern(7));
}

TEST(MemoryKinds, WhatIsNoUserfaultfdIsRefused) {
  auto loader = SnapshotLoader::Create(OneBlockSnapshot(4, {}), {.uffd = STDOUT_FILENO});
  ASSERT_FALSE(loader.ok());
  EXPECT_THAT(loader.status().ToString(), HasSubstr("descriptor 1 is no userfaultfd"));
}

}  // namespace
}  // namespace ramjet
