// How asking for a page ends, and for how long one that fails is asked for again.
#ifndef RAMJET_LOADER_OUTCOME_H_
#define RAMJET_LOADER_OUTCOME_H_

#include <cstdint>

#include "absl/status/status.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// How a page's trip ended for the thread that asked.
enum class Outcome {
  kLoaded,    // it is there now, and every thread that slept on it is awake
  kInFlight,  // somebody else has claimed it; the claimant's wake will come
  kReceived,  // it had arrived before; the page was there, or, if discarded since, is zero now
  kAgain,     // the mapping is changing: nothing is claimed, the waiter sleeps on, ask again soon
  kNoMemory,  // the kernel had no page to give: as kAgain, but worth asking only so often
  kUnread,    // the file could not be read, which may pass: as kNoMemory
  kDamaged,   // the file has something else there, or the kernel refuses the page: as kUnread
  kLost,      // it cannot be had, and stays claimed: the caller is to call GiveUp()
  kFailed,    // it cannot be had: poisoned, or the VM is being stopped
};

// That of a read that has failed: kNoMemory, kUnread or kDamaged.
Outcome OutcomeOf(const absl::Status& read);

// How long a page is asked for again that cannot be read, if the disk may yet give it, and if the
// file has something else there or has ended: long enough for a disk that is gone for a moment, and
// short enough for a guest that is better told of a broken one. Only such failures use this time
// up. What a page waits for memory is left out of it. Damage begins anew when the disk was gone.
inline constexpr uint64_t kMaxUnreadNs = 2'000'000'000;
inline constexpr uint64_t kMaxDamagedNs = 60'000'000;

// Of one page that is asked for again and again.
class FailingSince {
 public:
  // The outcome of an attempt. Times are of MonotonicNs().
  void Note(Outcome outcome, uint64_t now_ns);
  // Whether the page is lost if this is the next outcome.
  bool IsLost(Outcome outcome, uint64_t now_ns) const;
  bool unread() const { return unread_ns_ != 0; }

 private:
  // When it would have begun, had nothing else been in between; 0: it has not failed so.
  uint64_t unread_ns_ = 0;  // or damaged: no page in any case
  uint64_t damaged_ns_ = 0;
  uint64_t noted_ns_ = 0;
};

// Of all pages of a block, which somebody looks at again and again. There are bits for each page,
// and no times: a patience begins when a first look has ended, and a page is lost if it fails when
// it is over, and has failed in that look and in each part of it. As one patience of the block
// follows another, a page may be asked for twice as long.
//
// Threads: one at a time.
class FailingPages {
 public:
  explicit FailingPages(uint64_t pages) : pages_(pages) {}

  uint64_t pages() const { return pages_; }
  void BeginLook(uint64_t now_ns);
  // In a look, once for each page that fails. True: it is lost.
  bool NoteAndTell(uint64_t page, Outcome outcome);

 private:
  static constexpr uint64_t kParts = 4;
  struct Patience {
    void BeginLook(uint64_t pages, uint64_t length_ns, uint64_t now_ns);
    void Forget(uint64_t page);

    uint64_t begun_ns = 0;   // 0: the first look is going on
    uint64_t part = kParts;  // of kParts, and then one look that tells
    PageBitmap before;       // which have failed in all parts before this; empty in the first
    PageBitmap now;          // and in this
  };

  uint64_t pages_;
  Patience unread_;
  Patience damaged_;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_OUTCOME_H_
