// Saves a busy guest once, then times restores of it: QEMU's own and ramjet's, in turn.
//
// One restore, whoever does it: host memory is warmed up, the file is put into or out of the page
// cache, a fresh QEMU gets `migrate-incoming`. From the moment this is sent run
//   to_resume      until QEMU leaves "inmigrate" (QEMU's own stamp of its RESUME event, the host's
//                  clock: neither polling of ours nor a late look is in it);
//   to_first_work  until the first new `tick` of the guest arrives on its serial line;
//   to_resident    until all memory is there: for QEMU's own load this is to_resume, for ramjet
//                  the arrival of the complete statistics (or their own figure, if that is later).
#ifndef RAMJET_TOOLS_RESTORE_TIMING_H_
#define RAMJET_TOOLS_RESTORE_TIMING_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tools/page_cache.h"
#include "tools/qemu_process.h"
#include "tools/test_guest.h"

namespace ramjet {

enum class Loader { kStock, kRamjet };

// Told what is going on, in a few words.
using ShowStep = std::function<void(const std::string&)>;

struct Restore {
  int round = 0;  // from 1
  CacheState cache = CacheState::kWarm;
  Loader loader = Loader::kStock;
  double to_resume_s = 0;
  double to_first_work_s = 0;
  double to_resident_s = 0;
  nlohmann::json stats;  // ramjet.stats/1; null for QEMU's own load
};

struct Medians {
  double to_resume_s = 0;
  double to_first_work_s = 0;
  double to_resident_s = 0;
  double faults = 0;
  double fault_p50_us = 0;
  double fault_p99_us = 0;
};

// A saved guest and what it takes to restore it.
class SavedGuest {
 public:
  // Boots, fills and saves a guest, running, into `directory`. `ramjet` is the path of the command.
  static absl::StatusOr<SavedGuest> Create(const GuestOptions& guest, const std::string& directory,
                                           const std::string& ramjet, const ShowStep& show_step);

  const GuestOptions& guest() const { return guest_; }
  const std::string& snapshot() const { return snapshot_; }
  uint64_t last_tick() const { return last_tick_; }  // printed before the guest was saved

  // Both loaders, both cache states, `rounds` times. Who comes first changes from round to round.
  absl::StatusOr<std::vector<Restore>> TimeRounds(int rounds, const ShowStep& show_step) const;

  // sha256 of all guest RAM right after a restore that leaves the guest paused.
  absl::StatusOr<std::string> HashRestoredRam(Loader loader) const;

 private:
  SavedGuest(GuestOptions guest, std::string directory, std::string ramjet);

  absl::StatusOr<Restore> TimeOne(Loader loader, CacheState cache) const;
  QemuOptions RestoreOptions(Loader loader, const std::string& stats_path) const;

  GuestOptions guest_;
  std::string directory_;
  std::string ramjet_;
  std::string snapshot_;
  uint64_t last_tick_ = 0;
};

Medians MediansOf(const std::vector<Restore>& restores, Loader loader, CacheState cache);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_RESTORE_TIMING_H_
