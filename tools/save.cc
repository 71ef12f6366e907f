#include "tools/save.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/new_file.h"
#include "mappedram/snapshot.h"
#include "nlohmann/json.hpp"
#include "tools/deferred_signals.h"
#include "tools/error_line.h"
#include "tools/fd.h"
#include "tools/progress_bar.h"
#include "tools/qmp_client.h"

namespace ramjet {
namespace {

using nlohmann::json;

constexpr absl::Duration kGreetingTimeout = absl::Seconds(10);
constexpr absl::Duration kPollEvery = absl::Milliseconds(100);
// After so many passes over its memory, a guest that changes it faster than it can be written is
// stopped, for the save would never end.
constexpr uint64_t kLivePasses = 10;

struct Saved {
  std::string machine;
  uint64_t ram_bytes = 0;
  uint64_t nonzero_bytes = 0;
  uint64_t file_bytes = 0;  // on the disk, without holes
  bool running = false;     // the guest, now
  absl::Duration migrating;
  absl::Duration syncing;
  absl::Duration stopped;  // how long the guest was kept from running
};

// One save. Used once.
class Save {
 public:
  Save(const SaveOptions& options, QmpClient& qmp, const DeferredSignals& signals)
      : options_(options), qmp_(qmp), signals_(signals), bar_(options.path) {}

  absl::StatusOr<Saved> Run();

 private:
  absl::Status Migrate(const NewFile& file);
  absl::Status PassFile(const NewFile& file);
  absl::Status Stop();
  absl::Status WaitForEnd();
  absl::Status Follow(const json& migration);
  absl::Status PutBack(bool saved);
  absl::Status Check(const NewFile& file);
  absl::Status MakeChecksums(const NewFile& file, const NewFile& sums);

  const SaveOptions& options_;
  QmpClient& qmp_;
  const DeferredSignals& signals_;
  ProgressBar bar_;

