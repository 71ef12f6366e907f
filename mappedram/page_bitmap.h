// One bit per page, which any thread may change at any time.
#ifndef RAMJET_MAPPEDRAM_PAGE_BITMAP_H_
#define RAMJET_MAPPEDRAM_PAGE_BITMAP_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace ramjet {

// Pages [first, first + count) of one block. Half-open.
struct PageRun {
  uint64_t first = 0;
  uint64_t count = 0;

  uint64_t end() const { return first + count; }
  friend bool operator==(const PageRun&, const PageRun&) = default;
};

// A fixed number of bits, one per page of a RAM block.
//
// Bits past size() in the last word are always clear. Memory of a large one is mapped, not written:
// a bitmap of clear bits costs nothing until a bit is set, however large the block is (a 1 TiB
// guest has 2^28 pages). A small one comes from the heap, so that thousands of small blocks do not
// cost a page each.
//
// Threads: every method but the moves may be called concurrently. A bit changes atomically, as does
// a whole word; a longer range does not: readers may see part of it. Memory order: setting a bit
// releases and seeing it set acquires, so what preceded the setting is visible to a thread that
// sees the bit.
class PageBitmap {
 public:
  static constexpr uint64_t kPagesPerWord = 64;

  PageBitmap() = default;
  // All bits clear. REQUIRES: the words fit into memory; a failure ends the program, as one of
  // `new` would.
  explicit PageBitmap(uint64_t pages);
  PageBitmap(PageBitmap&& other) noexcept;
  PageBitmap& operator=(PageBitmap&& other) noexcept;
  ~PageBitmap();

  // For one that is about to be filled, as from a file: takes its memory in large pages, if there
  // are any, for to take it in small ones takes longer than to fill it.
  void ExpectToBeFilled();

  uint64_t size() const { return pages_; }
  // The words as they lie in memory, and on disk: page i is bit i % 64 of word i / 64.
  uint64_t word_count() const { return (pages_ + kPagesPerWord - 1) / kPagesPerWord; }
  std::atomic<uint64_t>* words() { return words_; }

  // REQUIRES, for all that follow: page < size(), run.end() <= size().
  bool Test(uint64_t page) const;
  // Sets, or clears, the bit and returns its previous value: of several callers exactly one sees
  // the change.
  bool TestAndSet(uint64_t page);
  bool TestAndClear(uint64_t page);
  // Sets, or clears, every bit of `run`, a word at a time; returns how many of them changed.
  uint64_t SetRun(PageRun run);
  uint64_t ClearRun(PageRun run);

  // Sets the longest run of clear bits that begins at run.first and stays in `run`, a word at a
  // time; returns its length. Never sets a bit behind one that was set already, so nothing has to
  // be taken back.
  uint64_t SetLeadingClear(PageRun run);

  uint64_t CountRun(PageRun run) const;
  uint64_t Count() const { return CountRun({0, pages_}); }

  // The first maximal run of equal bits `value` that begins at or after `page` and before `limit`,
  // cut off at `limit`. nullopt if there is none. REQUIRES: limit <= size().
  std::optional<PageRun> FindRun(bool value, uint64_t page, uint64_t limit) const;

 private:
  static constexpr uint64_t kMinMappedWords = 4096;
  bool mapped() const { return word_count() >= kMinMappedWords; }

  uint64_t pages_ = 0;
  std::atomic<uint64_t>* words_ = nullptr;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_PAGE_BITMAP_H_
