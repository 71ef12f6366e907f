// Keeps reading ahead out of the way of reading on demand.
#ifndef RAMJET_LOADER_READ_PACER_H_
#define RAMJET_LOADER_READ_PACER_H_

#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/page_source.h"

namespace ramjet {

// Three faces of one snapshot: demand() for single pages that somebody sleeps on, demand_bulk() for
// much at once that somebody sleeps on, bulk() for all others.
//
// A disk serves what it was asked for first, so a fault waits for all bulk reads that are queued:
// with megabytes of them its 50 us become 10 ms and more. Bulk reads are therefore cut into pieces,
// which are the smallest while faults come one upon the other, stay as they are while some do, and
// double with each piece in which none did. Until they are the largest, and if the source turns out
// to be as slow as a disk, one piece is read at a time, however many threads load ahead. What comes
// from the page cache queues nowhere, and is not held up.
//
// Once no fault has come for a while, bulk reads may also be under way without anybody waiting for
// them (BeginRead()), until the next: so much that the disk never rests, and no more than that.
//
// The demand sides take no lock and wait for nothing but the disk.
//
// Threads: all faces may be used by any number of threads.
class ReadPacer {
 public:
  static constexpr uint64_t kMinPieceBytes = 256 << 10;
  static constexpr uint64_t kMaxPieceBytes = 2 << 20;
  static constexpr uint64_t kMaxQueuedBytes = 8 << 20;  // under way, with those that have begun

  // Two ways to the same pages, both of which outlive the pacer.
  ReadPacer(const PageSource& demand_source, const PageSource& bulk_source)
      : demand_source_(demand_source),
        bulk_source_(bulk_source),
        demand_(*this),
        demand_bulk_(*this),
        bulk_(*this) {}
  ReadPacer(const ReadPacer&) = delete;
  ReadPacer& operator=(const ReadPacer&) = delete;

  const PageSource& demand() const { return demand_; }
  const PageSource& demand_bulk() const { return demand_bulk_; }
  const PageSource& bulk() const { return bulk_; }

  // From now on bulk reads take no notice of demands: all that is left is needed.
  void Hurry() { hurried_.store(true, std::memory_order_relaxed); }

  // The last bulk read took as long as one from a disk; true before the first.
  bool waits_for_disk() const { return slow_.load(std::memory_order_relaxed); }

 private:
  class Demand : public PageSource {
   public:
    explicit Demand(ReadPacer& pacer) : pacer_(pacer) {}
    absl::Status ReadPages(size_t block, uint64_t offset,
                           absl::Span<uint8_t> buffer) const override;
    // Counts for nothing: no disk is asked.
    absl::Status ReadCached(size_t block, uint64_t offset,
                            absl::Span<uint8_t> buffer) const override {
      return pacer_.demand_source_.ReadCached(block, offset, buffer);
    }
    void Prefetch(size_t block, uint64_t offset, uint64_t length) const override {
      pacer_.demand_source_.Prefetch(block, offset, length);
    }

   private:
    ReadPacer& pacer_;
  };
  // The bulk source's way, past the page cache where that is faster, but in one piece and at once.
  class DemandBulk : public PageSource {
   public:
    explicit DemandBulk(ReadPacer& pacer) : pacer_(pacer) {}
    absl::Status ReadPages(size_t block, uint64_t offset,
                           absl::Span<uint8_t> buffer) const override;

   private:
    ReadPacer& pacer_;
  };
  class Bulk : public PageSource {
   public:
    explicit Bulk(ReadPacer& pacer) : pacer_(pacer) {}
    absl::Status ReadPages(size_t block, uint64_t offset,
                           absl::Span<uint8_t> buffer) const override;
    void InTurn(absl::FunctionRef<void()> prepare) const override;
    bool BeginRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                   absl::Span<uint8_t> buffer) const override;
    absl::Status EndRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                         absl::Span<uint8_t> buffer) const override;
    void Prefetch(size_t block, uint64_t offset, uint64_t length) const override {
      pacer_.demand_source_.Prefetch(block, offset, length);
    }
    uint64_t CachedBytes(size_t block, uint64_t offset, uint64_t length) const override {
      return pacer_.bulk_source_.CachedBytes(block, offset, length);
    }

   private:
    ReadPacer& pacer_;
  };

  uint64_t NextBytes();
  std::unique_lock<std::mutex> AwaitTurn(uint64_t piece_bytes);
  absl::Status ReadPiece(size_t block, uint64_t offset, absl::Span<uint8_t> piece);

  const PageSource& demand_source_;
  const PageSource& bulk_source_;
  const Demand demand_;
  const DemandBulk demand_bulk_;
  const Bulk bulk_;

  // relaxed throughout: what one side sees late makes a fault a little slower, and nothing wrong.
  std::atomic<uint64_t> demands_begun_{0};  // so far
  std::atomic<uint64_t> demands_seen_{0};   // of those, when the last piece began
  std::atomic<int64_t> last_piece_ns_{0};   // when that was; 0: never
  std::atomic<int64_t> busy_ns_{0};         // when a piece last saw a demand, or was the first
  // Of a piece, or, if more than its maximum, of all that may be under way. Grows from the smallest
  // on, for a guest's first faults come right after its resume.
  std::atomic<uint64_t> bytes_{kMinPieceBytes};
  std::atomic<uint64_t> under_way_bytes_{0};  // of pieces and of what has begun
  std::atomic<bool> slow_{true};              // the last piece came as from a disk
  std::atomic<bool> hurried_{false};
  std::mutex turn_;  // of bulk reads while they come one at a time
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_READ_PACER_H_