  bool ran_ = false;  // the guest, before
  absl::Time stopped_ = absl::InfiniteFuture();
  MigrationSettings settings_before_;
  json fdset_ = nullptr;  // its number, once there is one
  bool stopped_by_us_ = false;
  Saved saved_;
};

std::string RunState(const absl::StatusOr<json>& answer) {
  return answer.ok() ? StringMember(*answer, "status") : "";
}

absl::StatusOr<Saved> Save::Run() {
  // After our own descriptor is closed: the last who closes a file that was truncated, as QEMU did
  // to begin with, waits in ext4 until it has found room for what is not on the disk yet. QEMU's
  // main loop, and with it the guest's devices, must not.
  const absl::Cleanup forget = [this] {
    if (fdset_.is_null()) return;
    qmp_.Execute("remove-fd", {{"fdset-id", fdset_}}).IgnoreError();
  };
  absl::StatusOr<NewFile> file = NewFile::Create(options_.path, {});
  if (!file.ok()) return file.status();
  std::optional<NewFile> sums;
  if (!options_.checksums.empty()) {
    absl::StatusOr<NewFile> created = NewFile::Create(options_.checksums, {});
    if (!created.ok()) return created.status();
    sums.emplace(*std::move(created));
  }

  const absl::Status migrated = Migrate(*file);
  const absl::Status put_back = PutBack(migrated.ok());
  if (!migrated.ok()) {
    return absl::Status(migrated.code(),
                        absl::StrCat(options_.path, ": not saved: ", migrated.message()));
  }
  const absl::Status whole = Check(*file);
  if (!whole.ok()) return whole;
  const absl::Time written = absl::Now();
  if (options_.sync) {
    bar_.Show("waiting for the disk");
    const absl::Status synced = file->Sync();
    if (!synced.ok()) return synced;
  }
  saved_.syncing = absl::Now() - written;
  const absl::Status summed = sums ? MakeChecksums(*file, *sums) : absl::OkStatus();
  if (signals_.Came()) {
    return absl::CancelledError(absl::StrCat(options_.path, ": not saved: cancelled"));
  }
  if (!summed.ok()) return summed;
  const absl::Status finished = sums ? NewFile::PublishBoth(*file, *sums) : file->Publish();
  if (!finished.ok()) return finished;
  if (put_back.ok()) return saved_;
  return absl::Status(put_back.code(),
                      absl::StrCat(options_.path, ": saved, but ", put_back.message()));
}

absl::Status Save::Migrate(const NewFile& file) {
  const absl::StatusOr<json> before = qmp_.Execute("query-status");
  if (!before.ok()) return before.status();
  ran_ = RunState(before) == "running";

  absl::StatusOr<MigrationSettings> settings = PrepareSave(qmp_, options_.settings);
  if (!settings.ok()) return settings.status();
  settings_before_ = *std::move(settings);
  absl::Status passed = PassFile(file);
  if (!passed.ok()) return passed;
  if (signals_.Came()) return absl::CancelledError("cancelled");
  if (ran_ && !options_.live) {
    absl::Status stopped = Stop();
    if (!stopped.ok()) return stopped;
  }
  const absl::Time asked = absl::Now();
  const auto started =
      qmp_.Execute("migrate", {{"uri", absl::StrCat("file:/dev/fdset/", fdset_.get<uint64_t>())}});
  if (!started.ok()) return started.status();
  absl::Status ended = WaitForEnd();
  saved_.migrating = absl::Now() - asked;
  return ended;
}

// QEMU takes from the set the descriptor that has just the flags that it would have used to open
// the file: with direct-io, the channels' are others than the stream's.
absl::Status Save::PassFile(const NewFile& file) {
  for (const int flags : {O_WRONLY, O_WRONLY | O_DIRECT}) {
    if ((flags & O_DIRECT) != 0 && !options_.settings.direct_io) break;
    const UniqueFd fd(open(absl::StrCat("/proc/self/fd/", file.fd()).c_str(), flags | O_CLOEXEC));
    if (!fd.valid()) {
      return absl::ErrnoToStatus(errno, (flags & O_DIRECT) != 0
                                            ? "there is no direct I/O on its file system"
                                            : "it cannot be handed to QEMU");
    }
    json arguments = {{"opaque", "ramjet save"}};
    if (!fdset_.is_null()) arguments["fdset-id"] = fdset_;
    const absl::StatusOr<json> added = qmp_.ExecuteWithFd("add-fd", arguments, fd.get());
    if (!added.ok()) return added.status();
    fdset_ = NumberMember(*added, "fdset-id");
  }
  return absl::OkStatus();
}

absl::Status Save::Stop() {
  stopped_by_us_ = true;
  return qmp_.Execute("stop").status();
}

absl::Status Save::WaitForEnd() {
  bool cancelling = false;
  while (true) {
    if (!cancelling && signals_.Came()) {
      cancelling = true;
      bar_.Show("cancelling");
      const auto asked = qmp_.Execute("migrate_cancel");
      if (!asked.ok()) return asked.status();
    }
    // An event ends the wait at once; what happened is asked for in any case.
    const auto event = qmp_.WaitForEvent("MIGRATION", absl::Now() + kPollEvery);
    if (!event.ok() && !absl::IsDeadlineExceeded(event.status())) return event.status();
    const absl::StatusOr<json> migration = qmp_.Execute("query-migrate");
    if (!migration.ok()) return migration.status();
    const std::string status = StringMember(*migration, "status");
    if (status == "completed") return absl::OkStatus();
    if (status == "cancelled") {
      return absl::CancelledError(cancelling ? "cancelled" : "cancelled by another client of QEMU");
    }
    if (status == "failed") {
      return absl::AbortedError(
          absl::StrCat("QEMU says: ", StringMember(*migration, "error-desc")));
    }
    if (cancelling) continue;
    absl::Status followed = Follow(*migration);
    if (!followed.ok()) return followed;
  }
}

// Shows the progress, and stops a guest that is faster than the save.
absl::Status Save::Follow(const json& migration) {
  const auto found = migration.find("ram");
  if (found == migration.end()) return absl::OkStatus();
  const uint64_t total = NumberMember(*found, "total");
  const uint64_t remaining = NumberMember(*found, "remaining");
  bar_.Show(total - std::min(remaining, total), total);
  const uint64_t passes = NumberMember(*found, "dirty-sync-count");
  if (!ran_ || stopped_by_us_ || passes <= kLivePasses) return absl::OkStatus();
  return Stop();
}

// The guest runs if it did; the settings are as they were. The first error is returned, and does
// not keep the rest from being done.
absl::Status Save::PutBack(bool saved) {
  absl::Status first;
  const auto execute = [&](absl::string_view command) {
    absl::StatusOr<json> done = qmp_.Execute(command);
    first.Update(done.status());
    return done;
  };
  // The end of a migration comes a little before the guest may be continued, and what is between
  // them has no event.
  std::string state = RunState(execute("query-status"));
  while (state == "finish-migrate") {
    absl::SleepFor(absl::Milliseconds(1));
    state = RunState(execute("query-status"));
  }
  // Not a guest that somebody else has stopped meanwhile, or that has come to an end.
  const bool stopped = state == "postmigrate" || (state == "paused" && stopped_by_us_);
  const bool may_run = ran_ && !(saved && options_.leave_stopped);
  const bool continued = stopped && may_run && execute("cont").ok();
  saved_.running = state == "running" || continued;
  const auto stop = qmp_.WaitForEvent("STOP", absl::InfinitePast());
  const auto resume = qmp_.WaitForEvent("RESUME", absl::InfinitePast());
  if (stop.ok() && resume.ok()) saved_.stopped = resume->emitted - stop->emitted;
  first.Update(PutBackSettings(qmp_, settings_before_));
  return first;
}

// A guest that was stopped for the save is to run where the file is loaded, as one saved live does.
// QEMU has written the run state of that moment into its section "globalstate": a be32, its length
// with the 0 at its end, and a buffer of which it is the beginning.
absl::Status SayThatItRan(const SnapshotDescription& description, const NewFile& file) {
  constexpr char kPaused[] = "\0\0\0\7paused\0";
  constexpr char kRunning[] = "\0\0\0\x08running";  // with the 0 at its end
  static_assert(sizeof(kPaused) == sizeof(kRunning));
  for (const DeviceSection& device : description.devices) {
    if (device.name != "globalstate" || device.size < sizeof(kRunning)) continue;
    char state[sizeof(kPaused)] = {};
    if (pread(file.fd(), state, sizeof(state), static_cast<off_t>(device.offset)) !=
        sizeof(state)) {
      return absl::ErrnoToStatus(errno, absl::StrCat(file.path(), ": cannot be read again"));
    }
    if (std::memcmp(state, kPaused, sizeof(state)) != 0) continue;
    absl::Status written =
        file.WriteAt(device.offset, {reinterpret_cast<const uint8_t*>(kRunning), sizeof(kRunning)});
    if (!written.ok()) return written;
  }
  return absl::OkStatus();
}

absl::Status Save::Check(const NewFile& file) {
  absl::StatusOr<File> again = File::Reopen(file.fd(), options_.path);
  if (!again.ok()) return again.status();
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(again));
  if (!snapshot.ok()) return snapshot.status();
  const SnapshotDescription& description = (*snapshot)->description();
  saved_.machine = description.machine;
  for (const SnapshotBlock& block : description.blocks) {
    saved_.ram_bytes += block.used_length;
    saved_.nonzero_bytes += block.nonzero_pages * block.page_size;
  }
  struct stat status = {};
  if (fstat(file.fd(), &status) == 0) saved_.file_bytes = 512 * uint64_t(status.st_blocks);
  return stopped_by_us_ ? SayThatItRan(description, file) : absl::OkStatus();
}

// Of the file as it now is, which is the last that changes of it.
absl::Status Save::MakeChecksums(const NewFile& file, const NewFile& sums) {
  bar_.Show("making checksums");
  absl::StatusOr<File> again = File::Reopen(file.fd(), options_.path);
  if (!again.ok()) return again.status();
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(again));
  if (!snapshot.ok()) return snapshot.status();
  const absl::StatusOr<Checksums> checksums =
      ComputeChecksums(**snapshot, 0, [this] { return signals_.Came(); });
  return checksums.ok() ? StageChecksums(*checksums, sums) : checksums.status();
}

