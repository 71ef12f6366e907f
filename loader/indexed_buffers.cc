#include "loader/indexed_buffers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

absl::Status CameTwice(uint64_t index) {
  return absl::DataLossError(absl::StrCat("buffer ", index, " came twice"));
}

// No sum that could wrap: the limit is whatever somebody has set.
bool Fits(uint64_t cost, uint64_t queued, uint64_t limit) {
  return cost <= limit && queued <= limit - cost;
}

}  // namespace

absl::StatusOr<std::unique_ptr<IndexedBuffers>> IndexedBuffers::Create(const Options& options,
                                                                       Consumer consumer) {
  if (options.count > kMaxCount) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.count, " buffers: there are at most ", kMaxCount));
  }
  if (options.producers < 1) return absl::InvalidArgumentError("buffers without a producer");
  return std::unique_ptr<IndexedBuffers>(new IndexedBuffers(options, std::move(consumer)));
}

uint64_t QueueLimit::max_queued_bytes() const {
  absl::MutexLock lock(&mu_);
  return max_queued_bytes_;
}

IndexedBuffers::IndexedBuffers(const Options& options, Consumer consumer)
    : options_(options),
      consumer_(std::move(consumer)),
      all_(options.limit_of_all != nullptr ? options.limit_of_all
                                           : std::make_shared<QueueLimit>(UINT64_MAX)),
      producers_(options.producers) {
  if (options_.any_order) came_.resize(options_.count);
  absl::MutexLock lock(&all_->mu_);
  all_->queues_.push_back(this);
}

IndexedBuffers::~IndexedBuffers() {
  absl::MutexLock lock(&all_->mu_);
  GiveBack(queued_bytes_);
  std::erase(all_->queues_, this);
  FailWhatIsStuck();
}

absl::Status IndexedBuffers::Reserve(uint64_t index, uint64_t bytes, std::vector<uint8_t>& memory) {
  {
    absl::MutexLock lock(&all_->mu_);
    if (!failure_.ok()) return failure_;
    if (!options_.any_order) {
      absl::Status is_new = CheckNew(index);
      if (is_new.ok() && reserved_.contains(index)) is_new = CameTwice(index);
      if (!is_new.ok()) return Fail(is_new);
      const Waiting as = {.cost = bytes + kEntryBytes, .to_read = true};
      if (!MayPass(index, as)) std::vector<uint8_t>().swap(memory);
      if (absl::Status passed = AwaitTurn(index, as); !passed.ok()) return passed;
      if (index != next_ || consuming_) {
        Take(as.cost);
        reserved_.emplace(index, as.cost);
      }
    }
  }
  memory.resize(bytes);
  return absl::OkStatus();
}

absl::Status IndexedBuffers::Put(uint64_t index, absl::Span<const uint8_t> bytes) {
  absl::MutexLock lock(&all_->mu_);
  if (!failure_.ok()) return failure_;
  if (absl::Status is_new = CheckNew(index); !is_new.ok()) return Fail(is_new);
  if (options_.any_order) {
    came_[index] = true;
    Consume(index, bytes);
    return failure_;
  }

  const uint64_t cost = bytes.size() + kEntryBytes;
  absl::Status passed = AwaitTurn(index, {cost, false});
  GiveBackReserved(index);
  if (!passed.ok()) return passed;
  if (index == next_ && !consuming_) {
    consuming_ = true;
    Consume(index, bytes);
    ++next_;
    ConsumeQueue();
    return failure_;
  }
  Take(cost);
  queue_.emplace(index, Early{cost});
  // Its place is taken, so nobody else has to wait for the copying.
  all_->mu_.Unlock();
  std::vector<uint8_t> copy(bytes.begin(), bytes.end());
  all_->mu_.Lock();
  if (!failure_.ok()) {
    queue_.erase(index);
    GiveBack(cost);
    return failure_;
  }
  queue_.find(index)->second.bytes = std::move(copy);
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
  return CameTwice(index);
}

absl::Status IndexedBuffers::Fail(const absl::Status& why) {
  if (failure_.ok()) failure_ = why;
  // Nobody will take it any more. What is being consumed is no longer here, and what is being
  // copied is its producer's.
  for (auto early = queue_.begin(); early != queue_.end();) {
    if (early->second.bytes.has_value()) {
      GiveBack(early->second.cost);
      early = queue_.erase(early);
    } else {
      ++early;
    }
  }
  return failure_;
}

absl::Status IndexedBuffers::AwaitTurn(uint64_t index, Waiting as) {
  waiting_.emplace(index, as);
  FailWhatIsStuck();
  const auto may_pass = [this, index, as]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_) { return MayPass(index, as); };
  all_->mu_.Await(absl::Condition(&may_pass));
  waiting_.erase(index);
  return failure_;
}

void IndexedBuffers::Take(uint64_t cost) {
  queued_bytes_ += cost;
  max_queued_bytes_ = std::max(max_queued_bytes_, queued_bytes_);
  all_->queued_bytes_ += cost;
  all_->max_queued_bytes_ = std::max(all_->max_queued_bytes_, all_->queued_bytes_);
}

