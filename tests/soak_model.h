// What guest memory must hold, and where it comes from: a snapshot of random layout, on storage
// that fails.
#ifndef RAMJET_TESTS_SOAK_MODEL_H_
#define RAMJET_TESTS_SOAK_MODEL_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"
#include "tests/loader_testing.h"

namespace ramjet::soak {

// Ends the program with status 1.
[[noreturn]] void Die(const std::string& why);
void CheckOk(const absl::Status& status, const char* what);

// --- chance ---

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t z = a * 0x9e3779b97f4a7c15 + b + 0x632be59bd9b4e019;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// The same on every machine, which the standard's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() { return Mix(state_, ++count_); }
  uint64_t Below(uint64_t limit) { return Next() % limit; }
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }
  bool Percent(uint64_t percent) { return Below(100) < percent; }

 private:
  uint64_t state_;
  uint64_t count_ = 0;
};

// --- content ---

using Word = uint64_t;

inline size_t WordsPerPage() { return HostPageBytes() / sizeof(Word); }

// Versions: 0 is a zero, this is what the file holds, and guests count their writes from 1.
inline constexpr uint32_t kOriginal = 0x80000000;

// The upper half says where the word belongs, so that one in a wrong place is never taken for
// right; the lower half says who wrote it.
struct PageWords {
  PageWords(uint64_t salt, size_t block, uint64_t page)
      : place(Mix(salt, (uint64_t{block} << 40) + page)) {}
  Word At(size_t i, uint32_t version) const {
    if (version == 0) return 0;
    return Word{static_cast<uint32_t>((place + i * 0x9e3779b97f4a7c15) >> 32) | 1} << 32 | version;
  }
  uint64_t place;
};

inline constexpr size_t kSlots = 8;  // a page is written whole or a slot at a time

// What a page is to hold: `base` with newer slots over it.
struct PageModel {
  uint32_t base = 0;  // kOriginal, or 0 for zeros
  std::array<uint32_t, kSlots> written{};
  bool unmapped = false;
  uint32_t VersionOf(size_t i) const {
    const uint32_t version = written[i / (WordsPerPage() / kSlots)];
    return version != 0 ? version : base;
  }
};

// --- snapshots ---

// Written to a file when it is made.
struct Layout {
  struct Block {
    uint64_t pages;
    std::vector<PageRun> nonzero;
    std::vector<bool> has;  // by page
  };
  uint64_t salt = 0;
  std::vector<Block> blocks;
  int fd = -1;              // of the snapshot, which has no name any more
  std::string working_set;  // the path of one: a third of all pages with content, in any order

  Layout(uint64_t memory_mib, uint64_t seed);
  ~Layout();
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  std::shared_ptr<Snapshot> Open() const;

 private:
  void WriteWorkingSet(Random& random) const;
};

// --- storage ---

// How storage treats a page.
enum class Fate : uint8_t {
  kSound,   // arrives; reads may fail once or twice before that
  kShaky,   // arrives after some more
  kBroken,  // never arrives
};

// Storage that fails for some pages, for a while or for ever, stalls now and then, is gone for
// moments, and lacks memory.
class Storage : public PageSource {
 public:
  Storage(const Layout& layout, const Snapshot& snapshot, uint64_t seed, bool may_poison);

  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    const absl::Status status = snapshot_.ReadPages(block, offset, buffer);
    const PageRun run{offset / HostPageBytes(), buffer.size() / HostPageBytes()};
    const absl::Status injected = Inject(block, run);
    return injected.ok() ? status : injected;
  }

  // Now so, now so.
  uint64_t CachedBytes(size_t, uint64_t, uint64_t length) const override {
    return Mix(seed_ ^ 1, reads_.fetch_add(1)) % 4 != 0 ? length : 0;
  }

  Fate fate(size_t block, uint64_t page) const { return pages_[block][page].fate; }
  bool any_broken(size_t block) const {
    return std::any_of(pages_[block].begin(), pages_[block].end(),
                       [](const Page& page) { return page.fate == Fate::kBroken; });
  }
  // From now on nothing stalls and what can be read is read at once.
  void Settle() { settled_.store(true); }

 private:
  static constexpr uint8_t kForEver = 255;
  struct Page {
    Fate fate = Fate::kSound;
    bool data_loss = false;
    mutable std::atomic<uint8_t> failures{0};  // still to come
  };
  absl::Status Inject(size_t block, PageRun run) const;
  bool IsGone() const;

  // Of the moments in which nothing can be read: when each begins, after the storage was made, and
  // how long it lasts. Shorter than anybody's patience.
  struct Blip {
    uint64_t from_ns;
    uint64_t length_ns;
  };
  const Snapshot& snapshot_;
  const uint64_t seed_;
  const uint64_t made_ns_;
  std::vector<Blip> blips_;
  uint64_t no_memory_per_10000_ = 0;
  uint64_t stalls_per_10000_ = 0;
  std::vector<std::vector<Page>> pages_;        // by block
  std::vector<std::vector<uint64_t>> failing_;  // pages that ever fail, rising; by block
  mutable std::atomic<uint64_t> reads_{0};
  std::atomic<bool> settled_{false};
};

}  // namespace ramjet::soak

#endif  // RAMJET_TESTS_SOAK_MODEL_H_
