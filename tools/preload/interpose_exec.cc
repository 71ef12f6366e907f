// The functions of libc by which a process becomes another program or starts one, in front of
// libc's own: ExecGuard decides what may be inherited.
//
// libc's own calls between them do not come through here, so each is here. The same is true of
// system() and popen().
#include <alloca.h>
#include <spawn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

#include "tools/preload/exec_guard.h"
#include "tools/preload/original.h"

namespace ramjet {
namespace {

using Argv = char* const*;
using SpawnActions = const posix_spawn_file_actions_t*;
using SpawnAttributes = const posix_spawnattr_t*;
using Spawn = int(pid_t*, const char*, SpawnActions, SpawnAttributes, Argv, Argv);
using PidfdSpawn = int(int*, const char*, SpawnActions, SpawnAttributes, Argv, Argv);

constinit Original<int(const char*, Argv, Argv)> original_execve("execve");
constinit Original<int(const char*, Argv)> original_execv("execv");
constinit Original<int(const char*, Argv)> original_execvp("execvp");
constinit Original<int(const char*, Argv, Argv)> original_execvpe("execvpe");
constinit Original<int(int, Argv, Argv)> original_fexecve("fexecve");
constinit Original<int(int, const char*, Argv, Argv, int)> original_execveat("execveat");
constinit Original<Spawn> original_posix_spawn("posix_spawn");
constinit Original<Spawn> original_posix_spawnp("posix_spawnp");
constinit Original<PidfdSpawn> original_pidfd_spawn("pidfd_spawn");
constinit Original<PidfdSpawn> original_pidfd_spawnp("pidfd_spawnp");
constinit Original<int(posix_spawn_file_actions_t*, int, int)> original_adddup2(
    "posix_spawn_file_actions_adddup2");
constinit Original<int(const char*)> original_system("system");
constinit Original<FILE*(const char*, const char*)> original_popen("popen");

// A child must not search for them: the dynamic linker may have been at work when it was forked.
__attribute__((constructor)) void OnLoad() {
  const int before = errno;
  FindAll(original_execve, original_execv, original_execvp, original_execvpe, original_fexecve,
          original_execveat, original_posix_spawn, original_posix_spawnp, original_pidfd_spawn,
          original_pidfd_spawnp, original_adddup2, original_system, original_popen);
  errno = before;
}

bool MayExec() {
  ExecGuard* const guard = ExecGuard::Existing();
  return guard == nullptr || guard->BeforeExec();
}

// How many arguments there are from `first` on, with the null pointer at their end.
size_t CountArguments(const char* first, va_list rest) {
  size_t count = 1;
  for (const char* argument = first; argument != nullptr; ++count) {
    argument = va_arg(rest, const char*);
  }
  return count;
}

void CopyArguments(const char* first, va_list rest, size_t count, char** to) {
  to[0] = const_cast<char*>(first);
  for (size_t i = 1; i < count; ++i) to[i] = va_arg(rest, char*);
}

}  // namespace
}  // namespace ramjet

// Makes `argv`, on the stack, of the arguments from `first` on, and leaves `rest` behind the null
// pointer at their end.
#define RAMJET_COLLECT_ARGUMENTS(argv, first, rest)                       \
  va_list rest;                                                           \
  va_start(rest, first);                                                  \
  const size_t count = ramjet::CountArguments(first, rest);               \
  va_end(rest);                                                           \
  auto** const argv = static_cast<char**>(alloca(count * sizeof(char*))); \
  va_start(rest, first);                                                  \
  ramjet::CopyArguments(first, rest, count, argv)

extern "C" {

int execve(const char* path, char* const argv[], char* const envp[]) noexcept {
  return ramjet::MayExec() ? ramjet::original_execve(path, argv, envp) : -1;
}

int execv(const char* path, char* const argv[]) noexcept {
  return ramjet::MayExec() ? ramjet::original_execv(path, argv) : -1;
}

int execvp(const char* file, char* const argv[]) noexcept {
  return ramjet::MayExec() ? ramjet::original_execvp(file, argv) : -1;
}

int execvpe(const char* file, char* const argv[], char* const envp[]) noexcept {
  return ramjet::MayExec() ? ramjet::original_execvpe(file, argv, envp) : -1;
}

int fexecve(int fd, char* const argv[], char* const envp[]) noexcept {
  return ramjet::MayExec() ? ramjet::original_fexecve(fd, argv, envp) : -1;
}

int execveat(int directory, const char* path, char* const argv[], char* const envp[],
             int flags) noexcept {
  return ramjet::MayExec() ? ramjet::original_execveat(directory, path, argv, envp, flags) : -1;
}

int execl(const char* path, const char* first, ...) noexcept {
  RAMJET_COLLECT_ARGUMENTS(argv, first, rest);
  va_end(rest);
  return execv(path, argv);
}

int execlp(const char* file, const char* first, ...) noexcept {
  RAMJET_COLLECT_ARGUMENTS(argv, first, rest);
  va_end(rest);
  return execvp(file, argv);
}

int execle(const char* path, const char* first, ...) noexcept {
  RAMJET_COLLECT_ARGUMENTS(argv, first, rest);
  auto* const envp = va_arg(rest, char* const*);
  va_end(rest);
  return execve(path, argv, envp);
}

int posix_spawn(pid_t* pid, const char* path, const posix_spawn_file_actions_t* actions,
                const posix_spawnattr_t* attributes, char* const argv[], char* const envp[]) {
  if (!ramjet::MayExec()) return errno;
  return ramjet::original_posix_spawn(pid, path, actions, attributes, argv, envp);
}

int posix_spawnp(pid_t* pid, const char* file, const posix_spawn_file_actions_t* actions,
                 const posix_spawnattr_t* attributes, char* const argv[], char* const envp[]) {
  if (!ramjet::MayExec()) return errno;
  return ramjet::original_posix_spawnp(pid, file, actions, attributes, argv, envp);
}

// glibc 2.39; whoever calls them has found them there.
int pidfd_spawn(int* pidfd, const char* path, const posix_spawn_file_actions_t* actions,
                const posix_spawnattr_t* attributes, char* const argv[], char* const envp[]);
int pidfd_spawn(int* pidfd, const char* path, const posix_spawn_file_actions_t* actions,
                const posix_spawnattr_t* attributes, char* const argv[], char* const envp[]) {
  if (!ramjet::MayExec()) return errno;
  return ramjet::original_pidfd_spawn(pidfd, path, actions, attributes, argv, envp);
}

int pidfd_spawnp(int* pidfd, const char* file, const posix_spawn_file_actions_t* actions,
                 const posix_spawnattr_t* attributes, char* const argv[], char* const envp[]);
int pidfd_spawnp(int* pidfd, const char* file, const posix_spawn_file_actions_t* actions,
                 const posix_spawnattr_t* attributes, char* const argv[], char* const envp[]) {
  if (!ramjet::MayExec()) return errno;
  return ramjet::original_pidfd_spawnp(pidfd, file, actions, attributes, argv, envp);
}

// The copy survives the exec, whatever flag the original has.
int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t* actions, int fd,
                                     int new_fd) noexcept {
  ramjet::ExecGuard* const guard = ramjet::ExecGuard::Existing();
  if (guard != nullptr && !guard->BeforeInheriting(fd)) return errno;
  return ramjet::original_adddup2(actions, fd, new_fd);
}

int system(const char* command) {
  return ramjet::MayExec() ? ramjet::original_system(command) : -1;
}

FILE* popen(const char* command, const char* mode) {
  return ramjet::MayExec() ? ramjet::original_popen(command, mode) : nullptr;
}

}  // extern "C"
