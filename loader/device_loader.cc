#include "loader/device_loader.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "loader/indexed_buffers.h"
#include "loader/thread.h"
#include "mappedram/file.h"

namespace ramjet {
namespace {

constexpr unsigned kMaxThreads = 64;
constexpr unsigned kDefaultMaxThreads = 16;
constexpr size_t kLoaderStackBytes = 8 << 20;  // what the main thread of a program has
constexpr uint64_t kMaxBufferBytes = uint64_t{1} << 30;
// Threads that read the buffers of one device besides the one that began. In order one is enough:
// it reads while the other is in load_buffer().
constexpr int kHelpers = 1;
constexpr int kAnyOrderHelpers = 3;

std::string Describe(const std::string& name, uint32_t instance_id) {
  return absl::StrCat("device \"", name, "\", instance ", instance_id);
}

std::string Describe(const DeviceId& device) { return Describe(device.name, device.instance_id); }

absl::Status Annotate(const DeviceId& device, const absl::Status& status) {
  // raw_code(): those of a loader's own go through, too.
  return absl::Status(static_cast<absl::StatusCode>(status.raw_code()),
                      absl::StrCat(Describe(device), ": ", status.message()));
}

// A device to load.
struct Job {
  // Constant once the plan is made.
  const DeviceLoader* loader = nullptr;
  std::unique_ptr<DeviceState> state;  // nullptr: optional, and not in the snapshot
  std::vector<size_t> dependants;      // jobs that come after this one
  std::unique_ptr<IndexedBuffers> buffers;
  uint64_t buffer_count = 0;

  std::atomic<uint64_t> next_buffer{0};  // relaxed: only numbers the readers' work
  size_t waits_for = 0;                  // jobs that this one comes after; the plan's, then mu_'s
};

// One call of LoadDevices(). First Plan(), by one thread; then the pool's threads are in Work().
class DevicesLoad {
 public:
  DevicesLoad(const Snapshot& snapshot, absl::Span<const DeviceLoader> loaders,
              const LoadDevicesOptions& options)
      : snapshot_(snapshot),
        options_(options),
        read_ahead_(std::make_shared<QueueLimit>(options.read_ahead_bytes)),
        jobs_(loaders.size()) {
    for (size_t i = 0; i < loaders.size(); ++i) jobs_[i].loader = &loaders[i];
  }

  absl::Status Plan();
  absl::Status Run() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::Status FindLoaders();
  absl::Status FindSections();
  absl::Status FindOrder();
  absl::Status DescribeCircle(const std::vector<size_t>& waits_for) const;
  absl::Status MakeBuffers(Job& job);
  absl::Status ReportUnclaimed() const;

  void Work() ABSL_LOCKS_EXCLUDED(mu_);
  void Load(size_t index) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status LoadJob(Job& job) ABSL_LOCKS_EXCLUDED(mu_);
  void ReadBuffers(Job& job);
  void MakeReady(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasWorkOrEnded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return ended() || !ready_.empty() || !to_help_.empty();
  }
  bool ended() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return left_ == 0 || !failure_.ok(); }

  // Constant after Plan().
  const Snapshot& snapshot_;
  const LoadDevicesOptions& options_;
  const std::shared_ptr<QueueLimit> read_ahead_;
  std::vector<Job> jobs_;
  std::map<DeviceId, size_t> index_of_;
  std::vector<size_t> stream_order_;  // of jobs_
  std::vector<const DeviceSection*> unclaimed_;

  std::atomic<bool> cancelled_{false};  // written under mu_

  absl::Mutex mu_;
  std::deque<size_t> ready_ ABSL_GUARDED_BY(mu_);    // jobs that may begin
  std::deque<size_t> to_help_ ABSL_GUARDED_BY(mu_);  // jobs whose buffers one more may read
  size_t left_ ABSL_GUARDED_BY(mu_) = 0;             // jobs that are not complete
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
};

absl::Status DevicesLoad::Plan() {
  if (options_.threads > kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat(
        options_.threads, " threads for devices: ", "there are at most ", kMaxThreads));
  }
  absl::Status planned = FindLoaders();
  if (planned.ok()) planned = FindOrder();
  if (planned.ok()) planned = FindSections();
  for (Job& job : jobs_) {
    if (planned.ok() && job.loader->load_buffer != nullptr) planned = MakeBuffers(job);
  }
  return planned.ok() ? ReportUnclaimed() : planned;
}

absl::Status DevicesLoad::FindLoaders() {
  for (size_t i = 0; i < jobs_.size(); ++i) {
    const DeviceLoader& loader = *jobs_[i].loader;
    if (!index_of_.emplace(loader.device, i).second) {
      return absl::InvalidArgumentError(absl::StrCat(Describe(loader.device), " has two loaders"));
    }
    if (loader.load == nullptr && loader.load_buffer == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(Describe(loader.device), ": nothing would load it"));
    }
  }
  return absl::OkStatus();
}

