// `ramjet save`: a snapshot of a guest that runs in some QEMU on this machine.
#ifndef RAMJET_TOOLS_SAVE_H_
#define RAMJET_TOOLS_SAVE_H_

#include <string>

#include "tools/migration_settings.h"

namespace ramjet {

struct SaveOptions {
  std::string socket;  // QEMU's monitor, speaking QMP
  std::string path;
  bool live = false;           // the guest runs while its memory is written
  bool leave_stopped = false;  // also when it ran before
  SaveSettings settings;
  bool sync = true;       // `path` gets its name only once all is on the disk
  std::string checksums;  // where checksums of its pages go, too; empty: nowhere
  bool json = false;
};

// Has QEMU write a mapped-ram snapshot, checks it, and gives it its name; prints the result on
// stdout: as text or as one object of the schema "ramjet.save/1".
//
// QEMU is passed the open file, so that it needs no access to the directory, which may not even
// exist in its mount namespace. Afterwards the guest is as it was (but for leave_stopped), and so
// are QEMU's migration settings.
//
// Returns the exit status: 0; or 1, with one line on stderr, and then there is no new file, nor
// checksums of one, and what was there is untouched, or the line says that only the guest could not
// be put back. Ctrl-C and its kin cancel the save, and end this process when QEMU has confirmed
// that.
int RunSave(const SaveOptions& options);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_SAVE_H_
