// Damages a file that a real QEMU wrote, thousands of times and in ways that know its structure,
// and asks Snapshot to make something of it. Whatever it says, it must say it: no crash, no hang,
// no sanitizer's complaint, and no contradiction.
//
// RAMJET_MUTATION_SEED and RAMJET_MUTATIONS choose what is tried; a failure prints both the
// seed and the mutation.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/stream.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

constexpr char kExtentsPath[] = "tests/corpus/microvm.extents";
constexpr int kBatch = 500;
constexpr unsigned kBatchSeconds = 60;

// Bytes of a sparse file.
struct Extent {
  uint64_t offset = 0;
  std::string bytes;
};

struct SparseFile {
  uint64_t size = 0;
  std::vector<Extent> extents;  // in order; the last one ends the file
};

SparseFile ReadExtents(const std::string& path) {
  SparseFile sparse;
  const absl::StatusOr<File> file = File::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  StreamReader reader(*file, 0);
  sparse.size = reader.ReadBe64();
  while (reader.ok() && reader.remaining() > 0) {
    const uint64_t offset = reader.ReadBe64();
    sparse.extents.push_back({offset, reader.ReadString(reader.ReadBe64())});
  }
  EXPECT_TRUE(reader.ok()) << reader.status();
  return sparse;
}

uint64_t NumberFrom(const char* variable, uint64_t otherwise) {
  const char* text = getenv(variable);
  return text == nullptr ? otherwise : strtoull(text, nullptr, 0);
}

// One change of one extent. Insertions and deletions only in the last, behind which nothing has a
// fixed place.
class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  void Mutate(SparseFile& sparse) {
    Extent& extent = sparse.extents[Below(sparse.extents.size())];
    const bool is_last = &extent == &sparse.extents.back();
    switch (Below(is_last ? 9 : 5)) {
      case 0:
        Byte(extent) = static_cast<char>(Byte(extent) ^ (1 << Below(8)));
        break;
      case 1:
        Byte(extent) = static_cast<char>(Below(256));
        break;
      case 2:
      case 3:
        PutNumber(extent.bytes);
        break;
      case 4:
        sparse.size =
            Below(4) == 0 ? Below(sparse.size) : extent.offset + Below(extent.bytes.size());
        break;
      case 5:
        extent.bytes.erase(Below(extent.bytes.size()), Length());
        break;
      case 6:
        extent.bytes.insert(Below(extent.bytes.size()), Length(), static_cast<char>(Below(256)));
        break;
      case 7: {  // a piece stands twice
        const std::string piece = extent.bytes.substr(Below(extent.bytes.size()), Length());
        extent.bytes.insert(Below(extent.bytes.size()), piece);
        break;
      }
      default: {  // two pieces in each other's place
        const size_t length = Length();
        if (extent.bytes.size() < 2 * length) break;
        const size_t first = Below(extent.bytes.size() - 2 * length + 1);
        std::swap_ranges(extent.bytes.begin() + first, extent.bytes.begin() + first + length,
                         extent.bytes.begin() + first + length);
      }
    }
    if (is_last && sparse.size > extent.offset) sparse.size = extent.offset + extent.bytes.size();
  }

  uint64_t Below(uint64_t bound) { return bound == 0 ? 0 : random_() % bound; }

 private:
  char& Byte(Extent& extent) { return extent.bytes[Below(extent.bytes.size())]; }
  size_t Length() { return Below(3) == 0 ? Below(2000) : 1 + Below(16); }

  // A number of which parsers are afraid, as wide as the format's are, anywhere.
  void PutNumber(std::string& bytes) {
    constexpr uint64_t kNumbers[] = {0,
                                     1,
                                     2,
                                     3,
                                     4,
                                     5,
                                     6,
                                     7,
                                     8,
                                     0x10,
                                     0x7e,
                                     0xff,
                                     0x100,
                                     0x1000,
                                     0xffff,
                                     0x10000,
                                     0x100000,
                                     0x7fffffff,
                                     1u << 31,
                                     0xffffffff,
                                     uint64_t{1} << 32,
                                     uint64_t{1} << 46,
                                     (uint64_t{1} << 63) - 1,
                                     uint64_t{1} << 63,
                                     ~uint64_t{0xfff},
                                     ~uint64_t{0}};
    const int width = 1 << Below(4);
    if (bytes.size() < static_cast<size_t>(width)) return;
    Patch(bytes, Below(bytes.size() - width + 1),
          BigEndian(kNumbers[Below(std::size(kNumbers))], width));
  }

  std::mt19937_64 random_;
};