std::string AsJson(const SaveOptions& options, const Saved& saved) {
  const nlohmann::ordered_json object = {
      {"schema", "ramjet.save/1"},
      {"file", options.path},
      {"machine", saved.machine},
      {"live", options.live},
      {"guest", saved.running ? "running" : "stopped"},
      {"ram", {{"total_bytes", saved.ram_bytes}, {"nonzero_bytes", saved.nonzero_bytes}}},
      {"file_bytes", saved.file_bytes},
      {"checksums", options.checksums.empty() ? json() : json(options.checksums)},
      {"seconds",
       {{"migrating", absl::ToDoubleSeconds(saved.migrating)},
        {"syncing", absl::ToDoubleSeconds(saved.syncing)},
        {"guest_stopped", absl::ToDoubleSeconds(saved.stopped)}}}};
  return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string AsText(const SaveOptions& options, const Saved& saved) {
  const auto mebibytes = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  return absl::StrFormat("%s: %.1f MiB of memory, %.1f MiB of it not zero, in %.2f s; %s\n",
                         options.path, mebibytes(saved.ram_bytes), mebibytes(saved.nonzero_bytes),
                         absl::ToDoubleSeconds(saved.migrating + saved.syncing),
                         saved.running
                             ? absl::StrFormat("the guest runs on, after a stop of %.3f s",
                                               absl::ToDoubleSeconds(saved.stopped))
                             : "the guest is stopped");
}

int Fail(const absl::Status& status) {
  PrintError(status.message());
  return 1;
}

}  // namespace

int RunSave(const SaveOptions& options) {
  const absl::StatusOr<std::unique_ptr<QmpClient>> qmp =
      QmpClient::Connect(options.socket, absl::Now() + kGreetingTimeout);
  if (!qmp.ok()) return Fail(qmp.status());
  const DeferredSignals signals;
  const absl::StatusOr<Saved> saved = Save(options, **qmp, signals).Run();
  if (!saved.ok()) return Fail(saved.status());
  const std::string text = options.json ? AsJson(options, *saved) : AsText(options, *saved);
  if (fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0) return 0;
  return Fail(absl::ErrnoToStatus(errno, "stdout"));
}

}  // namespace ramjet
