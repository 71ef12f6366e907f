// Buffers come in every order, and the queue never exceeds its limit.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/indexed_buffers.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kBytes = 1000;
constexpr uint64_t kCost = kBytes + IndexedBuffers::kEntryBytes;

// What buffer `index` holds.
std::vector<uint8_t> Content(uint64_t index) {
  return std::vector<uint8_t>(kBytes, static_cast<uint8_t>(index + 1));
}

std::vector<uint64_t> Indexes(uint64_t count) {
  std::vector<uint64_t> indexes(count);
  std::iota(indexes.begin(), indexes.end(), 0);
  return indexes;
}

// A consumer that notes what it gets.
class Consumed {
 public:
  explicit Consumed(const IndexedBuffers::Options& options,
                    const IndexedBuffers::Consumer& also = nullptr) {
    auto created = IndexedBuffers::Create(
        options, [this, also](uint64_t index, absl::Span<const uint8_t> bytes) {
          if (bytes != Content(index)) return absl::InternalError("other bytes");
          indexes.push_back(index);
          return also == nullptr ? absl::OkStatus() : also(index, bytes);
        });
    EXPECT_TRUE(created.ok()) << created.status();
    buffers = *std::move(created);
  }
  absl::Status Put(uint64_t index) { return buffers->Put(index, Content(index)); }

  std::vector<uint64_t> indexes;  // serialized by the buffers, which is part of the test
  std::unique_ptr<IndexedBuffers> buffers;
};

TEST(IndexedBuffers, WhatComesInOrderIsNotQueued) {
  Consumed consumed({.count = 3});
  for (const uint64_t index : {0, 1, 2}) EXPECT_TRUE(consumed.Put(index).ok());
  (void)consumed.buffers->EndProducer();
  EXPECT_TRUE(consumed.buffers->Wait().ok());
  EXPECT_THAT(consumed.indexes, ElementsAre(0, 1, 2));
  EXPECT_EQ(consumed.buffers->max_queued_bytes(), 0);
}