// Who comes after whom, and whether that can be done at all.
absl::Status DevicesLoad::FindOrder() {
  for (size_t i = 0; i < jobs_.size(); ++i) {
    for (const DeviceId& before : jobs_[i].loader->after) {
      const auto found = index_of_.find(before);
      if (found == index_of_.end()) {
        return absl::InvalidArgumentError(absl::StrCat(Describe(jobs_[i].loader->device),
                                                       " comes after ", Describe(before),
                                                       ", which has no loader"));
      }
      jobs_[found->second].dependants.push_back(i);
      ++jobs_[i].waits_for;
    }
  }
  // Takes away all that can be done, and looks at what stays.
  std::vector<size_t> waits_for, free;
  for (size_t i = 0; i < jobs_.size(); ++i) {
    waits_for.push_back(jobs_[i].waits_for);
    if (waits_for[i] == 0) free.push_back(i);
  }
  for (size_t done = 0; done < free.size(); ++done) {
    for (const size_t dependant : jobs_[free[done]].dependants) {
      if (--waits_for[dependant] == 0) free.push_back(dependant);
    }
  }
  if (free.size() == jobs_.size()) return absl::OkStatus();
  return DescribeCircle(waits_for);
}

// `waits_for` is not 0 for those in a circle, and those that wait for one.
absl::Status DevicesLoad::DescribeCircle(const std::vector<size_t>& waits_for) const {
  const auto before = [&](size_t index) {
    for (const DeviceId& device : jobs_[index].loader->after) {
      if (waits_for[index_of_.at(device)] != 0) return index_of_.at(device);
    }
    return index;  // never: who waits for nobody is not among them
  };
  size_t start = 0;
  while (waits_for[start] == 0) ++start;
  for (size_t i = 0; i < jobs_.size(); ++i) start = before(start);  // is in the circle by then
  std::string circle = Describe(jobs_[start].loader->device);
  size_t at = start;
  do {
    at = before(at);
    absl::StrAppend(&circle, at == before(start) ? "" : ", which", " comes after ",
                    Describe(jobs_[at].loader->device));
  } while (at != start);
  return absl::InvalidArgumentError(absl::StrCat("devices wait for each other: ", circle));
}

absl::Status DevicesLoad::FindSections() {
  for (const DeviceSection& section : snapshot_.description().devices) {
    const auto found = index_of_.find({section.name, section.instance_id});
    if (found == index_of_.end()) {
      unclaimed_.push_back(&section);
      continue;
    }
    Job& job = jobs_[found->second];
    if (job.state != nullptr) {
      return DataLossError(snapshot_.file(), Describe(section.name, section.instance_id),
                           " is there twice");
    }
    job.state = std::make_unique<DeviceState>(snapshot_, section, cancelled_);
    stream_order_.push_back(found->second);
  }
  for (size_t i = 0; i < jobs_.size(); ++i) {
    if (jobs_[i].state != nullptr) continue;
    if (!jobs_[i].loader->optional) {
      return absl::NotFoundError(absl::StrCat(snapshot_.file().name(), ": there is no ",
                                              Describe(jobs_[i].loader->device)));
    }
    stream_order_.push_back(i);
  }
  return absl::OkStatus();
}

absl::Status DevicesLoad::ReportUnclaimed() const {
  if (!unclaimed_.empty() && options_.on_unclaimed == nullptr) {
    const DeviceSection& first = *unclaimed_[0];
    return absl::FailedPreconditionError(absl::StrCat(
        snapshot_.file().name(), ": ", Describe(first.name, first.instance_id), " has no loader",
        unclaimed_.size() == 1 ? "" : absl::StrCat(", and ", unclaimed_.size() - 1, " more")));
  }
  for (const DeviceSection* section : unclaimed_) options_.on_unclaimed(*section);
  return absl::OkStatus();
}

absl::Status DevicesLoad::MakeBuffers(Job& job) {
  const DeviceLoader& loader = *job.loader;
  if (loader.buffer_bytes == 0 || loader.buffer_bytes > kMaxBufferBytes) {
    return absl::InvalidArgumentError(absl::StrCat(Describe(loader.device), ": buffers of ",
                                                   loader.buffer_bytes, " bytes: 1 to ",
                                                   kMaxBufferBytes));
  }
  if (job.state == nullptr) return absl::OkStatus();
  const uint64_t size = job.state->section().size;
  job.buffer_count = size / loader.buffer_bytes + (size % loader.buffer_bytes == 0 ? 0 : 1);
  absl::StatusOr<std::unique_ptr<IndexedBuffers>> buffers = IndexedBuffers::Create(
      {.count = job.buffer_count,
       .limit_bytes = 0,  // whoever has read too early waits, for it need not read the next
       .producers = 1,
       .any_order = loader.any_order,
       .limit_of_all = read_ahead_},
      [&job](uint64_t index, absl::Span<const uint8_t> bytes) {
        return job.loader->load_buffer(*job.state, index * job.loader->buffer_bytes, bytes);
      });
  if (!buffers.ok()) return Annotate(loader.device, buffers.status());
  job.buffers = *std::move(buffers);
  return absl::OkStatus();
}

