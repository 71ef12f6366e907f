#include "loader/load_stats.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

// Longer than the pause before EagerQueue tries again.
constexpr uint64_t kUnreadPauseNs = 5'000'000'000;

}  // namespace

size_t LatencyHistogram::BucketOf(uint64_t ns) {
  // Below 2^kSubBits a bucket a nanosecond; from there on 2^kSubBits buckets for each power of two.
  if (ns < 1u << kSubBits) return ns;
  const unsigned exponent = static_cast<unsigned>(std::bit_width(ns)) - 1 - kSubBits;
  return (static_cast<size_t>(exponent) << kSubBits) + (ns >> exponent);
}

uint64_t LatencyHistogram::UpperEndNs(size_t bucket) {
  if (bucket < 1u << kSubBits) return bucket;
  const unsigned exponent = static_cast<unsigned>(bucket >> kSubBits) - 1;
  const uint64_t within = (bucket & ((1u << kSubBits) - 1)) + (1u << kSubBits);
  return ((within + 1) << exponent) - 1;
}

void LatencyHistogram::Add(uint64_t ns) {
  buckets_[BucketOf(ns)].fetch_add(1, std::memory_order_relaxed);
  count_.fetch_add(1, std::memory_order_relaxed);
  uint64_t max = max_ns();
  while (ns > max && !max_ns_.compare_exchange_weak(max, ns, std::memory_order_relaxed)) {
  }
}

uint64_t LatencyHistogram::QuantileNs(double fraction) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(count())));
  uint64_t seen = 0;
  for (size_t bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket].load(std::memory_order_relaxed);
    if (seen >= wanted && seen > 0) return std::min(UpperEndNs(bucket), max_ns());
  }
  return max_ns();
}

void LoadStats::AddError(const absl::Status& error) {
  absl::MutexLock lock(&mu_);
  const std::string message(error.message());
  const auto known = [&](const std::vector<std::string>& messages) {
    return std::find(messages.begin(), messages.end(), message) != messages.end();
  };
  if (known(errors_) || known(untold_)) return;
  if (errors_.size() < kMaxErrors) errors_.push_back(message);
  if (tells_ && untold_.size() < kMaxUntold) {
    untold_.push_back(message);
  } else if (tells_) {
    ++more_untold_;
  }
  count_.fetch_add(1, std::memory_order_release);
}

std::vector<std::string> LoadStats::errors() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::string> result = errors_;
  const uint64_t more = error_count() - errors_.size();
  if (more > 0) result.push_back(absl::StrCat("and ", more, " more"));
  return result;
}

void LoadStats::NoteFailedRead(const absl::Status& why) {
  if (absl::IsResourceExhausted(why)) return Count(no_memory, 1);
  Count(read_retries, 1);
  NoteUnread(why);
}

void LoadStats::NoteUnread(const absl::Status& why) {
  const uint64_t now_ns = MonotonicNs();
  absl::MutexLock lock(&mu_);
  unread_ = std::string(why.message());
  if (now_ns > unread_last_ns_ + kUnreadPauseNs) unread_first_ns_ = now_ns;
  unread_last_ns_ = now_ns;
}

LoadStats::Unread LoadStats::unread() const {
  absl::MutexLock lock(&mu_);
  if (unread_.empty() || MonotonicNs() > unread_last_ns_ + kUnreadPauseNs) return {};
  return {.why = unread_, .for_ns = unread_last_ns_ - unread_first_ns_};
}

bool LoadStats::any_untold() const {
  absl::MutexLock lock(&mu_);
  return !untold_.empty();
}

LoadStats::Untold LoadStats::TakeUntold() {
  absl::MutexLock lock(&mu_);
  Untold untold{.messages = std::exchange(untold_, {}), .upto = error_count()};
  const uint64_t more = std::exchange(more_untold_, 0);
  if (more > 0) untold.messages.push_back(absl::StrCat("and ", more, " more"));
  return untold;
}

void LoadStats::AddNote(std::string note) {
  absl::MutexLock lock(&mu_);
  notes_.push_back(std::move(note));
}

std::vector<std::string> LoadStats::notes() const {
  absl::MutexLock lock(&mu_);
  return notes_;
}

}  // namespace ramjet
