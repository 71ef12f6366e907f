#include "loader/indexed_buffers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {

absl::StatusOr<std::unique_ptr<IndexedBuffers>> IndexedBuffers::Create(const Options& options,
                                                                       Consumer consumer) {
  if (options.count > kMaxCount) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.count, " buffers: there are at most ", kMaxCount));
  }
  if (options.producers < 1) return absl::InvalidArgumentError("buffers without a producer");
  return std::unique_ptr<IndexedBuffers>(new IndexedBuffers(options, std::move(consumer)));
}

IndexedBuffers::IndexedBuffers(const Options& options, Consumer consumer)
    : options_(options), consumer_(std::move(consumer)), producers_(options.producers) {
  if (options_.any_order) came_.resize(options_.count);
}

absl::Status IndexedBuffers::Put(uint64_t index, absl::Span<const uint8_t> bytes) {
  absl::MutexLock lock(&mu_);
  if (!failure_.ok()) return failure_;
  if (absl::Status is_new = CheckNew(index); !is_new.ok()) return Fail(is_new);
  if (options_.any_order) {
    came_[index] = true;
    Consume(index, bytes);
    return failure_;
  }

  const uint64_t cost = bytes.size() + kEntryBytes;
  waiting_.emplace(index, cost);
  FailIfStuck();
  const auto may_pass = [this, index, cost]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return MayPass(index, cost); };
  mu_.Await(absl::Condition(&may_pass));
  waiting_.erase(index);
  if (!failure_.ok()) return failure_;
  if (index == next_) {
    consuming_ = true;
    Consume(index, bytes);
    ++next_;
    ConsumeQueue();
    return failure_;
  }
  queued_bytes_ += cost;
  max_queued_bytes_ = std::max(max_queued_bytes_, queued_bytes_);
  queue_.emplace(index, std::nullopt);
  // Its place is taken, so nobody else has to wait for the copying.
  mu_.Unlock();
  std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  mu_.Lock();
  if (!failure_.ok()) return failure_;  // and the queue is gone
  queue_.find(index)->second = std::move(copy);
  if (index == next_ && !consuming_) ConsumeQueue();  // its turn has come meanwhile
  return failure_;
}

absl::Status IndexedBuffers::CheckNew(uint64_t index) const {
  if (index >= options_.count) {
    return absl::DataLossError(
        absl::StrCat("buffer ", index, " came: there are ", options_.count, ", from 0 on"));
  }
  const bool came = options_.any_order ? came_[index]
                                       : index < next_ || (index == next_ && consuming_) ||
                                             queue_.contains(index) || waiting_.contains(index);
  if (!came) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("buffer ", index, " came twice"));
}

absl::Status IndexedBuffers::Fail(const absl::Status& why) {
  if (failure_.ok()) failure_ = why;
  // Nobody will take it any more. What is being consumed is no longer here.
  queue_.clear();
  return failure_;
}

bool IndexedBuffers::MayPass(uint64_t index, uint64_t cost) const {
  // No sum that could wrap: the limit is whatever somebody has set.
  const bool fits = cost <= options_.limit_bytes && queued_bytes_ <= options_.limit_bytes - cost;
  return !failure_.ok() || (index == next_ && !consuming_) || fits;
}

void IndexedBuffers::FailIfStuck() {
  if (consuming_ || producers_ == 0 || waiting_.size() < static_cast<size_t>(producers_)) return;
  for (const auto& [index, cost] : waiting_) {
    if (MayPass(index, cost)) return;  // has not woken up yet
  }
  (void)Fail(absl::ResourceExhaustedError(
      absl::StrCat("buffer ", next_, " is missing, and all ", producers_,
                   " who could bring it wait with later ones, buffer ", waiting_.begin()->first,
                   " and beyond: ", queued_bytes_, " of the queue's ", options_.limit_bytes,
                   " bytes are taken, so this order needs a larger queue or more producers")));
}

void IndexedBuffers::Consume(uint64_t index, absl::Span<const uint8_t> bytes) {
  mu_.Unlock();
  const absl::Status consumed = consumer_(index, bytes);
  mu_.Lock();
  ++consumed_;
  if (!consumed.ok()) (void)Fail(consumed);
}

// Those of the queue that come next, without a gap.
void IndexedBuffers::ConsumeQueue() {
  consuming_ = true;
  while (failure_.ok() && !queue_.empty() && queue_.begin()->first == next_ &&
         queue_.begin()->second.has_value()) {
    // Its memory counts until it is gone.
    auto early = queue_.extract(queue_.begin());
    Consume(next_, *early.mapped());
    ++next_;
    queued_bytes_ -= early.mapped()->size() + kEntryBytes;
  }
  consuming_ = false;
}

bool IndexedBuffers::AddProducer() {
  absl::MutexLock lock(&mu_);
  if (producers_ == 0) return false;
  ++producers_;
  return true;
}

absl::Status IndexedBuffers::EndProducer() {
  absl::MutexLock lock(&mu_);
  --producers_;
  FailIfStuck();
  if (producers_ > 0 || consumed_ == options_.count) return failure_;
  uint64_t missing = next_;
  if (options_.any_order) {
    missing = static_cast<uint64_t>(std::find(came_.begin(), came_.end(), false) - came_.begin());
  }
  return Fail(absl::DataLossError(absl::StrCat("buffer ", missing, " never came: ", consumed_,
                                               " of ", options_.count, " could be loaded")));
}

absl::Status IndexedBuffers::Wait() {
  absl::MutexLock lock(&mu_);
  const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return producers_ == 0; };
  mu_.Await(absl::Condition(&ended));
  return failure_;
}

void IndexedBuffers::Cancel(const absl::Status& why) {
  absl::MutexLock lock(&mu_);
  (void)Fail(why);
}

uint64_t IndexedBuffers::max_queued_bytes() const {
  absl::MutexLock lock(&mu_);
  return max_queued_bytes_;
}

}  // namespace ramjet