absl::Status DevicesLoad::Run() {
  size_t wanted = options_.threads;
  if (wanted == 0) {
    // One for each device, or as many as read one that comes in buffers.
    for (const Job& job : jobs_) wanted += job.buffers == nullptr ? 1 : 1 + kHelpers;
    wanted = std::min<size_t>(wanted, kDefaultMaxThreads);
  }
  {
    absl::MutexLock lock(&mu_);
    left_ = jobs_.size();
    for (const size_t index : stream_order_) {
      if (jobs_[index].waits_for == 0) MakeReady(index);
    }
  }
  absl::Status started;
  {
    std::vector<std::unique_ptr<Thread>> threads;
    while (threads.size() < wanted) {
      absl::StatusOr<std::unique_ptr<Thread>> thread = Thread::Start(
          "ramjet-device", [this] { Work(); }, kLoaderStackBytes);
      if (!thread.ok()) {
        // Fewer are slower, none is an error.
        if (threads.empty()) started = thread.status();
        break;
      }
      threads.push_back(*std::move(thread));
    }
  }
  absl::MutexLock lock(&mu_);
  return started.ok() ? failure_ : started;
}

void DevicesLoad::Work() {
  absl::MutexLock lock(&mu_);
  for (;;) {
    mu_.Await(absl::Condition(this, &DevicesLoad::HasWorkOrEnded));
    if (ended()) return;
    // To begin another device is worth more than to help with one that is being loaded.
    const bool help = ready_.empty();
    std::deque<size_t>& queue = help ? to_help_ : ready_;
    const size_t index = queue.front();
    queue.pop_front();
    mu_.Unlock();
    if (!help) {
      Load(index);
    } else if (jobs_[index].buffers->AddProducer()) {
      ReadBuffers(jobs_[index]);
    }
    mu_.Lock();
  }
}

void DevicesLoad::Load(size_t index) {
  Job& job = jobs_[index];
  const absl::Status loaded = LoadJob(job);
  absl::MutexLock lock(&mu_);
  if (!loaded.ok()) {
    if (!failure_.ok()) return;
    failure_ = Annotate(job.loader->device, loaded);
    cancelled_.store(true, std::memory_order_relaxed);
    for (Job& other : jobs_) {
      if (other.buffers != nullptr) other.buffers->Cancel(absl::CancelledError("another failed"));
    }
    return;
  }
  --left_;
  for (const size_t dependant : job.dependants) {
    if (--jobs_[dependant].waits_for == 0) MakeReady(dependant);
  }
}

absl::Status DevicesLoad::LoadJob(Job& job) {
  if (job.state == nullptr) return absl::OkStatus();
  if (job.buffers != nullptr) {
    ReadBuffers(job);
    absl::Status loaded = job.buffers->Wait();
    if (!loaded.ok()) return loaded;
  }
  return job.loader->load == nullptr ? absl::OkStatus() : job.loader->load(*job.state);
}

// Reads buffers as long as there are any, and puts them where their turn is awaited. Numbers are
// given out in order, so the lowest that is not loaded is never missing for long.
void DevicesLoad::ReadBuffers(Job& job) {
  const uint64_t size = job.state->section().size;
  std::vector<uint8_t> buffer;
  for (;;) {
    const uint64_t index = job.next_buffer.fetch_add(1, std::memory_order_relaxed);
    if (index >= job.buffer_count) break;
    const uint64_t offset = index * job.loader->buffer_bytes;
    const uint64_t length = std::min(job.loader->buffer_bytes, size - offset);
    if (!job.buffers->Reserve(index, length, buffer).ok()) break;
    absl::Status status = job.state->Read(offset, absl::MakeSpan(buffer));
    if (status.ok()) {
      status = job.buffers->Put(index, buffer);
    } else {
      job.buffers->Cancel(status);
    }
    if (!status.ok()) break;
  }
  (void)job.buffers->EndProducer();  // whoever waits for the whole gets the error
}

void DevicesLoad::MakeReady(size_t index) {
  const Job& job = jobs_[index];
  ready_.push_back(index);
  if (job.buffers == nullptr) return;
  for (int i = 0; i < (job.loader->any_order ? kAnyOrderHelpers : kHelpers); ++i) {
    to_help_.push_back(index);
  }
}

}  // namespace

absl::Status DeviceState::Read(uint64_t offset, absl::Span<uint8_t> buffer) const {
  if (offset > section_.size || buffer.size() > section_.size - offset) {
    return absl::OutOfRangeError(absl::StrCat(buffer.size(), " bytes at ", offset,
                                              " were asked for of a state of ", section_.size));
  }
  absl::Status read = snapshot_.file().ReadAt(section_.offset + offset, buffer);
  return read.ok() ? snapshot_.file().CheckUnchanged() : read;
}

absl::Status LoadDevices(const Snapshot& snapshot, absl::Span<const DeviceLoader> loaders,
                         const LoadDevicesOptions& options) {
  DevicesLoad load(snapshot, loaders, options);
  absl::Status planned = load.Plan();
  return planned.ok() ? load.Run() : planned;
}

}  // namespace ramjet
