// How far what `ramjet run` has put into the environment reaches.
#ifndef RAMJET_TOOLS_PRELOAD_ENVIRONMENT_H_
#define RAMJET_TOOLS_PRELOAD_ENVIRONMENT_H_

namespace ramjet {

// Between `ramjet run` and the emulator there may be other programs, which hand the environment on:
// a shell with a script, env, taskset, nice. The emulator itself hands nothing on: what it starts,
// or becomes, knows nothing of this load. So the two have to be told apart, before main() begins.

// Whether the program of this process can be an emulator that loads snapshots: it imports preadv()
// or preadv64(), by which QEMU 9.0 and later read guest memory, and mlockall(), which is what
// -overcommit mem-lock=on does. Shells, interpreters and programs that start others import at most
// one of them. Of a file's name nothing depends.
bool MayBeEmulator();

// Removes the variables of settings.h from the environment, and this library from LD_PRELOAD, where
// the entries of others stay. Also from the array that main() gets.
void LeaveEnvironment();

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_ENVIRONMENT_H_
