// A file name that only the preload library can open.
#ifndef RAMJET_TOOLS_PRELOAD_INCOMING_NAME_H_
#define RAMJET_TOOLS_PRELOAD_INCOMING_NAME_H_

namespace ramjet {

// `ramjet run` gives QEMU this name for a snapshot that QEMU must not load without the preload
// library, which opens the file named by kIncomingVariable instead. Where the library is missing
// (env -i, sudo, a setuid or static emulator), QEMU ends by itself:
//
//   Could not open '/proc/self/preload-library-of-ramjet-run-is-missing': No such file or directory
//
// Nobody can create a file in /proc.
inline constexpr char kIncomingName[] = "/proc/self/preload-library-of-ramjet-run-is-missing";

inline constexpr char kIncomingVariable[] = "RAMJET_INCOMING";  // an absolute path

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_INCOMING_NAME_H_
