// A disk that takes its time, so that a load can be ended in the middle.
#ifndef RAMJET_TESTS_SLOW_SOURCE_H_
#define RAMJET_TESTS_SLOW_SOURCE_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"

namespace ramjet {

class SlowSource : public PageSource {
 public:
  // Each read takes `delay` more than it needs.
  SlowSource(const Snapshot& snapshot, absl::Duration delay) : snapshot_(snapshot), delay_(delay) {}

  absl::Status ReadPages(size_t block, uint64_t offset, absl::Span<uint8_t> buffer) const override {
    if (delay_ > absl::ZeroDuration()) absl::SleepFor(delay_);
    return snapshot_.ReadPages(block, offset, buffer);
  }

 private:
  const Snapshot& snapshot_;
  const absl::Duration delay_;
};

}  // namespace ramjet

#endif  // RAMJET_TESTS_SLOW_SOURCE_H_