TEST(IndexedBuffers, EarlyOnesAreQueuedUntilTheirTurn) {
  Consumed consumed({.count = 4, .limit_bytes = 3 * kCost});
  for (const uint64_t index : {3, 1, 2}) EXPECT_TRUE(consumed.Put(index).ok());
  EXPECT_THAT(consumed.indexes, IsEmpty());
  EXPECT_TRUE(consumed.Put(0).ok());
  EXPECT_THAT(consumed.indexes, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(consumed.buffers->max_queued_bytes(), 3 * kCost);
}

TEST(IndexedBuffers, WhoWouldExceedTheLimitWaits) {
  absl::Notification put;
  Consumed consumed({.count = 4, .limit_bytes = 3 * kCost - 1, .producers = 2},
                    [&put](uint64_t index, absl::Span<const uint8_t>) {
                      EXPECT_TRUE(index != 0 || !put.HasBeenNotified());
                      return absl::OkStatus();
                    });
  EXPECT_TRUE(consumed.Put(3).ok());
  EXPECT_TRUE(consumed.Put(2).ok());
  std::thread other([&] {
    EXPECT_TRUE(consumed.Put(1).ok());
    put.Notify();
    (void)consumed.buffers->EndProducer();
  });
  EXPECT_TRUE(consumed.Put(0).ok());
  (void)consumed.buffers->EndProducer();
  EXPECT_TRUE(consumed.buffers->Wait().ok());
  other.join();
  EXPECT_THAT(consumed.indexes, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(consumed.buffers->max_queued_bytes(), 2 * kCost);
}

// Each buffer has a producer of its own, and those come in the order of `arrival`: in so far as a
// thread can be made to come after another that is to wait. What the queue holds is also counted
// from outside.
void ExpectLimitHolds(const std::vector<uint64_t>& arrival, uint64_t queue_length) {
  const uint64_t limit_bytes = queue_length * kCost;
  std::atomic<uint64_t> accepted{0};
  std::atomic<uint64_t> taken{0};
  Consumed consumed({.count = arrival.size(),
                     .limit_bytes = limit_bytes,
                     .producers = static_cast<int>(arrival.size())},
                    [&](uint64_t, absl::Span<const uint8_t>) {
                      const uint64_t queued = accepted.load();
                      EXPECT_LE(queued, taken.fetch_add(1) + queue_length);
                      return absl::OkStatus();
                    });
  std::vector<std::thread> producers;
  for (const uint64_t index : arrival) {
    absl::Notification begun;
    producers.emplace_back([&consumed, &accepted, &begun, index] {
      begun.Notify();
      EXPECT_TRUE(consumed.Put(index).ok());
      accepted.fetch_add(1);
      (void)consumed.buffers->EndProducer();
    });
    begun.WaitForNotification();
  }
  const absl::Status complete = consumed.buffers->Wait();
  EXPECT_TRUE(complete.ok()) << complete;
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(consumed.indexes, Indexes(arrival.size()));
  EXPECT_LE(consumed.buffers->max_queued_bytes(), limit_bytes);
}

TEST(IndexedBuffers, LimitHoldsInTheWorstOrder) {
  for (int round = 0; round < 20; ++round) {
    for (const uint64_t queue_length : {0, 1, 5}) {
      std::vector<uint64_t> arrival = Indexes(40);
      std::reverse(arrival.begin(), arrival.end());
      ExpectLimitHolds(arrival, queue_length);
    }
  }
}

TEST(IndexedBuffers, LimitHoldsInAnyOrder) {
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<uint64_t> arrival = Indexes(40);
    std::shuffle(arrival.begin(), arrival.end(), random);
    ExpectLimitHolds(arrival, 4);
  }
}

TEST(IndexedBuffers, ManyBuffersOfAFewProducers) {
  constexpr uint64_t kCount = 4000;
  constexpr int kProducers = 4;
  Consumed consumed({.count = kCount, .limit_bytes = 2 * kCost, .producers = kProducers});
  std::vector<std::thread> producers;
  for (int i = 0; i < kProducers; ++i) {
    producers.emplace_back([&consumed, i] {
      for (uint64_t index = i; index < kCount; index += kProducers) {
        EXPECT_TRUE(consumed.Put(index).ok());
      }
      (void)consumed.buffers->EndProducer();
    });
  }
  EXPECT_TRUE(consumed.buffers->Wait().ok());
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(consumed.indexes, Indexes(kCount));
  EXPECT_LE(consumed.buffers->max_queued_bytes(), 2 * kCost);
}

TEST(IndexedBuffers, BufferLargerThanTheLimitWaitsForItsTurn) {
  Consumed consumed({.count = 2, .limit_bytes = kBytes - 1, .producers = 2});
  std::thread other([&] {
    EXPECT_TRUE(consumed.Put(1).ok());
    (void)consumed.buffers->EndProducer();
  });
  EXPECT_TRUE(consumed.Put(0).ok());
  (void)consumed.buffers->EndProducer();
  EXPECT_TRUE(consumed.buffers->Wait().ok());
  other.join();
  EXPECT_THAT(consumed.indexes, ElementsAre(0, 1));
}

TEST(IndexedBuffers, EmptyBuffersCountTowardsTheLimit) {
  const auto buffers =
      IndexedBuffers::Create({.count = 10, .limit_bytes = 2 * IndexedBuffers::kEntryBytes},
                             [](uint64_t, absl::Span<const uint8_t>) { return absl::OkStatus(); });
  EXPECT_TRUE((*buffers)->Put(9, {}).ok());
  EXPECT_TRUE((*buffers)->Put(8, {}).ok());
  EXPECT_EQ((*buffers)->Put(7, {}).code(), absl::StatusCode::kResourceExhausted);
}

TEST(IndexedBuffers, OrderThatNobodyCouldServeIsAnErrorAndNoDeadlock) {
  Consumed consumed({.count = 5, .limit_bytes = kCost, .producers = 2});
  const std::string why =
      "buffer 0 is missing, and all 2 who could bring it wait with later ones, buffer 1 and beyond";
  EXPECT_TRUE(consumed.Put(4).ok());
  std::thread other(
      [&] { EXPECT_THAT(consumed.Put(1), StatusIs(absl::StatusCode::kResourceExhausted, why)); });
  EXPECT_THAT(consumed.Put(2), StatusIs(absl::StatusCode::kResourceExhausted, why));
  other.join();
  EXPECT_THAT(consumed.Put(0), StatusIs(absl::StatusCode::kResourceExhausted, why));
  EXPECT_THAT(consumed.indexes, IsEmpty());
}

TEST(IndexedBuffers, LastProducerThatEndsLeavesNobodyWaiting) {
  Consumed consumed({.count = 5, .producers = 2});
  std::thread other([&] {
    EXPECT_THAT(consumed.Put(1), StatusIs(absl::StatusCode::kResourceExhausted, "buffer 0 is"));
    (void)consumed.buffers->EndProducer();
  });
  (void)consumed.buffers->EndProducer();
  EXPECT_FALSE(consumed.buffers->Wait().ok());
  other.join();
}

// --- several queues ---

// Three queues whose buffers come in the order of `arrival`, each by a producer of its own, and the
// first in turn last of all, if that is the order.
void ExpectLimitOfAllHolds(const std::vector<uint64_t>& arrival, uint64_t queue_length) {
  const auto all = std::make_shared<QueueLimit>(queue_length * kCost);
  std::vector<std::unique_ptr<Consumed>> queues;
  std::vector<std::thread> producers;
  for (int i = 0; i < 3; ++i) {
    queues.push_back(std::make_unique<Consumed>(
        IndexedBuffers::Options{.count = arrival.size(),
                                .limit_bytes = 100 * kCost,
                                .producers = static_cast<int>(arrival.size()),
                                .limit_of_all = all}));
  }
  for (const uint64_t index : arrival) {
    for (const auto& queue : queues) {
      producers.emplace_back([&queue = *queue, index] {
        EXPECT_EQ(queue.Put(index), absl::OkStatus());
        (void)queue.buffers->EndProducer();
      });
    }
  }
  for (const auto& queue : queues) {
    EXPECT_EQ(queue->buffers->Wait(), absl::OkStatus());
  }
  for (std::thread& producer : producers) producer.join();
  for (const auto& queue : queues) EXPECT_EQ(queue->indexes, Indexes(arrival.size()));
  EXPECT_LE(all->max_queued_bytes(), queue_length * kCost);
}

TEST(QueueLimit, HoldsInTheWorstOrderAndInAnyWithoutADeadlock) {
  std::mt19937 random(1);
  for (int round = 0; round < 10; ++round) {
    for (const uint64_t queue_length : {0, 1, 4}) {
      std::vector<uint64_t> arrival = Indexes(20);
      std::reverse(arrival.begin(), arrival.end());
      ExpectLimitOfAllHolds(arrival, queue_length);
      std::shuffle(arrival.begin(), arrival.end(), random);
      ExpectLimitOfAllHolds(arrival, queue_length);
    }
  }
}

TEST(QueueLimit, ManyBuffersOfAFewProducersEach) {
  constexpr uint64_t kCount = 1000;
  const auto all = std::make_shared<QueueLimit>(2 * kCost);
  const IndexedBuffers::Options options = {
      .count = kCount, .limit_bytes = 9 * kCost, .producers = 3, .limit_of_all = all};
  Consumed one(options);
  Consumed other(options);
  std::vector<std::thread> producers;
  for (Consumed* const queue : {&one, &other}) {
    for (uint64_t first = 0; first < 3; ++first) {
      producers.emplace_back([queue, first] {
        for (uint64_t index = first; index < kCount; index += 3) {
          EXPECT_EQ(queue->Put(index), absl::OkStatus());
        }
        (void)queue->buffers->EndProducer();
      });
    }
  }
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(one.indexes, Indexes(kCount));
  EXPECT_EQ(other.indexes, Indexes(kCount));
  EXPECT_LE(all->max_queued_bytes(), 2 * kCost);
}

// The only producer of one queue waits for the other queue, which gets on: that is no error.
TEST(QueueLimit, WhatOneQueueGivesBackAnothersProducerGets) {
  for (int round = 0; round < 100; ++round) {
    const auto all = std::make_shared<QueueLimit>(kCost);
    absl::Notification begun;
    absl::Notification put;
    Consumed one({.count = 2, .limit_bytes = kCost, .limit_of_all = all},
                 [&](uint64_t index, absl::Span<const uint8_t>) {
                   // Then the other is about to wait, if it does not yet.
                   begun.WaitForNotification();
                   for (int i = 0; index == 0 && i < 100; ++i) std::this_thread::yield();
                   EXPECT_FALSE(put.HasBeenNotified());
                   return absl::OkStatus();
                 });
    Consumed other({.count = 2, .limit_bytes = kCost, .limit_of_all = all});
    EXPECT_EQ(one.Put(1), absl::OkStatus());
    std::thread producer([&] {
      begun.Notify();
      EXPECT_EQ(other.Put(1), absl::OkStatus());
      put.Notify();
      EXPECT_EQ(other.Put(0), absl::OkStatus());
    });
    EXPECT_EQ(one.Put(0), absl::OkStatus());
    producer.join();
    EXPECT_THAT(other.indexes, ElementsAre(0, 1));
    EXPECT_EQ(all->max_queued_bytes(), kCost);
  }
}

TEST(QueueLimit, QueuesThatWaitForEachOtherAreAnErrorAndNoDeadlock) {
  const auto all = std::make_shared<QueueLimit>(kCost);
  Consumed one({.count = 3, .limit_bytes = 9 * kCost, .limit_of_all = all});
  Consumed other({.count = 2, .limit_bytes = 9 * kCost, .limit_of_all = all});
  EXPECT_EQ(one.Put(1), absl::OkStatus());
  // Waits as long as there is hope that `one` gets on, and goes on when that has failed.
  std::thread producer([&] {
    EXPECT_EQ(other.Put(1), absl::OkStatus());
    EXPECT_EQ(other.Put(0), absl::OkStatus());
  });
  EXPECT_THAT(one.Put(2), StatusIs(absl::StatusCode::kResourceExhausted, " of all queues"));
  producer.join();
  EXPECT_THAT(other.indexes, ElementsAre(0, 1));
}

TEST(QueueLimit, BufferLargerThanTheLimitEndsItsQueueWhenNobodyGivesAnyMore) {
  const auto all = std::make_shared<QueueLimit>(kCost - 1);
  Consumed one({.count = 2, .limit_bytes = 9 * kCost, .limit_of_all = all});
  EXPECT_THAT(one.Put(1), StatusIs(absl::StatusCode::kResourceExhausted, "1127 of all queues"));
}

TEST(QueueLimit, QueueThatIsGoneHoldsNothing) {
  const auto all = std::make_shared<QueueLimit>(kCost);
  Consumed other({.count = 2, .limit_bytes = kCost, .limit_of_all = all});
  {
    Consumed one({.count = 3, .limit_bytes = kCost, .limit_of_all = all});
    EXPECT_EQ(one.Put(2), absl::OkStatus());
  }
  std::vector<uint8_t> memory;
  {
    Consumed one({.count = 3, .limit_of_all = all});
    EXPECT_EQ(one.buffers->Reserve(2, kBytes, memory), absl::OkStatus());
  }
  EXPECT_EQ(other.Put(1), absl::OkStatus());
}

TEST(QueueLimit, WhoIsToReadTooEarlyWaitsWithoutMemory) {
  const auto all = std::make_shared<QueueLimit>(kCost);
  Consumed queue({.count = 4, .producers = 2, .limit_of_all = all});
  std::vector<uint8_t> first;
  ASSERT_EQ(queue.buffers->Reserve(0, kBytes, first), absl::OkStatus());  // next: does not count
  EXPECT_EQ(all->max_queued_bytes(), 0);
  std::atomic<bool> begun{false};
  std::thread other([&] {
    std::vector<uint8_t> early;
    EXPECT_EQ(queue.buffers->Reserve(1, kBytes, early), absl::OkStatus());
    EXPECT_EQ(early.size(), kBytes);
    begun = true;
    EXPECT_EQ(queue.Put(1), absl::OkStatus());
    // Where there is room for one, 3 is to wait until 2 has come.
    EXPECT_EQ(queue.buffers->Reserve(3, kBytes, early), absl::OkStatus());
    EXPECT_EQ(queue.Put(3), absl::OkStatus());
    (void)queue.buffers->EndProducer();
  });
  while (!begun) std::this_thread::yield();
  EXPECT_EQ(queue.Put(0), absl::OkStatus());
  ASSERT_EQ(queue.buffers->Reserve(2, kBytes, first), absl::OkStatus());
  EXPECT_EQ(queue.Put(2), absl::OkStatus());
  (void)queue.buffers->EndProducer();
  other.join();
  EXPECT_EQ(queue.indexes, Indexes(4));
  EXPECT_EQ(all->max_queued_bytes(), kCost);
}

TEST(QueueLimit, MemoryIsFreedWhileItsReaderWaits) {
  const auto all = std::make_shared<QueueLimit>(0);
  Consumed queue({.count = 2, .limit_of_all = all});
  std::vector<uint8_t> memory(kBytes);
  EXPECT_THAT(queue.buffers->Reserve(1, kBytes, memory),
              StatusIs(absl::StatusCode::kResourceExhausted, "buffer 0 is missing"));
  EXPECT_EQ(memory.capacity(), 0);
}

TEST(IndexedBuffers, DuplicatesAreRefused) {
  for (const bool any_order : {false, true}) {
    for (const uint64_t twice : {0, 2}) {
      Consumed consumed({.count = 3, .limit_bytes = 9 * kCost, .any_order = any_order});
      EXPECT_TRUE(consumed.Put(twice).ok());
      EXPECT_THAT(consumed.Put(twice), StatusIs(absl::StatusCode::kDataLoss, " came twice"));
      EXPECT_THAT(consumed.Put(1), StatusIs(absl::StatusCode::kDataLoss, " came twice"));
    }
  }
}

TEST(IndexedBuffers, IndexBeyondTheCountIsRefused) {
  for (const bool any_order : {false, true}) {
    Consumed consumed({.count = 3, .any_order = any_order});
    EXPECT_THAT(consumed.Put(3),
                StatusIs(absl::StatusCode::kDataLoss, "buffer 3 came: there are 3, from 0 on"));
  }
}

TEST(IndexedBuffers, BuffersThatNeverComeAreAnError) {
  for (const bool any_order : {false, true}) {
    Consumed consumed({.count = 4, .limit_bytes = 9 * kCost, .any_order = any_order});
    EXPECT_TRUE(consumed.Put(0).ok());
    EXPECT_TRUE(consumed.Put(3).ok());
    const auto never_came = StatusIs(absl::StatusCode::kDataLoss, "buffer 1 never came");
    EXPECT_THAT(consumed.buffers->EndProducer(), never_came);
    EXPECT_THAT(consumed.buffers->Wait(), never_came);
  }
}

TEST(IndexedBuffers, ErrorOfTheConsumerEndsWhoeverWaits) {
  Consumed consumed({.count = 9, .producers = 2}, [](uint64_t, absl::Span<const uint8_t>) {
    return absl::UnavailableError("the device is gone");
  });
  const auto is_gone = StatusIs(absl::StatusCode::kUnavailable, "the device is gone");
  std::thread other([&] { EXPECT_THAT(consumed.Put(5), is_gone); });
  EXPECT_THAT(consumed.Put(0), is_gone);
  other.join();
  EXPECT_THAT(consumed.indexes, ElementsAre(0));
}

TEST(IndexedBuffers, CancelEndsWhoeverWaits) {
  Consumed consumed({.count = 9, .producers = 2});
  std::thread other([&] { EXPECT_EQ(consumed.Put(5), absl::CancelledError("enough")); });
  consumed.buffers->Cancel(absl::CancelledError("enough"));
  other.join();
  EXPECT_EQ(consumed.Put(0), absl::CancelledError("enough"));
}

TEST(IndexedBuffers, AnyOrderIsConsumedAsItComesAtTheSameTime) {
  absl::Barrier barrier(2);  // is passed by two calls that are under way together
  const auto buffers = IndexedBuffers::Create({.count = 2, .producers = 2, .any_order = true},
                                              [&barrier](uint64_t, absl::Span<const uint8_t>) {
                                                barrier.Block();
                                                return absl::OkStatus();
                                              });
  const auto produce = [&buffers](uint64_t index) {
    EXPECT_TRUE((*buffers)->Put(index, Content(index)).ok());
    (void)(*buffers)->EndProducer();
  };
  std::thread other(produce, 1);
  produce(0);
  other.join();
  EXPECT_TRUE((*buffers)->Wait().ok());
  EXPECT_EQ((*buffers)->max_queued_bytes(), 0);
}

TEST(IndexedBuffers, ProducersCanBeAddedUntilTheLastHasEnded) {
  Consumed consumed({.count = 0});
  EXPECT_TRUE(consumed.buffers->AddProducer());
  (void)consumed.buffers->EndProducer();
  (void)consumed.buffers->EndProducer();
  EXPECT_FALSE(consumed.buffers->AddProducer());
  EXPECT_TRUE(consumed.buffers->Wait().ok());
}

TEST(IndexedBuffers, CountsThatMakeNoSenseAreRefused) {
  EXPECT_THAT(
      IndexedBuffers::Create({.count = IndexedBuffers::kMaxCount + 1}, nullptr).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, "16777217 buffers: there are at most 16777216"));
  EXPECT_THAT(IndexedBuffers::Create({.count = 1, .producers = 0}, nullptr).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, "without a producer"));
}

}  // namespace
}  // namespace ramjet
