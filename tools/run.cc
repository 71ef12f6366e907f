#include "tools/run.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "tools/error_line.h"
#include "tools/preload/checkable_incoming.h"
#include "tools/preload/incoming_name.h"
#include "tools/preload/old_stats.h"
#include "tools/preload/settings.h"
#include "tools/preloadable.h"

namespace ramjet {
namespace {

// From the directory of this program: where the build puts it, and where tools/install does.
constexpr const char* kLibraries[] = {"libramjet_preload.so", "../lib/ramjet/libramjet_preload.so"};

int Fail(const std::string& why) {
  PrintError(why);
  return 1;
}

// What the emulator is to call the file. In a URI, QEMU takes all that follows the first ",offset="
// for a number; a path that contains it is opened here, and inherited.
std::string NameForEmulator(const std::string& path) {
  if (!absl::StrContains(path, ",offset=")) return path;
  constexpr int kLeast = 64;  // what a script between us and the emulator does not use itself
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const int inherited = file < 0 ? -1 : fcntl(file, F_DUPFD, kLeast);
  return inherited < 0 ? path : absl::StrCat(kInheritedPrefix, inherited);
}

// Where the emulator finds the stream in `path`. A file in which none is found gets no offset, and
// from the emulator the answer that it would have given without us. What is to be compared with
// checksums must not be loaded without the preload library.
std::string MigrationUri(const std::string& path, bool checksums) {
  const std::string name = checksums ? kIncomingName : NameForEmulator(path);
  absl::StatusOr<File> file = File::Open(path);
  if (file.ok()) {
    const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(*file);
    if (description.ok() && description->stream_offset > 0) {
      return absl::StrCat("file:", name, ",offset=", description->stream_offset);
    }
  }
  return absl::StrCat("file:", name);
}

// What the preload library would find out, too, but only when the emulator is under way. Without
// `incoming` it alone knows the snapshot.
absl::Status CheckChecksums(const RunOptions& options) {
  if (options.checksums.empty()) return absl::OkStatus();
  absl::Status able = CheckIncoming(options.command);
  if (able.ok()) able = CheckPreloadable(options.command[0]);
  if (!able.ok()) return able;
  if (options.incoming.empty()) return ReadChecksums(options.checksums).status();
  absl::StatusOr<File> file = File::Open(options.incoming);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  if (!snapshot.ok()) return snapshot.status();
  return BoundChecksums::Read(options.checksums, **snapshot).status();
}

absl::StatusOr<std::string> FindLibrary() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::NotFoundError(absl::StrCat("/proc/self/exe: ", error.message()));
  std::string tried;
  for (const char* const place : kLibraries) {
    const std::string library = (self.parent_path() / place).lexically_normal().string();
    if (access(library.c_str(), R_OK) == 0) return library;
    absl::StrAppend(&tried, tried.empty() ? "" : "; ", library, ": ", std::strerror(errno));
  }
  return absl::NotFoundError(
      absl::StrCat("the preload library is nowhere near this program: ", tried));
}

// In front of whatever the caller preloads himself.
void Preload(const std::string& library) {
  const char* const others = std::getenv("LD_PRELOAD");
  const std::string all =
      others == nullptr || *others == '\0' ? library : absl::StrCat(library, ":", others);
  setenv("LD_PRELOAD", all.c_str(), 1);
}

// Absolute, for -daemonize changes the directory.
bool SetPath(const char* variable, const std::string& path) {
  if (path.empty()) return unsetenv(variable) == 0;
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) Fail(absl::StrCat(path, ": ", error.message()));
  return !error && setenv(variable, absolute.c_str(), 1) == 0;
}

}  // namespace

int RunEmulator(const RunOptions& options) {
  const absl::StatusOr<std::string> library = FindLibrary();
  if (!library.ok()) return Fail(std::string(library.status().message()));
  // The dynamic linker takes both for separators.
  if (absl::StrContains(*library, ':') || absl::StrContains(*library, ' ')) {
    return Fail(absl::StrCat(
        "the preload library cannot be used from a path with a colon or space: ", *library));
  }
  const absl::Status checked = CheckChecksums(options);
  if (!checked.ok()) return Fail(std::string(checked.message()));
  Preload(*library);
  setenv(kEagerVariable, options.eager ? "on" : "off", 1);
  setenv(kEagerThreadsVariable, absl::StrCat(options.eager_threads).c_str(), 1);
  setenv(kEagerRateVariable, absl::StrCat(options.eager_bytes_per_s).c_str(), 1);
  setenv(kWholeWindowsVariable, options.whole_windows ? "on" : "off", 1);
  setenv(kDirectVariable, options.direct.c_str(), 1);
  setenv(kRecordForVariable, absl::StrCat(options.record_seconds).c_str(), 1);
  const std::string incoming = options.checksums.empty() ? "" : options.incoming;
  for (const auto& [variable, path] :
       {std::pair(kStatsVariable, options.stats_path),
        std::pair(kRecordVariable, options.record_path),
        std::pair(kWorkingSetVariable, options.working_set),
        std::pair(kChecksumsVariable, options.checksums), std::pair(kIncomingVariable, incoming)}) {
    if (!SetPath(variable, path)) return 1;
  }
  // Without `incoming` it is the preload library that learns whether there is to be a load.
  if (!options.incoming.empty()) RemoveOldStats(options.stats_path);

  std::vector<std::string> command = options.command;
  if (!options.incoming.empty()) {
    for (const std::string& argument :
         {std::string("-global"), std::string("migration.mapped-ram=on"), std::string("-incoming"),
          MigrationUri(options.incoming, !options.checksums.empty())}) {
      command.push_back(argument);
    }
  }
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (std::string& argument : command) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  return Fail(absl::StrCat("cannot run ", command[0], ": ", std::strerror(errno)));
}

}  // namespace ramjet
