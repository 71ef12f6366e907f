// What `ramjet run` tells the preload library, by the environment.
#ifndef RAMJET_TOOLS_PRELOAD_SETTINGS_H_
#define RAMJET_TOOLS_PRELOAD_SETTINGS_H_

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "mappedram/bulk_reader.h"
#include "tools/preload/incoming_name.h"

namespace ramjet {

inline constexpr char kStatsVariable[] = "RAMJET_STATS";  // an absolute path
inline constexpr char kEagerVariable[] = "RAMJET_EAGER";  // "on" (default) or "off"
inline constexpr char kEagerThreadsVariable[] =
    "RAMJET_EAGER_THREADS";                                        // 0 by default: as many as suit
inline constexpr char kEagerRateVariable[] = "RAMJET_EAGER_RATE";  // bytes a second; 0: no limit
inline constexpr char kWholeWindowsVariable[] = "RAMJET_WHOLE_WINDOWS";  // "on" (default), "off"
inline constexpr char kDirectVariable[] = "RAMJET_DIRECT";               // "auto", "on" or "off"
inline constexpr char kRecordVariable[] = "RAMJET_RECORD";               // an absolute path
inline constexpr char kRecordForVariable[] = "RAMJET_RECORD_FOR";        // seconds; 5 by default
inline constexpr char kWorkingSetVariable[] = "RAMJET_WORKING_SET";      // an absolute path
inline constexpr char kChecksumsVariable[] = "RAMJET_CHECKSUMS";         // an absolute path

// Of the name of a snapshot that `ramjet run` has opened for the emulator; its descriptor follows.
// Nobody else writes it so.
inline constexpr char kInheritedPrefix[] = "/proc/self/./fd/";

inline constexpr const char* kAllVariables[] = {
    kStatsVariable,        kEagerVariable,     kEagerThreadsVariable, kEagerRateVariable,
    kWholeWindowsVariable, kDirectVariable,    kRecordVariable,       kRecordForVariable,
    kWorkingSetVariable,   kChecksumsVariable, kIncomingVariable,
};

struct Settings {
  std::string stats_path;  // empty: none wanted
  bool eager = true;
  unsigned eager_threads = 0;
  uint64_t eager_bytes_per_s = 0;
  bool whole_windows = true;
  DirectReads direct = DirectReads::kAuto;
  std::string record_path;  // empty: nothing is recorded
  double record_seconds = 5;
  std::string working_set;  // empty: none
  std::string checksums;    // empty: none
  std::string incoming;     // what kIncomingName stands for; empty: nothing

  static Settings FromEnvironment() {
    Settings settings;
    if (const char* path = std::getenv(kStatsVariable)) settings.stats_path = path;
    if (const char* eager = std::getenv(kEagerVariable)) settings.eager = std::strcmp(eager, "off");
    if (const char* threads = std::getenv(kEagerThreadsVariable)) {
      std::from_chars(threads, threads + std::strlen(threads), settings.eager_threads);
    }
    if (const char* rate = std::getenv(kEagerRateVariable)) {
      std::from_chars(rate, rate + std::strlen(rate), settings.eager_bytes_per_s);
    }
    if (const char* whole = std::getenv(kWholeWindowsVariable)) {
      settings.whole_windows = std::strcmp(whole, "off");
    }
    if (const char* direct = std::getenv(kDirectVariable)) {
      settings.direct = std::strcmp(direct, "on") == 0    ? DirectReads::kAlways
                        : std::strcmp(direct, "off") == 0 ? DirectReads::kNever
                                                          : DirectReads::kAuto;
    }
    if (const char* path = std::getenv(kRecordVariable)) settings.record_path = path;
    if (const char* seconds = std::getenv(kRecordForVariable)) {
      std::from_chars(seconds, seconds + std::strlen(seconds), settings.record_seconds);
    }
    if (const char* path = std::getenv(kWorkingSetVariable)) settings.working_set = path;
    if (const char* path = std::getenv(kChecksumsVariable)) settings.checksums = path;
    if (const char* path = std::getenv(kIncomingVariable)) settings.incoming = path;
    return settings;
  }
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_SETTINGS_H_
