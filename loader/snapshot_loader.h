// A snapshot being loaded into the memory of this process while that is in use: the C++ face of
// ramjet.
#ifndef RAMJET_LOADER_SNAPSHOT_LOADER_H_
#define RAMJET_LOADER_SNAPSHOT_LOADER_H_

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "loader/eager_queue.h"
#include "loader/eager_thread.h"
#include "loader/fault_thread.h"
#include "loader/guest_mapping.h"
#include "loader/huge_page_policy.h"
#include "loader/install_gate.h"
#include "loader/load_progress.h"
#include "loader/load_stats.h"
#include "loader/page_loader.h"
#include "loader/ram_block.h"
#include "loader/ram_map.h"
#include "loader/read_pacer.h"
#include "loader/snapshot_lease.h"
#include "loader/touch_record.h"
#include "loader/vm_stop.h"
#include "loader/window_offers.h"
#include "loader/window_trip.h"
#include "loader/working_set_thread.h"
#include "mappedram/bulk_reader.h"
#include "mappedram/checksums.h"
#include "mappedram/page_source.h"
#include "mappedram/snapshot.h"
#include "uffd/huge_page_advice.h"
#include "uffd/userfaultfd.h"

namespace ramjet {

// What becomes of a page that a thread waits for and the file does not give, for some seconds.
// Never zeros, never silence.
enum class OnUnreadable {
  // Its use is a SIGBUS (in a guest a machine check), and the others keep coming. Where the kernel
  // cannot do that, and in shared memory, where poison would not hold in every mapping: as kStopVm.
  kPoison,
  // Whoever touches it sleeps until the VM is ended: see Options::stop_vm.
  kStopVm,
};

// Example:
//   auto loader = SnapshotLoader::Create(*Snapshot::Open(*File::Open("vm.mr")), {});
//   (*loader)->Attach(0, {.host = ram});  // the memory can be used from here on
//   ... load device state, run the guest ...
//   (*loader)->StartEager();
//   (*loader)->Wait();    // everything is there
//   (*loader)->Detach();  // ordinary memory again, no thread and no descriptor left
//
// Owns the snapshot, the userfaultfd and the threads. The memory is the VMM's; it outlives the
// loader, unless the process ends, which needs no care at all.
//
// Threads: every method may be called concurrently. Wait(), Detach() and the destructor must not be
// called by a thread that a guest's fault could be waiting for.
class SnapshotLoader {
 public:
  struct Options {
    // A userfaultfd of this process, of which a duplicate is used; -1: open one.
    int uffd = -1;
    // An open /dev/userfaultfd, if the process may no longer be able to open it.
    int device_fd = -1;
    DirectReads direct = DirectReads::kAuto;  // of what is loaded ahead
    // 1 to kMaxEagerThreads; 0: as many as suit the machine, which are 2 to 4, of which one at
    // least leaves its processor to the guest unless the disk is slow.
    unsigned eager_threads = 0;
    // Loaded ahead in the mean, at most; 0: no limit. Ignored where there is no read lease on the
    // snapshot, because nothing else keeps it from being overwritten until it is loaded.
    uint64_t eager_bytes_per_s = 0;
    // Who touches a page of which the huge page around it is in the page cache gets all of that,
    // once loading ahead has begun and if it has no limit: 0.3 to 0.5 ms, not 0.02, for the first
    // page, nothing for the next, and a huge page.
    bool whole_windows = true;
    OnUnreadable on_unreadable = OnUnreadable::kPoison;
    // If the VM is to be stopped: called once, by a thread of the loader, with the reason. Must not
    // touch guest memory, nor end the loader. Without it `kill_pid` gets SIGKILL, if that is not 0.
    std::function<void(const absl::Status& why)> stop_vm = nullptr;
    pid_t kill_pid = 0;
    // Called with each line that goes into stats().notes(). Must not call the loader.
    std::function<void(const std::string& note)> note = nullptr;
    // A file of SaveWorkingSet(): its pages are loaded first, beginning when a block is attached:
    // gently until StartEager() is called (or 50 ms have passed), for the guest is being resumed,
    // and then as fast as can be. Eager threads wait until they are there. Empty: none. If it is
    // damaged, or of another snapshot, stats().errors() says so and nothing else happens.
    std::string working_set = {};
    // A file of checksums (mappedram/checksums.h): a page is given to the guest only if its run of
    // pages has the sum that it had when they were made, and is as unreadable otherwise. Empty:
    // nothing is compared.
    std::string checksums = {};
    // Note which pages are touched, for SaveWorkingSet().
    bool record = false;
    // The caller tells errors to somebody (TakeUntold()): an unreadable page is given up once the
    // reason is told, or a second has passed. Else it is enough that stats().errors() has it.
    bool tell_errors = false;
  };
  static constexpr unsigned kMaxEagerThreads = 64;

