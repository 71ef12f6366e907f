// One load after the other, each with memory, guests and an end of its own.
#ifndef RAMJET_TESTS_SOAK_LOAD_H_
#define RAMJET_TESTS_SOAK_LOAD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "loader/load_stats.h"
#include "loader/snapshot_loader.h"
#include "mappedram/snapshot.h"
#include "tests/soak_model.h"
#include "tests/soak_vm.h"

namespace ramjet::soak {

struct Config {
  uint64_t seconds = 10;
  uint64_t seed = 0;
  unsigned guests = 3;
  unsigned eager_threads = 2;
  uint64_t memory_mib = 48;
  uint64_t from_load = 0;
  std::vector<BlockMemory> kinds = {BlockMemory::kPrivate, BlockMemory::kShared};
};

enum class Eager { kAtOnce, kLate, kNever };

// One load of a VM, from mapping its memory to comparing every byte of it.
class Load {
 public:
  Load(const Config& config, const Layout& layout, uint64_t number, bool may_poison);
  void Run();
  // Called by the monitor, at any time.
  std::string Describe() const;
  void AbortIfStuck() const;

  [[noreturn]] void Fail(const std::string& why) const { vm_->Fail(why); }

 private:
  void AttachAll(Random& random, size_t from, size_t to);
  void AwaitOps(uint64_t ops) const;
  void Pester(uint64_t seed);
  void CompareAll(bool by_kernel);
  void CompareOtherMappings();
  void CheckCounts(const LoadStats& stats);

  const Config& config_;
  const uint64_t number_;
  uint64_t seed_;
  Eager eager_;
  uint64_t ops_per_guest_;
  std::string working_set_;  // its path, or nothing
  uint64_t signal_gap_us_;   // 0: none are sent

  std::shared_ptr<Snapshot> snapshot_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<Vm> vm_;
  std::vector<size_t> order_;  // of attaching
  std::unique_ptr<SnapshotLoader> loader_;
  // Of the loader, for the monitor, while there is one.
  std::atomic<const LoadStats*> stats_{nullptr};
  std::vector<Doing> doing_;  // of the guests, and last of the main thread
  std::vector<std::thread> threads_;
  std::atomic<unsigned> running_{0};
};

// For the handler of signals.
inline std::atomic<const Load*> current_load{nullptr};

}  // namespace ramjet::soak

#endif  // RAMJET_TESTS_SOAK_LOAD_H_