void IndexedBuffers::GiveBack(uint64_t cost) {
  queued_bytes_ -= cost;
  all_->queued_bytes_ -= cost;
}

void IndexedBuffers::GiveBackReserved(uint64_t index) {
  const auto reserved = reserved_.find(index);
  if (reserved == reserved_.end()) return;
  GiveBack(reserved->second);
  reserved_.erase(reserved);
}

bool IndexedBuffers::MayPass(uint64_t index, Waiting as) const {
  if (!failure_.ok() || (index == next_ && !consuming_)) return true;
  const auto reserved = reserved_.find(index);
  const uint64_t had = reserved == reserved_.end() ? 0 : reserved->second;
  return (as.to_read || Fits(as.cost, queued_bytes_ - had, options_.limit_bytes)) &&
         Fits(as.cost, all_->queued_bytes_ - had, all_->limit_bytes_);
}

bool IndexedBuffers::IsBlocked() const {
  if (consuming_ || producers_ == 0 || waiting_.size() < static_cast<size_t>(producers_)) {
    return false;
  }
  for (const auto& [index, as] : waiting_) {
    if (MayPass(index, as)) return false;  // has not woken up yet
  }
  return true;
}

// Other queues have the same mutex, which the analysis cannot know.
bool IndexedBuffers::IsStuck() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (!IsBlocked()) return false;
  // Who of this queue waits for room that others have, and whether one that has some gets on.
  bool waits_for_others = false;
  for (const auto& [index, as] : waiting_) {
    waits_for_others |= as.to_read || Fits(as.cost, queued_bytes_, options_.limit_bytes);
  }
  if (!waits_for_others) return true;
  for (const IndexedBuffers* const other : all_->queues_) {
    if (other != this && other->queued_bytes_ > 0 && !other->IsBlocked()) return false;
  }
  return true;
}

void IndexedBuffers::FailWhatIsStuck() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (IndexedBuffers* const stuck : all_->queues_) {
    if (!stuck->IsStuck()) continue;
    const bool alone = stuck->options_.limit_of_all == nullptr;
    (void)stuck->Fail(absl::ResourceExhaustedError(
        absl::StrCat("buffer ", stuck->next_, " is missing, and all ", stuck->producers_,
                     " who could bring it wait with later ones, buffer ",
                     stuck->waiting_.begin()->first, " and beyond: ", stuck->queued_bytes_,
                     " of the queue's ", stuck->options_.limit_bytes, " bytes are taken",
                     alone ? ""
                           : absl::StrCat(", and ", all_->queued_bytes_, " of the ",
                                          all_->limit_bytes_, " of all queues"),
                     ", so this order needs a larger queue or more producers")));
  }
}

void IndexedBuffers::Consume(uint64_t index, absl::Span<const uint8_t> bytes) {
  all_->mu_.Unlock();
  const absl::Status consumed = consumer_(index, bytes);
  all_->mu_.Lock();
  ++consumed_;
  if (!consumed.ok()) (void)Fail(consumed);
}

// Those of the queue that come next, without a gap.
void IndexedBuffers::ConsumeQueue() {
  consuming_ = true;
  while (failure_.ok() && !queue_.empty() && queue_.begin()->first == next_ &&
         queue_.begin()->second.bytes.has_value()) {
    // Its memory counts until it is gone.
    const auto early = queue_.extract(queue_.begin());
    Consume(next_, *early.mapped().bytes);
    ++next_;
    GiveBack(early.mapped().cost);
  }
  consuming_ = false;
  FailWhatIsStuck();  // those of others, which have waited for what this one held
}

bool IndexedBuffers::AddProducer() {
  absl::MutexLock lock(&all_->mu_);
  if (producers_ == 0) return false;
  ++producers_;
  return true;
}

absl::Status IndexedBuffers::EndProducer() {
  absl::MutexLock lock(&all_->mu_);
  --producers_;
  FailWhatIsStuck();
  if (producers_ > 0 || consumed_ == options_.count) return failure_;
  uint64_t missing = next_;
  if (options_.any_order) {
    missing = static_cast<uint64_t>(std::find(came_.begin(), came_.end(), false) - came_.begin());
  }
  return Fail(absl::DataLossError(absl::StrCat("buffer ", missing, " never came: ", consumed_,
                                               " of ", options_.count, " could be loaded")));
}

absl::Status IndexedBuffers::Wait() {
  absl::MutexLock lock(&all_->mu_);
  const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(all_->mu_) { return producers_ == 0; };
  all_->mu_.Await(absl::Condition(&ended));
  return failure_;
}

void IndexedBuffers::Cancel(const absl::Status& why) {
  absl::MutexLock lock(&all_->mu_);
  (void)Fail(why);
}

uint64_t IndexedBuffers::max_queued_bytes() const {
  absl::MutexLock lock(&all_->mu_);
  return max_queued_bytes_;
}

}  // namespace ramjet