class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("mutation", MFD_CLOEXEC)) {}
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(fd_); }

  void Write(const SparseFile& sparse) const {
    ASSERT_EQ(ftruncate(fd_, 0), 0);
    for (const Extent& extent : sparse.extents) {
      ASSERT_EQ(
          pwrite(fd_, extent.bytes.data(), extent.bytes.size(), static_cast<off_t>(extent.offset)),
          static_cast<ssize_t>(extent.bytes.size()));
    }
    ASSERT_EQ(ftruncate(fd_, static_cast<off_t>(sparse.size)), 0);
  }

  File Open() const {
    absl::StatusOr<File> file = File::Reopen(fd_, "mutation");
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }

 private:
  int fd_;
};

// Describe and Open agree, and what they say can be true.
void ExpectNoContradiction(const MemoryFile& memory) {
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(memory.Open());
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(memory.Open());
  ASSERT_EQ(snapshot.ok(), description.ok() && description->complete.ok()) << snapshot.status();
  if (!description.ok()) {
    ASSERT_EQ(snapshot.status(), description.status());
    ASSERT_EQ(description.status().message().find('\n'), absl::string_view::npos);
    return;
  }
  ASSERT_FALSE(description->blocks.empty());
  if (!snapshot.ok()) return;
  const uint64_t size = (*snapshot)->file().size();
  for (size_t i = 0; i < description->blocks.size(); ++i) {
    const SnapshotBlock& block = description->blocks[i];
    const PageBitmap nonzero = (*snapshot)->TakeNonzero(i);
    ASSERT_EQ(nonzero.size(), block.pages());
    ASSERT_EQ(nonzero.Count(), block.nonzero_pages);
    ASSERT_LE(block.pages_end(), size);
    const auto run = nonzero.FindRun(true, 0, nonzero.size());
    if (!run.has_value()) continue;
    std::vector<uint8_t> page(block.page_size);
    ASSERT_EQ((*snapshot)->ReadPages(i, (run->end() - 1) * block.page_size, absl::MakeSpan(page)),
              absl::OkStatus());
  }
  for (const DeviceSection& device : description->devices) {
    ASSERT_LT(device.offset + device.size, description->eof_offset);
  }
}

TEST(Mutation, CorpusIsAWholeFile) {
  const MemoryFile memory;
  memory.Write(ReadExtents(kExtentsPath));
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(memory.Open());
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->complete, absl::OkStatus());
  EXPECT_EQ(description->machine, "microvm");
  EXPECT_EQ(description->devices.size(), 14);
}

TEST(Mutation, DamagedFileIsRefusedOrDescribedWithoutContradiction) {
  const uint64_t seed = NumberFrom("RAMJET_MUTATION_SEED", 1);
  const uint64_t mutations = NumberFrom("RAMJET_MUTATIONS", 20000);
  std::cout << "RAMJET_MUTATION_SEED=" << seed << " RAMJET_MUTATIONS=" << mutations << std::endl;
  const SparseFile whole = ReadExtents(kExtentsPath);
  struct Shared {
    std::atomic<uint64_t> current = 0;
    std::atomic<uint64_t> opened = 0;
  };
  // Outlives a child that does not.
  auto* const shared =
      new (mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
          Shared;
  for (uint64_t first = 0; first < mutations; first += kBatch) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(kBatchSeconds);
      const MemoryFile memory;
      for (uint64_t i = first; i < std::min(first + kBatch, mutations); ++i) {
        shared->current = i;
        Mutator mutator(seed * 1000003 + i);
        SparseFile mutated = whole;
        for (uint64_t changes = 1 + mutator.Below(3); changes > 0; --changes) {
          mutator.Mutate(mutated);
        }
        memory.Write(mutated);
        ExpectNoContradiction(memory);
        if (testing::Test::HasFailure()) _exit(1);
        shared->opened += Snapshot::Open(memory.Open()).ok() ? 1 : 0;
      }
      _exit(0);
    }
    ASSERT_GT(child, 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "hang"
                                                                                : "failure")
                         << " at mutation " << shared->current << " of seed " << seed;
  }
  std::cout << shared->opened << " of them left a file that can be loaded" << std::endl;
  munmap(shared, sizeof(Shared));
}

}  // namespace
}  // namespace ramjet
