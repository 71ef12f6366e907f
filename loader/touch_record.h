// Which pages somebody touched before they were there, in order of first touch.
#ifndef RAMJET_LOADER_TOUCH_RECORD_H_
#define RAMJET_LOADER_TOUCH_RECORD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "loader/working_set.h"
#include "mappedram/snapshot_description.h"

namespace ramjet {

// A list that grows without allocating: its memory is reserved, not written, and costs 8 bytes for
// each page noted.
//
// Threads: Note() is for the fault thread alone; the other methods may be called concurrently with
// it and with each other.
class TouchRecord {
 public:
  class Touch {
   public:
    Touch(size_t block, uint64_t page) : packed_(block << kPageBits | page) {}
    size_t block() const { return packed_ >> kPageBits; }        // its index in Snapshot::blocks()
    uint64_t page() const { return packed_ & (kMaxPages - 1); }  // of the memory

   private:
    uint64_t packed_;
  };
  static constexpr int kPageBits = 44;
  static constexpr uint64_t kMaxPages = uint64_t{1} << kPageBits;  // of a block
  static constexpr size_t kMaxBlocks = size_t{1} << (64 - kPageBits);

  // Room for `pages` pages. ResourceExhausted: not even address space for that.
  static absl::StatusOr<std::unique_ptr<TouchRecord>> Create(uint64_t pages);
  TouchRecord(const TouchRecord&) = delete;
  TouchRecord& operator=(const TouchRecord&) = delete;
  ~TouchRecord();

  // Somebody sleeps on `page`, which is pending and not zero. REQUIRES: kMaxBlocks and kMaxPages
  // hold. A page may be noted twice; what finds no room is not.
  void Note(size_t block, uint64_t page) {
    const size_t count = count_.load(std::memory_order_relaxed);  // its only writer is this thread
    if (count == room_ || stopped_.load(std::memory_order_relaxed)) return;
    touches_[count] = Touch(block, page);
    count_.store(count + 1, std::memory_order_release);
  }

  // What is touched from now on is not the guest's choice alone. A note under way may still come.
  void Stop() { stopped_.store(true, std::memory_order_relaxed); }

  // So far. Valid as long as the record.
  absl::Span<const Touch> touches() const {
    return {touches_, count_.load(std::memory_order_acquire)};
  }

 private:
  TouchRecord(Touch* touches, size_t room) : touches_(touches), room_(room) {}

  Touch* const touches_;
  const size_t room_;
  std::atomic<size_t> count_{0};  // those below it are never written again
  std::atomic<bool> stopped_{false};
};

// What was touched, in pages of the file and each of them once. `page_bytes` has the size of the
// memory's pages for each of `blocks`, or 0: not attached, so nothing of it was touched.
WorkingSet ToWorkingSet(absl::Span<const TouchRecord::Touch> touches,
                        absl::Span<const SnapshotBlock> blocks,
                        absl::Span<const uint64_t> page_bytes, uint64_t snapshot_digest);

}  // namespace ramjet

#endif  // RAMJET_LOADER_TOUCH_RECORD_H_
