// A large state that arrives in numbered pieces, in whatever order, from several threads.
#ifndef RAMJET_LOADER_INDEXED_BUFFERS_H_
#define RAMJET_LOADER_INDEXED_BUFFERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace ramjet {

class IndexedBuffers;

// What the queues of several IndexedBuffers, say those of all devices, may hold together: whoever
// would exceed it waits, and so long as queues that hold something get on, that ends. The buffer
// that is next in its own queue never waits, nor does it count.
//
// Threads: may be shared by queues that any threads use. But no thread brings buffers to two of
// them: one that waits at the first could be what the second lacks, and nobody would know.
class QueueLimit {
 public:
  explicit QueueLimit(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  QueueLimit(const QueueLimit&) = delete;
  QueueLimit& operator=(const QueueLimit&) = delete;

  // The most that all together ever held, as IndexedBuffers::max_queued_bytes().
  uint64_t max_queued_bytes() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  friend class IndexedBuffers;

  const uint64_t limit_bytes_;
  // Of the queues, too: what one gives back may let another's producer pass.
  mutable absl::Mutex mu_;
  uint64_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t max_queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<IndexedBuffers*> queues_ ABSL_GUARDED_BY(mu_);
};

// Hands buffers 0 to count - 1 to one consumer, in that order or, if it does not care, as they
// come. What is early is copied to a queue of limited size; whoever would exceed it waits. The
// buffer that is next never waits, for it goes straight from the producer's memory to the consumer,
// so the limit is never exceeded.
//
//   absl::StatusOr<std::unique_ptr<IndexedBuffers>> buffers = IndexedBuffers::Create(
//       {.count = 100, .limit_bytes = 64 << 20, .producers = 2}, consume);
//   ... each of two threads:    (*buffers)->Put(index, bytes);  for what it has, then
//                               (*buffers)->EndProducer();
//   ... whoever needs all of it: absl::Status complete = (*buffers)->Wait();
//
// Where each producer brings its own buffers in ascending order, any limit will do: the one who has
// the next is never kept from bringing it. Otherwise a queue may be too small, as its place goes to
// whoever comes first. That is an error and no deadlock, for it is known how many producers there
// are: if all that are left wait with buffers that are too early, nobody can bring the next.
//
// Errors end the whole: every call that waits, and every later one, returns the first. DataLoss: an
// index that is too high, that came before, or that nobody has brought. ResourceExhausted: the
// queue is too small, as said above. The consumer's error is passed on as it is.
//
// Threads: every method may be called concurrently; the consumer must not call any.
class IndexedBuffers {
 public:
  // `bytes` are valid during the call. Called by the producers' threads: one at a time, and what
  // one call did is visible to the next; but with any_order concurrently.
  using Consumer = std::function<absl::Status(uint64_t index, absl::Span<const uint8_t> bytes)>;

  // An index is 24 bits: of a bad number, a count must not allocate memory without bounds.
  static constexpr uint64_t kMaxCount = uint64_t{1} << 24;
  // What a buffer in the queue takes besides its bytes. Counts, so that empty ones are limited too.
  static constexpr uint64_t kEntryBytes = 128;

  struct Options {
    uint64_t count = 0;
    uint64_t limit_bytes = 0;  // of the queue; 0: each producer waits for its turn
    int producers = 1;         // each of which will call EndProducer()
    bool any_order = false;    // nothing is queued then, and nobody waits
    // Of this queue and others; nullptr: of this one there is no more than its own.
    std::shared_ptr<QueueLimit> limit_of_all = nullptr;
  };
  // InvalidArgument: too many buffers, or no producer.
  static absl::StatusOr<std::unique_ptr<IndexedBuffers>> Create(const Options& options,
                                                                Consumer consumer);
  IndexedBuffers(const IndexedBuffers&) = delete;
  IndexedBuffers& operator=(const IndexedBuffers&) = delete;
  // REQUIRES: nobody is in a call.
  ~IndexedBuffers();