  // Opens a userfaultfd and starts the fault thread. FailedPrecondition: this process may not, or
  // this kernel cannot, or another loader had the snapshot, which is used up even if this fails.
  // Checksums: see BindChecksums().
  // Without `source`, pages are read from the snapshot; with it (tests), from there; it outlives
  // the loader.
  static absl::StatusOr<std::unique_ptr<SnapshotLoader>> Create(std::shared_ptr<Snapshot> snapshot,
                                                                const Options& options,
                                                                const PageSource* source = nullptr);

  // Reads Options::checksums; nullopt: none are wanted. InvalidArgument: the file has none, or has
  // those of another snapshot; DataLoss: damaged.
  static absl::StatusOr<std::optional<BoundChecksums>> BindChecksums(const std::string& path,
                                                                     const Snapshot& snapshot);

  // Finish(), and detaches: guest memory is never left with pages owed and nobody to bring them
  // (docs/design.md, promise 7). If the VM had to be stopped, abandons it.
  ~SnapshotLoader();

  // Makes the mapping that block's memory: whatever is there is dropped, and from the return on
  // every access sees the snapshot's content, at once or as soon as it is read. On an error nothing
  // is registered, and the memory's content is unspecified, so load it in another way. NotFound: no
  // such block; AlreadyExists: it is attached; FailedPrecondition: this memory cannot be loaded
  // lazily; InvalidArgument: the mapping makes no sense. The message says why.
  absl::Status Attach(size_t block, const BlockMapping& mapping) ABSL_LOCKS_EXCLUDED(mu_);

  // The other way: reads all of a block that is not attached to `to`, which is its used_length
  // long; bytes that are zero already are not written. Attach() of the same block waits until it is
  // done. NotFound: no such block; AlreadyExists: it is attached; else it cannot be read.
  absl::Status ReadUnattached(size_t block, absl::Span<uint8_t> to) ABSL_LOCKS_EXCLUDED(mu_);

  // Starts loading ahead, of blocks attached by now or later. Without it pages come only when they
  // are touched. From now on a thread that touches a page gets the huge page around it, too, where
  // one is wanted (Options::whole_windows): so not before the guest is about to run, for what is
  // touched here and there while devices are restored comes sooner by itself.
  //
  // From now on, or from the first Wait() on, a read lease keeps others from writing to the
  // snapshot until Detach() or Abandon(), where one can be had (SnapshotLease). Whoever tries waits
  // until complete(), for which everything is loaded as by Hurry(). stats().notes() tells of that,
  // and of no lease.
  absl::Status StartEager() ABSL_LOCKS_EXCLUDED(mu_);

  // StartEager(), and from now on without the limit of Options::eager_bytes_per_s.
  absl::Status Hurry() ABSL_LOCKS_EXCLUDED(mu_);

  // For a caller that cannot go on before everything is there: Hurry(), and the calling thread
  // loads, too, so that the end comes even where no thread could be started. It counts as a guest
  // that waits: what the file does not give for that long is given up. Statuses as Wait().
  absl::Status Finish() ABSL_LOCKS_EXCLUDED(mu_);

  // Writes the pages that were touched before StartEager() was called, or up to now, to `path`: a
  // working set for the next load of this snapshot. It replaces what is there when it is complete;
  // until then it is called PATH.PID.tmp. FailedPrecondition: Options::record was not set, or there
  // was no memory to record; else the file cannot be written, or the snapshot not be read.
  absl::Status SaveWorkingSet(const std::string& path) const ABSL_LOCKS_EXCLUDED(mu_);

  // The caller is about to discard [start, end) in a way that the kernel does not report (fallocate
  // with a hole on shared memory). On return nothing of it can arrive any more: pages that had not
  // are zero for ever after.
  void Discard(uintptr_t start, uintptr_t end);

  // Every attached block has all that it is owed.
  bool complete() const;

  // Sleeps until complete() (OK), or `timeout` has passed (DeadlineExceeded), or a page cannot be
  // had and not be poisoned (Aborted): then its users sleep for ever, and the VM has to be ended;
  // or Abandon() was called (Cancelled). Pages that the file does not give and nobody waits for are
  // tried again and again: then there is no end before the file recovers.
  absl::Status Wait(absl::Duration timeout = absl::InfiniteDuration());
  // The same, but Unavailable at once if there are errors that nobody has taken.
  absl::Status WaitOrError(absl::Duration timeout);

  // For Options::tell_errors: the errors since the last call, and the word that they are told.
  LoadStats::Untold TakeUntold() { return stats_.TakeUntold(); }
  void MarkTold(const LoadStats::Untold& errors) { stats_.MarkTold(errors.upto); }
  absl::Status stopped_why() const { return vm_stop_->why(); }  // OK: the VM may go on

