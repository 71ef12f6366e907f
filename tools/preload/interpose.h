// What the interposed functions share.
#ifndef RAMJET_TOOLS_PRELOAD_INTERPOSE_H_
#define RAMJET_TOOLS_PRELOAD_INTERPOSE_H_

#include <memory>

#include "tools/preload/incoming_door.h"
#include "tools/preload/session.h"
#include "tools/preload/settings.h"

namespace ramjet {

// The session that is under way, or nullptr.
std::shared_ptr<Session> CurrentSession();

IncomingDoor& TheDoor();

// As they were when the library was loaded.
const Settings& TheSettings();

// A stream comes that is in no file. Ends the process if it would have to be compared with
// checksums.
void NoteOtherStream();

// For the library's constructor: finds the functions that interpose_files.cc stands before.
void FindFileFunctions();

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_INTERPOSE_H_