  // For a producer that is yet to read buffer `index`: makes `memory` `bytes` long when it is next,
  // or when limit_of_all has room for it, which then is taken until its turn has come. While it
  // waits for that, there is no memory. Put() of the same index follows, or the end of the whole.
  absl::Status Reserve(uint64_t index, uint64_t bytes, std::vector<uint8_t>& memory)
      ABSL_LOCKS_EXCLUDED(all_->mu_);

  // Returns when `bytes`, which stay the caller's, are consumed or queued.
  absl::Status Put(uint64_t index, absl::Span<const uint8_t> bytes) ABSL_LOCKS_EXCLUDED(all_->mu_);

  // One more producer; false: the last has ended, and there is nothing to bring.
  bool AddProducer() ABSL_LOCKS_EXCLUDED(all_->mu_);
  // Returns the first error so far.
  absl::Status EndProducer() ABSL_LOCKS_EXCLUDED(all_->mu_);

  // Waits until all producers have ended. OK: all was consumed.
  absl::Status Wait() ABSL_LOCKS_EXCLUDED(all_->mu_);

  // Ends the whole by an error, unless there was one before.
  void Cancel(const absl::Status& why) ABSL_LOCKS_EXCLUDED(all_->mu_);

  // The most that was ever in the queue, with kEntryBytes for each buffer.
  uint64_t max_queued_bytes() const ABSL_LOCKS_EXCLUDED(all_->mu_);

 private:
  struct Early {
    uint64_t cost = 0;
    std::optional<std::vector<uint8_t>> bytes = {};  // nullopt: somebody copies them
  };
  // Who is in Put() or Reserve().
  struct Waiting {
    uint64_t cost = 0;
    bool to_read = false;  // in Reserve()
  };

  IndexedBuffers(const Options& options, Consumer consumer);
  absl::Status CheckNew(uint64_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  absl::Status Fail(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  // Waits until it may pass; returns what has failed.
  absl::Status AwaitTurn(uint64_t index, Waiting as) ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  bool MayPass(uint64_t index, Waiting as) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  // All who are left wait, and none may pass.
  bool IsBlocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  bool IsStuck() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  void FailWhatIsStuck() ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  void Take(uint64_t cost) ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  void GiveBack(uint64_t cost) ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  void GiveBackReserved(uint64_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  void Consume(uint64_t index, absl::Span<const uint8_t> bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);
  void ConsumeQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_);

  // Constant after construction.
  const Options options_;
  const Consumer consumer_;
  const std::shared_ptr<QueueLimit> all_;  // limit_of_all, or one that limits nothing

  absl::Status failure_ ABSL_GUARDED_BY(all_->mu_);
  int producers_ ABSL_GUARDED_BY(all_->mu_);
  uint64_t next_ ABSL_GUARDED_BY(all_->mu_) = 0;       // in order: all before it are consumed
  std::vector<bool> came_ ABSL_GUARDED_BY(all_->mu_);  // any order: by index
  uint64_t consumed_ ABSL_GUARDED_BY(all_->mu_) = 0;
  bool consuming_ ABSL_GUARDED_BY(all_->mu_) = false;  // in order: somebody consumes buffer next_
  // By index, all of them.
  std::map<uint64_t, Early> queue_ ABSL_GUARDED_BY(all_->mu_);
  std::map<uint64_t, uint64_t> reserved_ ABSL_GUARDED_BY(all_->mu_);  // to cost
  std::map<uint64_t, Waiting> waiting_ ABSL_GUARDED_BY(all_->mu_);
  uint64_t queued_bytes_ ABSL_GUARDED_BY(all_->mu_) = 0;  // of queue_ and reserved_
  uint64_t max_queued_bytes_ ABSL_GUARDED_BY(all_->mu_) = 0;
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_INDEXED_BUFFERS_H_