  // Hands the memory over to the kernel: unregisters, ends the threads, closes the descriptor.
  // FailedPrecondition unless complete(). Nothing may be attached afterwards; what else is asked
  // for does nothing, and statistics stay.
  absl::Status Detach() ABSL_LOCKS_EXCLUDED(mu_);

  // Makes huge pages of what has arrived in small ones because it was touched before its turn,
  // where huge pages are wanted (MADV_COLLAPSE, Linux 6.1). Costs half a millisecond for every 2
  // MiB that were touched so, and nobody waits for it: to be called after Detach(), by a thread
  // that has time. Ranges of which the guest has given something up stay as they are.
  void Collapse() ABSL_LOCKS_EXCLUDED(mu_);

  // For a guest that will never run again: ends the load as it stands. Memory of incomplete blocks
  // becomes inaccessible, since it would read as zeros, and a thread that sleeps there wakes to a
  // SIGSEGV. Takes no longer than a few reads. Nothing of it may be unmapped at the same time.
  void Abandon() ABSL_LOCKS_EXCLUDED(mu_);

  const Snapshot& snapshot() const { return *snapshot_; }
  const LoadStats& stats() const { return stats_; }
  uint64_t cpu_ns() const ABSL_LOCKS_EXCLUDED(mu_);  // of all our threads so far
  // Pages of all attached blocks, how many of them have content in the file...
  struct PageCounts {
    uint64_t total = 0;
    uint64_t nonzero = 0;
    uint64_t missing = 0;  // of those, that have not arrived
  };
  PageCounts attached_pages() const ABSL_LOCKS_EXCLUDED(mu_);
  bool attached(size_t block) const ABSL_LOCKS_EXCLUDED(mu_);
  // From Create() until the last page arrived; infinite before that.
  absl::Duration to_complete() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  SnapshotLoader(std::shared_ptr<Snapshot> snapshot, const Options& options,
                 const PageSource* source, std::optional<BoundChecksums> checksums,
                 std::unique_ptr<VmStop> vm_stop, Userfaultfd uffd);
  void StartRecord();
  absl::Status WaitUntil(uint64_t deadline_ns, bool or_error);
  bool BeginFinishing() ABSL_LOCKS_EXCLUDED(mu_);
  void StartLease() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void LoadWithoutLease(const absl::Status& why);
  void LoadBeforeOverwritten();
  void Note(const std::string& note);
  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const std::shared_ptr<Snapshot> snapshot_;
  const Options options_;
  const uint64_t created_ns_;

  // Thread-safe themselves.
  LoadStats stats_;
  LoadProgress progress_;
  InstallGate gate_;
  const std::unique_ptr<VmStop> vm_stop_;
  // Constant after construction, nothing without checksums.
  const std::optional<BoundChecksums> checksums_;
  const std::optional<CheckedSource> checked_demand_;
  const std::optional<CheckedSource> checked_bulk_;
  const PageSource& demand_;  // checked, if anything is
  ReadPacer pacer_;
  RamMap map_;
  std::atomic<bool> abandoned_{false};
  std::atomic<bool> lease_started_{false};  // or never will be; set under mu_
  std::unique_ptr<TouchRecord> record_;     // nullptr: nothing is recorded. Constant after Create()

  // Attach() is serialized, and what it adds is never taken away before the end.
  mutable absl::Mutex mu_;
  std::vector<std::unique_ptr<RamBlock>> blocks_ ABSL_GUARDED_BY(mu_);
  std::vector<bool> attached_ ABSL_GUARDED_BY(mu_);  // by index in Snapshot::blocks()
  std::vector<int> readers_ ABSL_GUARDED_BY(mu_);    // so, too: threads in ReadUnattached()
  std::vector<HugePagesOff> huge_pages_off_ ABSL_GUARDED_BY(mu_);
  uint64_t ended_cpu_ns_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Mutex finishing_mu_ ABSL_ACQUIRED_AFTER(mu_);
  int finishing_ ABSL_GUARDED_BY(finishing_mu_) = 0;  // threads in a LoadFinisher

  // From here on the order is that of dependence: threads end before what they use, and the
  // descriptor closes only after Detach() has unregistered everything.
  std::optional<Userfaultfd> uffd_;
  std::optional<PageLoader> loader_;
  std::optional<WindowTrip> window_trip_;
  HugePagePolicy huge_pages_;
  WindowOffers offers_;  // of the fault thread's, to eager threads
  EagerQueue eager_queue_;
  // Holds the eager queue back until its pages are there; nullptr without a working set.
  std::unique_ptr<WorkingSetThread> working_set_thread_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<FaultThread> fault_thread_;  // there until Detach()
  std::vector<std::unique_ptr<EagerThread>> eager_threads_ ABSL_GUARDED_BY(mu_);
  // Its thread may wait for mu_, so it is ended without it.
  std::unique_ptr<SnapshotLease> lease_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ramjet

#endif  // RAMJET_LOADER_SNAPSHOT_LOADER_H_
