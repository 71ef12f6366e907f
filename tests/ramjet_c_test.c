/* Every function of the C face, called from C, with each error that loader/ramjet.h lists.
 *
 * Exit status 1 at the first thing that is not as promised, with its line. Where this process may
 * not serve page faults, what needs that is skipped, and the reason printed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loader/ramjet.h"

#define CHECK(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      fprintf(stderr, "%s:%d: not so: %s (ramjet_error: \"%s\")\n", __FILE__, __LINE__, \
              #condition, ramjet_error());                                              \
      exit(1);                                                                          \
    }                                                                                   \
  } while (0)

/* An error comes with one line that says why. */
#define CHECK_ERROR(error, call)                                                                  \
  do {                                                                                            \
    const long long actual = (call);                                                              \
    if (actual != -(error) || *ramjet_error() == '\0' || strchr(ramjet_error(), '\n')) {          \
      fprintf(stderr, "%s:%d: not -%s but %lld: %s (ramjet_error: \"%s\")\n", __FILE__, __LINE__, \
              #error, actual, #call, ramjet_error());                                             \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)

/* See loader_testing.cc: the sanitizer takes no note of what happens inside absl::Mutex. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
  return "race:synchronization_internal::Waiter::\n";
}

enum { kPageBytes = 4096, kPages = 512, kContentPages = 400 };
static const uint64_t kLength = (uint64_t)kPages * kPageBytes;
static const char kTimerState[] = "ticking";

static char directory[64];

static const char *path_of(const char *name) {
  static char path[128];
  snprintf(path, sizeof(path), "%s/%s", directory, name);
  return path;
}

/* --- Guest memory --- */

/* Never 0 but in the pages from kContentPages on. */
static unsigned char content_of(unsigned page) {
  return (unsigned char)(page < kContentPages ? page % 255 + 1 : 0);
}

static unsigned char *map_memory(int flags, int fd) {
  void *memory = mmap(NULL, kLength, PROT_READ | PROT_WRITE, flags, fd, 0);
  CHECK(memory != MAP_FAILED);
  return memory;
}

static unsigned char *map_private(void) { return map_memory(MAP_PRIVATE | MAP_ANONYMOUS, -1); }

static unsigned char *map_shared(int *fd) {
  *fd = memfd_create("guest", MFD_CLOEXEC);
  CHECK(*fd >= 0 && ftruncate(*fd, (off_t)kLength) == 0);
  return map_memory(MAP_SHARED, *fd);
}

static int holds(const unsigned char *memory, unsigned page, unsigned char content) {
  unsigned i;
  for (i = 0; i < kPageBytes; ++i) {
    if (memory[(size_t)page * kPageBytes + i] != content) return 0;
  }
  return 1;
}

/* Whether the byte can be read: the kernel answers its own access with an error, so no signal
 * handler is needed. */
static int is_readable(const unsigned char *byte) {
  int fds[2], readable;
  CHECK(pipe(fds) == 0);
  readable = write(fds[1], byte, 1) == 1;
  close(fds[0]);
  close(fds[1]);
  return readable;
}

/* --- Snapshots --- */

/* One block, "ram", and one device, "timer". */
static const char *save_as(const char *name) {
  unsigned char *memory = map_private();
  struct ramjet_save_block block;
  struct ramjet_save_device device;
  unsigned page;
  memset(&block, 0, sizeof(block));
  memset(&device, 0, sizeof(device));
  for (page = 0; page < kPages; ++page) {
    memset(memory + (size_t)page * kPageBytes, content_of(page), kPageBytes);
  }
  block.idstr = "ram";
  block.host = memory;
  block.length = kLength;
  device.name = "timer";
  device.instance_id = 3;
  device.version_id = 2;
  device.state = kTimerState;
  device.length = sizeof(kTimerState);
  CHECK(ramjet_save(path_of(name), &block, 1, &device, 1) == 0);
  munmap(memory, kLength);
  return path_of(name);
}

static ramjet_load *open_load(const char *path) {
  ramjet_load *load = NULL;
  CHECK(ramjet_open(path, NULL, &load) == 0);
  CHECK(load != NULL);
  return load;
}

static struct ramjet_block block_at(void *host) {
  struct ramjet_block block = RAMJET_BLOCK_INIT;
  block.idstr = "ram";
  block.host = host;
  block.length = kLength;
  return block;
}

static void attach(ramjet_load *load, void *host) {
  const struct ramjet_block block = block_at(host);
  CHECK(ramjet_attach(load, &block) == 0);
}

static uint64_t number_in(const char *json, const char *key) {
  const char *at = strstr(json, key);
  CHECK(at != NULL);
  return strtoull(at + strlen(key), NULL, 10);
}

/* How many files of the directory have names that begin so. */
static int count_files_with(const char *start) {
  DIR *files = opendir(directory);
  const struct dirent *file;
  int count = 0;
  CHECK(files != NULL);
  while ((file = readdir(files)) != NULL) {
    count += strncmp(file->d_name, start, strlen(start)) == 0;
  }
  closedir(files);
  return count;
}

/* --- Saving and refusing, which need no page faults --- */

static void test_save(void) {
  unsigned char *memory = map_private();
  char long_name[257];
  struct ramjet_save_block blocks[2];
  struct ramjet_save_device device;
  struct stat status;
  const char *path = path_of("refused.mr");
  memset(long_name, 'x', 256);
  long_name[256] = '\0';
  memset(blocks, 0, sizeof(blocks));
  memset(&device, 0, sizeof(device));
  blocks[0].idstr = "ram";
  blocks[0].host = memory;
  blocks[0].length = kLength;
  blocks[1] = blocks[0];
  device.name = "timer";
  device.state = kTimerState;
  device.length = sizeof(kTimerState);

  CHECK_ERROR(EINVAL, ramjet_save(NULL, blocks, 1, &device, 1));
  CHECK_ERROR(EINVAL, ramjet_save(path, NULL, 1, &device, 1));
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 1, NULL, 1));
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 2, &device, 1)); /* two of one name */
  blocks[1].idstr = NULL;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 2, NULL, 0));
  blocks[1].idstr = "";
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 2, NULL, 0));
  blocks[1].idstr = long_name;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 2, NULL, 0));
  blocks[1].idstr = "more";
  blocks[1].length = kLength - 1;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 2, NULL, 0));
  blocks[1].length = 0;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 2, NULL, 0));
  blocks[1].length = kLength;
  blocks[1].host = NULL;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 2, NULL, 0));
  device.name = NULL;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 1, &device, 1));
  device.name = long_name;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 1, &device, 1));
  device.name = "timer";
  device.state = NULL;
  CHECK_ERROR(EINVAL, ramjet_save(path, blocks, 1, &device, 1));
  CHECK(stat(path, &status) != 0 && errno == ENOENT);

  CHECK(ramjet_save(path_of("missing/guest.mr"), blocks, 1, NULL, 0) < 0);
  CHECK(strstr(ramjet_error(), "missing/guest.mr") != NULL);
  /* What could not be finished is not left lying about, either. */
  CHECK(mkdir(path_of("taken"), 0700) == 0);
  CHECK(ramjet_save(path_of("taken"), blocks, 1, NULL, 0) < 0);
  CHECK(count_files_with("taken") == 1);
  /* What may be long is as long; a device may have no state, and a guest no device. */
  long_name[255] = '\0';
  blocks[1].idstr = device.name = long_name;
  blocks[1].host = memory;
  device.length = 0;
  CHECK(ramjet_save(path_of("long.mr"), blocks, 2, &device, 1) == 0);
  CHECK(ramjet_save(path_of("long.mr"), blocks, 1, NULL, 0) == 0); /* replaces it */
  munmap(memory, kLength);
}

static void write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Opens in a process that is `nobody`, and may do only what everybody may. */
static int open_as_nobody(const char *path) {
  int status;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    ramjet_load *load = NULL;
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(255);
    _exit(-ramjet_open(path, NULL, &load));
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) != 255);
  return -WEXITSTATUS(status);
}

/* Opens in a process whose kernel knows neither userfaultfd(2) nor the device. */
static int open_without_kernel_support(const char *path) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xAA00 /* USERFAULTFD_IOC_NEW */, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program = {sizeof(filter) / sizeof(*filter), filter};
  int status;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    ramjet_load *load = NULL;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0) {
      _exit(255);
    }
    _exit(-ramjet_open(path, NULL, &load));
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) != 255);
  return -WEXITSTATUS(status);
}

static void test_open_refuses(void) {
  struct ramjet_options options = RAMJET_OPTIONS_INIT;
  ramjet_load *const nothing = (ramjet_load *)directory; /* to be overwritten */
  ramjet_load *load = nothing;
  struct stat status;
  const char *path = save_as("guest.mr");
  CHECK_ERROR(EINVAL, ramjet_open(NULL, NULL, &load));
  CHECK_ERROR(EINVAL, ramjet_open(path, NULL, NULL));
  options.size = 0;
  CHECK_ERROR(EINVAL, ramjet_open(path, &options, &load));
  CHECK(load == NULL);
  options.size = sizeof(options);
  options.eager_threads = 65;
  CHECK_ERROR(EINVAL, ramjet_open(path, &options, &load));
  options.eager_threads = 0;
  options.on_unreadable = 2;
  CHECK_ERROR(EINVAL, ramjet_open(path, &options, &load));
  options.on_unreadable = RAMJET_POISON;
  options.kill_pid = -1;
  CHECK_ERROR(EINVAL, ramjet_open(path, &options, &load));

  load = nothing;
  CHECK_ERROR(ENOENT, ramjet_open(path_of("nothing.mr"), NULL, &load));
  CHECK(load == NULL);
  CHECK(strstr(ramjet_error(), "nothing.mr") != NULL);
  write_file(path_of("text.mr"), "Words, words, words.\n");
  load = nothing;
  CHECK_ERROR(EBADMSG, ramjet_open(path_of("text.mr"), NULL, &load));
  CHECK(load == NULL);
  write_file(path_of("empty.mr"), "");
  CHECK_ERROR(EBADMSG, ramjet_open(path_of("empty.mr"), NULL, &load));

  path = save_as("cut.mr");
  CHECK(stat(path, &status) == 0 && truncate(path, status.st_size / 2) == 0);
  load = nothing;
  CHECK_ERROR(EILSEQ, ramjet_open(path, NULL, &load));
  CHECK(load == NULL);

  ramjet_close(NULL);
}

static void test_open_without_permission(void) {
  const char *path;
  FILE *sysctl;
  int result;
  char unprivileged;
  path = save_as("guest.mr");
  result = open_without_kernel_support(path);
  CHECK(result == -ENOSYS);

  if (getuid() != 0) {
    printf("SKIPPED: opening without permission: only root can become somebody else\n");
    return;
  }
  CHECK(chmod(directory, 0755) == 0);
  CHECK(chmod(path, 0600) == 0);
  if (open_as_nobody(directory) == -EACCES) {
    printf("SKIPPED: opening without permission: nobody may not reach %s\n", directory);
    return;
  }
  CHECK(open_as_nobody(path) == -EACCES);
  CHECK(chmod(path, 0644) == 0);
  sysctl = fopen("/proc/sys/vm/unprivileged_userfaultfd", "r");
  unprivileged = sysctl != NULL ? (char)fgetc(sysctl) : '0';
  if (sysctl != NULL) fclose(sysctl);
  if (unprivileged != '0') {
    printf("SKIPPED: -EPERM: vm.unprivileged_userfaultfd lets everybody serve page faults\n");
    return;
  }
  CHECK(open_as_nobody(path) == -EPERM);
}

/* --- A load --- */

static void test_blocks_and_devices(void) {
  ramjet_load *load = open_load(save_as("guest.mr"));
  struct ramjet_block_info info = RAMJET_BLOCK_INFO_INIT;
  char state[64];
  CHECK(ramjet_block_count(load) == 1);
  CHECK(ramjet_get_block(load, 0, &info) == 0);
  CHECK(info.size == sizeof(info));
  CHECK(strcmp(info.idstr, "ram") == 0);
  CHECK(info.used_length == kLength && info.page_size == kPageBytes);
  CHECK(info.nonzero_pages == kContentPages);
  CHECK_ERROR(ENOENT, ramjet_get_block(load, 1, &info));
  CHECK_ERROR(ENOENT, ramjet_get_block(load, UINT64_MAX, &info));
  CHECK_ERROR(EINVAL, ramjet_get_block(load, 0, NULL));
  /* A caller that knows less of the struct gets no more than it has room for. */
  info.size = offsetof(struct ramjet_block_info, page_size);
  info.page_size = 12345;
  CHECK(ramjet_get_block(load, 0, &info) == 0);
  CHECK(info.size == offsetof(struct ramjet_block_info, page_size));
  CHECK(info.used_length == kLength && info.page_size == 12345);
  info.size = 0;
  CHECK_ERROR(EINVAL, ramjet_get_block(load, 0, &info));

  memset(state, '#', sizeof(state));
  CHECK(ramjet_read_device(load, "timer", 3, state, sizeof(state)) == sizeof(kTimerState));
  CHECK(strcmp(state, kTimerState) == 0 && state[sizeof(kTimerState)] == '#');
  memset(state, '#', sizeof(state));
  CHECK(ramjet_read_device(load, "timer", 3, state, 4) == sizeof(kTimerState));
  CHECK(memcmp(state, "tick#", 5) == 0);
  CHECK(ramjet_read_device(load, "timer", 3, NULL, 0) == sizeof(kTimerState));
  CHECK_ERROR(EINVAL, ramjet_read_device(load, "timer", 3, NULL, 1));
  CHECK_ERROR(EINVAL, ramjet_read_device(load, NULL, 3, state, 1));
  CHECK_ERROR(ENOENT, ramjet_read_device(load, "timer", 0, state, 1));
  CHECK_ERROR(ENOENT, ramjet_read_device(load, "clock", 3, state, 1));
  CHECK(truncate(path_of("guest.mr"), 100) == 0);
  {
    const int64_t result = ramjet_read_device(load, "timer", 3, state, sizeof(state));
    CHECK(result == -EIO || result == -EILSEQ);
  }
  ramjet_close(load);
}

static void test_attach_refuses(void) {
  ramjet_load *load = open_load(save_as("guest.mr"));
  unsigned char *memory = map_private();
  struct ramjet_block block = block_at(memory);
  CHECK_ERROR(EINVAL, ramjet_attach(load, NULL));
  block.size = 0;
  CHECK_ERROR(EINVAL, ramjet_attach(load, &block));
  block = block_at(memory);
  block.idstr = NULL;
  CHECK_ERROR(EINVAL, ramjet_attach(load, &block));
  block.idstr = "rom";
  CHECK_ERROR(ENOENT, ramjet_attach(load, &block));
  block = block_at(memory);
  block.memory = 2;
  CHECK_ERROR(EINVAL, ramjet_attach(load, &block));

  /* None of this is in the way of what makes sense. */
  attach(load, memory);
  block = block_at(memory);
  CHECK_ERROR(EALREADY, ramjet_attach(load, &block));
  ramjet_close(load);
  munmap(memory, kLength);
}

static void test_memory_that_cannot_be_lazy(void) {
  ramjet_load *load = open_load(save_as("guest.mr"));
  const int fd = open(path_of("memory"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct ramjet_block block;
  struct statfs disk;
  CHECK(fd >= 0 && ftruncate(fd, (off_t)kLength) == 0 && fstatfs(fd, &disk) == 0);
  if (disk.f_type == TMPFS_MAGIC) {
    printf("SKIPPED: memory of a file on disk: %s is on tmpfs\n", directory);
  } else {
    block = block_at(map_memory(MAP_SHARED, fd));
    block.memory = RAMJET_SHARED;
    CHECK_ERROR(ENOTSUP, ramjet_attach(load, &block));
    munmap(block.host, kLength);
  }
  close(fd);
  ramjet_close(load);

  load = open_load(path_of("guest.mr"));
  block = block_at(map_private());
  /* The system call itself, for under a sanitizer mlock() does nothing. */
  if (syscall(SYS_mlock, block.host, kLength) != 0) {
    printf("SKIPPED: locked memory: mlock: %s\n", strerror(errno));
  } else {
    CHECK_ERROR(ENOTSUP, ramjet_attach(load, &block));
  }
  ramjet_close(load);
  munmap(block.host, kLength);
}

static void test_load(void) {
  ramjet_load *load = NULL;
  struct ramjet_options options = RAMJET_OPTIONS_INIT;
  unsigned char *memory = map_private();
  char stats[8192], start[8];
  unsigned page;
  int64_t length;
  options.eager_threads = 3;
  CHECK(ramjet_open(save_as("guest.mr"), &options, &load) == 0);
  memset(memory, 0xee, kLength);    /* what was there is dropped */
  CHECK(ramjet_wait(load, 0) == 0); /* nothing is attached, so nothing is owed */
  attach(load, memory);
  CHECK_ERROR(ETIMEDOUT, ramjet_wait(load, 0));
  CHECK_ERROR(ETIMEDOUT, ramjet_wait(load, 20));
  CHECK_ERROR(EBUSY, ramjet_detach(load));
  CHECK(holds(memory, 5, content_of(5)));
  CHECK(holds(memory, kPages - 1, 0));
  memory[(size_t)6 * kPageBytes] = 99; /* stays, whatever comes later */

  CHECK_ERROR(EINVAL, ramjet_stats_json(load, NULL, 1));
  length = ramjet_stats_json(load, stats, sizeof(stats));
  CHECK(length > 0 && (size_t)length == strlen(stats));
  CHECK(strstr(stats, "\"schema\":\"ramjet.stats/1\"") != NULL);
  CHECK(strstr(stats, "\"complete\":false") != NULL);
  CHECK(number_in(stats, "\"faulted\":") >= 2);
  CHECK(ramjet_stats_json(load, NULL, 0) > 0);
  memset(start, '#', sizeof(start));
  CHECK(ramjet_stats_json(load, start, 5) > 5);
  CHECK(strlen(start) == 4 && strncmp(start, stats, 4) == 0 && start[5] == '#');

  CHECK(ramjet_start_eager(load) == 0);
  CHECK(ramjet_start_eager(load) == 0);
  CHECK(ramjet_wait(load, -1) == 0);
  CHECK(ramjet_wait(load, 0) == 0);
  CHECK(ramjet_detach(load) == 0);
  CHECK(ramjet_detach(load) == 0);
  CHECK(ramjet_collapse(load) == 0);
  CHECK(ramjet_stats_json(load, stats, sizeof(stats)) > 0);
  CHECK(strstr(stats, "\"complete\":true") != NULL);
  CHECK(number_in(stats, "\"total\":") == kPages);
  {
    const struct ramjet_block block = block_at(memory);
    CHECK(ramjet_attach(load, &block) < 0); /* nothing can be attached any more */
  }
  ramjet_close(load);
  CHECK(memory[(size_t)6 * kPageBytes] == 99);
  memory[(size_t)6 * kPageBytes] = content_of(6);
  for (page = 0; page < kPages; ++page) CHECK(holds(memory, page, content_of(page)));
  munmap(memory, kLength);
}

static void test_close_loads_the_rest(void) {
  ramjet_load *load = open_load(save_as("guest.mr"));
  unsigned char *memory = map_private();
  unsigned page;
  attach(load, memory);
  ramjet_close(load);
  for (page = 0; page < kPages; ++page) CHECK(holds(memory, page, content_of(page)));
  munmap(memory, kLength);
}

static void test_discard(void) {
  ramjet_load *load = open_load(save_as("guest.mr"));
  int fd;
  unsigned char *memory = map_shared(&fd);
  struct ramjet_block block = block_at(memory);
  unsigned page;
  block.memory = RAMJET_SHARED;
  CHECK(ramjet_attach(load, &block) == 0);
  CHECK_ERROR(EINVAL, ramjet_discard(load, memory, UINT64_MAX));
  CHECK(ramjet_discard(load, memory, 0) == 0);
  CHECK(holds(memory, 10, content_of(10)));
  CHECK(ramjet_discard(load, memory + 10 * kPageBytes, 20 * kPageBytes) == 0);
  CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * kPageBytes,
                  20 * kPageBytes) == 0);
  CHECK(ramjet_start_eager(load) == 0);
  CHECK(ramjet_wait(load, -1) == 0);
  for (page = 0; page < kPages; ++page) {
    CHECK(holds(memory, page, page >= 10 && page < 30 ? 0 : content_of(page)));
  }
  ramjet_close(load);
  munmap(memory, kLength);
  close(fd);
}

static void *wait_for_load(void *load) { return (void *)(intptr_t)ramjet_wait(load, -1); }

static void test_abandon(void) {
  ramjet_load *load = open_load(save_as("guest.mr"));
  unsigned char *memory = map_private();
  pthread_t waiter;
  void *result;
  attach(load, memory);
  CHECK(holds(memory, 1, content_of(1)));
  CHECK(pthread_create(&waiter, NULL, wait_for_load, load) == 0);
  CHECK(ramjet_abandon(load) == 0);
  CHECK(pthread_join(waiter, &result) == 0);
  CHECK((intptr_t)result == -ECANCELED);
  CHECK_ERROR(ECANCELED, ramjet_wait(load, 0));
  CHECK(!is_readable(memory + 2 * kPageBytes)); /* rather than zeros */
  CHECK(ramjet_abandon(load) == 0);
  ramjet_close(load);
  munmap(memory, kLength);
}

static void test_unreadable_page_is_poisoned(void) {
  /* Somebody has the file open for writing, so there is no lease that would make us wait. */
  const int writer = open(save_as("guest.mr"), O_WRONLY);
  ramjet_load *load = open_load(path_of("guest.mr"));
  unsigned char *memory = map_private();
  char stats[8192];
  attach(load, memory);
  CHECK(holds(memory, 1, content_of(1)));
  CHECK(ftruncate(writer, 0) == 0);
  CHECK(close(writer) == 0);
  if (ramjet_finish(load) == -ENOTRECOVERABLE) {
    printf("SKIPPED: poison: this kernel has none\n");
    CHECK(ramjet_abandon(load) == 0);
  } else {
    CHECK(!is_readable(memory + 2 * kPageBytes));
    CHECK(holds(memory, 1, content_of(1)));
    CHECK(ramjet_stats_json(load, stats, sizeof(stats)) > 0);
    CHECK(number_in(stats, "\"poisoned\":") > 0);
  }
  ramjet_close(load);
  munmap(memory, kLength);
}

/* A refused block can be attached elsewhere. */
static void test_attach_after_refusal(void) {
  ramjet_load *load = open_load(save_as("guest.mr"));
  unsigned char *memory = map_private();
  struct ramjet_block block = block_at(memory);
  block.length = kLength - kPageBytes;
  CHECK_ERROR(EINVAL, ramjet_attach(load, &block)); /* the block is longer */
  block = block_at(memory + 1);
  CHECK_ERROR(EINVAL, ramjet_attach(load, &block));
  CHECK(syscall(SYS_mlock, memory, kLength) == 0);
  block = block_at(memory);
  CHECK_ERROR(ENOTSUP, ramjet_attach(load, &block));
  CHECK(syscall(SYS_munlock, memory, kLength) == 0);
  attach(load, memory);
  CHECK(holds(memory, 3, content_of(3)));
  ramjet_close(load);
  munmap(memory, kLength);
}

static void test_given_uffd(void) {
  struct ramjet_options options = RAMJET_OPTIONS_INIT;
  ramjet_load *load = NULL;
  unsigned char *memory = map_private();
  int fds[2], result;
  CHECK(pipe(fds) == 0);
  options.uffd = fds[0];
  result = ramjet_open(save_as("guest.mr"), &options, &load);
  CHECK(result == -EPERM || result == -ENOSYS || result == -EINVAL);
  options.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (options.uffd < 0) {
    printf("SKIPPED: a userfaultfd of the caller: %s\n", strerror(errno));
    return;
  }
  CHECK(ramjet_open(path_of("guest.mr"), &options, &load) == 0);
  close(options.uffd);
  attach(load, memory);
  CHECK(holds(memory, 3, content_of(3)));
  ramjet_close(load);
  munmap(memory, kLength);
}

static void count_stop(void *opaque, const char *why) {
  CHECK(*why != '\0');
  __atomic_fetch_add((int *)opaque, 1, __ATOMIC_SEQ_CST);
}

static void test_vm_is_stopped_for_unreadable_page(void) {
  struct ramjet_options options = RAMJET_OPTIONS_INIT;
  ramjet_load *load = NULL;
  unsigned char *memory = map_private();
  int stops = 0;
  options.on_unreadable = RAMJET_STOP_VM;
  options.stop_vm = count_stop;
  options.opaque = &stops;
  CHECK(ramjet_open(save_as("guest.mr"), &options, &load) == 0);
  attach(load, memory);
  CHECK(truncate(path_of("guest.mr"), 0) == 0);
  CHECK(ramjet_start_eager(load) == 0);
  CHECK_ERROR(ETIMEDOUT, ramjet_wait(load, 100)); /* no thread waits for a page */
  CHECK(__atomic_load_n(&stops, __ATOMIC_SEQ_CST) == 0);
  CHECK_ERROR(ENOTRECOVERABLE, ramjet_finish(load));
  CHECK_ERROR(ENOTRECOVERABLE, ramjet_wait(load, -1));
  CHECK(__atomic_load_n(&stops, __ATOMIC_SEQ_CST) == 1);
  CHECK(ramjet_abandon(load) == 0);
  ramjet_close(load);
  munmap(memory, kLength);
}

/* --- Errors --- */

static void *fail_elsewhere(void *unused) {
  (void)unused;
  CHECK(*ramjet_error() == '\0');
  CHECK_ERROR(EINVAL, ramjet_open(NULL, NULL, NULL));
  return NULL;
}

static void test_errors_are_of_their_thread(void) {
  ramjet_load *load;
  char mine[512];
  pthread_t thread;
  CHECK_ERROR(ENOENT, ramjet_open(path_of("nothing.mr"), NULL, &load));
  snprintf(mine, sizeof(mine), "%s", ramjet_error());
  CHECK(pthread_create(&thread, NULL, fail_elsewhere, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(strcmp(ramjet_error(), mine) == 0);
}

/* What is no file of ours is not replaced by one. */
static void test_save_refuses(void) {
  unsigned char *memory = map_private();
  struct ramjet_save_block block;
  struct ramjet_save_device devices[2];
  memset(&block, 0, sizeof(block));
  memset(devices, 0, sizeof(devices));
  block.idstr = "ram";
  block.host = memory;
  block.length = kLength;
  devices[0].name = devices[1].name = "timer";
  CHECK(mkfifo(path_of("fifo"), 0600) == 0);
  CHECK_ERROR(EINVAL, ramjet_save(path_of("fifo"), &block, 1, NULL, 0));
  CHECK(symlink("elsewhere", path_of("link")) == 0);
  CHECK_ERROR(EINVAL, ramjet_save(path_of("link"), &block, 1, NULL, 0));
  CHECK_ERROR(EINVAL, ramjet_save(path_of("none.mr"), NULL, 0, NULL, 0));
  CHECK_ERROR(EINVAL, ramjet_save(path_of("twice.mr"), &block, 1, devices, 2));
  CHECK(count_files_with("none") == 0 && count_files_with("twice") == 0);
  munmap(memory, kLength);
}

/* Who may serve no page faults, or has memory that cannot be lazy, loads in the plain way. */
static void test_plain_load(void) {
  struct ramjet_options options = RAMJET_OPTIONS_INIT;
  struct ramjet_device_info device = RAMJET_DEVICE_INFO_INIT;
  struct ramjet_stats stats = RAMJET_STATS_INIT;
  ramjet_load *load = NULL;
  unsigned char *memory = map_private();
  const struct ramjet_block block = block_at(memory);
  unsigned page;
  int result;
  options.flags = 8;
  CHECK_ERROR(EINVAL, ramjet_open(save_as("guest.mr"), &options, &load));
  options.flags = RAMJET_NOT_LAZY;
  CHECK(ramjet_open(path_of("guest.mr"), &options, &load) == 0);
  CHECK(ramjet_device_count(load) == 1);
  CHECK(ramjet_get_device(load, 0, &device) == 0);
  CHECK(strcmp(device.name, "timer") == 0 && device.instance_id == 3 && device.version_id == 2);
  CHECK(device.length == sizeof(kTimerState));
  CHECK_ERROR(ENOENT, ramjet_get_device(load, 1, &device));
  CHECK_ERROR(EINVAL, ramjet_get_device(load, 0, NULL));
  CHECK_ERROR(ENOTSUP, ramjet_attach(load, &block));
  CHECK_ERROR(ENOENT, ramjet_read_block(load, "rom", memory, kLength));
  CHECK_ERROR(EINVAL, ramjet_read_block(load, "ram", memory, kLength - 1));
  CHECK_ERROR(EINVAL, ramjet_read_block(load, "ram", NULL, kLength));
  memset(memory, '#', kLength); /* what was there goes, where the file has zeros, too */
  CHECK(ramjet_read_block(load, "ram", memory, kLength) == 0);
  for (page = 0; page < kPages; ++page) CHECK(holds(memory, page, content_of(page)));
  CHECK(ramjet_start_eager(load) == 0 && ramjet_discard(load, memory, 1) == 0);
  CHECK(ramjet_wait(load, -1) == 0 && ramjet_detach(load) == 0 && ramjet_abandon(load) == 0);
  CHECK(ramjet_get_stats(load, &stats) == 0 && stats.complete == 1 && stats.pages == 0);
  CHECK(truncate(path_of("guest.mr"), 4096) == 0);
  result = ramjet_read_block(load, "ram", memory, kLength);
  CHECK(result == -EIO || result == -EILSEQ);
  ramjet_close(load);
  munmap(memory, kLength);
}

static void test_numbers(void) {
  struct ramjet_stats stats = RAMJET_STATS_INIT;
  ramjet_load *load = open_load(save_as("guest.mr"));
  unsigned char *memory = map_private();
  attach(load, memory);
  CHECK_ERROR(EALREADY, ramjet_read_block(load, "ram", memory, kLength));
  CHECK(ramjet_get_stats(load, &stats) == 0);
  CHECK(stats.complete == 0 && stats.pages == kPages && stats.nonzero_pages == kContentPages);
  CHECK(holds(memory, 3, content_of(3)));
  CHECK(ramjet_start_eager(load) == 0 && ramjet_wait(load, -1) == 0);
  CHECK(ramjet_get_stats(load, &stats) == 0);
  CHECK(stats.complete == 1 && stats.faulted_pages == 1 && stats.faults >= 1);
  CHECK(stats.eager_pages == kContentPages - 1);
  /* Noted only after we have been woken. */
  while (stats.fault_max_ns == 0) CHECK(ramjet_get_stats(load, &stats) == 0);
  CHECK(stats.rescued_faults == 0 && stats.poisoned_pages == 0);
  stats.size = 0;
  CHECK_ERROR(EINVAL, ramjet_get_stats(load, &stats));
  CHECK(ramjet_detach(load) == 0 && ramjet_detach(load) == 0 && ramjet_wait(load, 0) == 0);
  CHECK(ramjet_abandon(load) == 0);
  CHECK(holds(memory, 3, content_of(3))); /* abandoned when complete, it is as it was */
  ramjet_close(load);
  munmap(memory, kLength);
}

/* Asks until `what` is in the statistics: a thread of the library puts it there. */
static void await_stats(const ramjet_load *load, const char *what) {
  char stats[8192];
  do {
    CHECK(ramjet_stats_json(load, stats, sizeof(stats)) > 0);
  } while (strstr(stats, what) == NULL);
}

/* What the guest touches first in one run is there before it touches it in the next. */
static void test_working_set(void) {
  static const unsigned kTouched[] = {300, 7, 100, kPages - 1};
  struct ramjet_options options = RAMJET_OPTIONS_INIT;
  struct ramjet_stats stats = RAMJET_STATS_INIT;
  struct ramjet_save_block other;
  char path[128];
  ramjet_load *load = NULL;
  unsigned char *memory = map_private();
  unsigned i;
  snprintf(path, sizeof(path), "%s", path_of("guest.ws"));

  options.flags = RAMJET_RECORD;
  CHECK(ramjet_open(save_as("guest.mr"), &options, &load) == 0);
  attach(load, memory);
  for (i = 0; i < 4; ++i) CHECK(holds(memory, kTouched[i], content_of(kTouched[i])));
  CHECK_ERROR(EINVAL, ramjet_save_working_set(load, NULL));
  CHECK_ERROR(EIO, ramjet_save_working_set(load, path_of("missing/guest.ws")));
  CHECK(ramjet_save_working_set(load, path) == 0);
  CHECK(ramjet_start_eager(load) == 0 && ramjet_wait(load, -1) == 0);
  CHECK(ramjet_get_stats(load, &stats) == 0 && stats.faulted_pages == 3);
  CHECK(stats.working_set_pages == 0);
  CHECK(ramjet_detach(load) == 0);
  CHECK(ramjet_save_working_set(load, path) == 0); /* says the same */
  ramjet_close(load);

  options.checksums = path; /* which holds something else */
  CHECK_ERROR(EINVAL, ramjet_open(path_of("guest.mr"), &options, &load));
  options.checksums = NULL;
  options.working_set = path;
  CHECK_ERROR(EINVAL, ramjet_open(path_of("guest.mr"), &options, &load));
  options.flags = 0;
  CHECK(ramjet_open(save_as("copy.mr"), &options, &load) == 0);
  CHECK_ERROR(ENOTSUP, ramjet_save_working_set(load, path));
  attach(load, memory);
  await_stats(load, "\"working_set\":3,");
  for (i = 0; i < 3; ++i) CHECK(holds(memory, kTouched[i], content_of(kTouched[i])));
  CHECK(ramjet_get_stats(load, &stats) == 0);
  CHECK(stats.faulted_pages == 0 && stats.faults == 0);
  CHECK(stats.eager_pages == 3 && stats.working_set_pages == 3);
  CHECK(ramjet_start_eager(load) == 0 && ramjet_wait(load, -1) == 0);
  CHECK(ramjet_get_stats(load, &stats) == 0 && stats.eager_pages == kContentPages);
  ramjet_close(load);
  for (i = 0; i < kPages; ++i) CHECK(holds(memory, i, content_of(i)));

  /* One of another snapshot is none. */
  memset(&other, 0, sizeof(other));
  other.idstr = "ram";
  other.host = memory;
  other.length = kLength;
  CHECK(ramjet_save(path_of("other.mr"), &other, 1, NULL, 0) == 0);
  CHECK(ramjet_open(path_of("other.mr"), &options, &load) == 0);
  await_stats(load, "the working set is ignored: ");
  attach(load, memory);
  CHECK(ramjet_start_eager(load) == 0 && ramjet_wait(load, -1) == 0);
  CHECK(ramjet_get_stats(load, &stats) == 0);
  CHECK(stats.working_set_pages == 0 && stats.eager_pages == kContentPages);
  ramjet_close(load);

  /* A caller of the first version has no such field, whatever lies behind its struct. */
  options.working_set = "no such file";
  options.size = offsetof(struct ramjet_options, working_set);
  CHECK(ramjet_open(path_of("guest.mr"), &options, &load) == 0);
  attach(load, memory);
  CHECK(ramjet_start_eager(load) == 0 && ramjet_wait(load, -1) == 0);
  stats.size = offsetof(struct ramjet_stats, working_set_pages);
  stats.working_set_pages = 12345;
  CHECK(ramjet_get_stats(load, &stats) == 0 && stats.working_set_pages == 12345);
  await_stats(load, "\"errors\":[]");
  ramjet_close(load);
  munmap(memory, kLength);
}

/* A guest with a poisoned page cannot be saved without lying. */
static void test_poisoned_memory_is_not_saved(void) {
  struct ramjet_save_block block;
  ramjet_load *load = open_load(save_as("guest.mr"));
  unsigned char *memory = map_private();
  attach(load, memory);
  CHECK(truncate(path_of("guest.mr"), 0) == 0);
  if (ramjet_finish(load) == -ENOTRECOVERABLE) {
    printf("SKIPPED: poison: this kernel has none\n");
    CHECK(ramjet_abandon(load) == 0);
  }
  memset(&block, 0, sizeof(block));
  block.idstr = "ram";
  block.host = memory;
  block.length = kLength;
  CHECK_ERROR(EIO, ramjet_save(path_of("again.mr"), &block, 1, NULL, 0));
  CHECK(count_files_with("again.mr") == 0);
  ramjet_close(load);
  munmap(memory, kLength);
}

/* --- Device state, several devices at once --- */

enum { kDiskBytes = 100000 };

/* Block "ram" and devices "disk" with a pattern, "net" 0 and "net" 1 with one byte each. */
static const char *save_devices(const char *name) {
  static unsigned char disk[kDiskBytes];
  unsigned char *memory = map_private();
  struct ramjet_save_block block;
  struct ramjet_save_device devices[3];
  unsigned i;
  memset(&block, 0, sizeof(block));
  memset(devices, 0, sizeof(devices));
  for (i = 0; i < kDiskBytes; ++i) disk[i] = (unsigned char)(i * 7 + i / 251);
  for (i = 0; i < kPages; ++i) {
    memset(memory + (size_t)i * kPageBytes, content_of(i), kPageBytes);
  }
  block.idstr = "ram";
  block.host = memory;
  block.length = kLength;
  devices[0].name = "disk";
  devices[0].state = disk;
  devices[0].length = sizeof(disk);
  devices[1].name = devices[2].name = "net";
  devices[2].instance_id = 1;
  devices[1].version_id = devices[2].version_id = 7;
  devices[1].state = "A";
  devices[2].state = "B";
  devices[1].length = devices[2].length = 1;
  CHECK(ramjet_save(path_of(name), &block, 1, devices, 3) == 0);
  munmap(memory, kLength);
  return path_of(name);
}

/* What the loaders below have done. */
static struct {
  pthread_mutex_t mutex;
  unsigned char nets[2];
  uint64_t disk_bytes;
  int disk_ended;
  const unsigned char *memory; /* the guest's, if it is attached */
} loaded = {PTHREAD_MUTEX_INITIALIZER, {0, 0}, 0, 0, NULL};

static int load_net(void *opaque, const ramjet_device_state *state) {
  struct ramjet_device_info info = RAMJET_DEVICE_INFO_INIT;
  char byte[2];
  CHECK(opaque == &loaded);
  CHECK_ERROR(EINVAL, ramjet_get_device_state(state, NULL));
  CHECK(ramjet_get_device_state(state, &info) == 0);
  CHECK(strcmp(info.name, "net") == 0 && info.version_id == 7 && info.length == 1);
  CHECK(info.instance_id < 2);
  CHECK_ERROR(EINVAL, ramjet_read_device_state(state, 0, NULL, 1));
  CHECK_ERROR(EINVAL, ramjet_read_device_state(state, 0, byte, 2));
  CHECK_ERROR(EINVAL, ramjet_read_device_state(state, 2, byte, 0));
  CHECK(ramjet_read_device_state(state, 0, byte, 1) == 0);
  CHECK(ramjet_device_cancelled(state) == 0);
  if (loaded.memory != NULL) CHECK(holds(loaded.memory, 3, content_of(3)));
  pthread_mutex_lock(&loaded.mutex);
  if (info.instance_id == 1) CHECK(loaded.nets[0] == 'A'); /* comes after it */
  loaded.nets[info.instance_id] = (unsigned char)byte[0];
  pthread_mutex_unlock(&loaded.mutex);
  return 0;
}

/* In order, one at a time: needs no lock. */
static int load_disk_buffer(void *opaque, const ramjet_device_state *state, uint64_t offset,
                            const void *bytes, uint64_t length) {
  const unsigned char *content = bytes;
  uint64_t i;
  CHECK(opaque == &loaded && ramjet_device_cancelled(state) == 0);
  CHECK(offset == loaded.disk_bytes && offset + length <= kDiskBytes && length <= 3000);
  for (i = 0; i < length; ++i) {
    CHECK(content[i] == (unsigned char)((offset + i) * 7 + (offset + i) / 251));
  }
  loaded.disk_bytes += length;
  return 0;
}

static int end_disk(void *opaque, const ramjet_device_state *state) {
  (void)opaque;
  (void)state;
  CHECK(loaded.disk_bytes == kDiskBytes);
  loaded.disk_ended = 1;
  return 0;
}

static int fail_by_itself(void *opaque, const ramjet_device_state *state) {
  (void)opaque;
  (void)state;
  return -EBUSY;
}

static int fail_to_read(void *opaque, const ramjet_device_state *state) {
  char byte;
  (void)opaque;
  return ramjet_read_device_state(state, 1, &byte, 1);
}

static int wait_until_cancelled(void *opaque, const ramjet_device_state *state) {
  (void)opaque;
  while (!ramjet_device_cancelled(state)) sched_yield();
  return -EINTR;
}

static int must_not_be_called(void *opaque, const ramjet_device_state *state) {
  (void)opaque;
  (void)state;
  fprintf(stderr, "a loader was called that must not be\n");
  exit(1);
}

static void count_unclaimed(void *opaque, const struct ramjet_device_info *info) {
  CHECK(info->size == sizeof(*info) && strcmp(info->name, "net") == 0 && info->length == 1);
  ++*(int *)opaque;
}

static const struct ramjet_device_id kAfterNet0[] = {{"net", 0, 0}};

/* "disk", "net" 1 and "net" 0, in that order. */
static void make_loaders(struct ramjet_device_loader *loaders) {
  const struct ramjet_device_loader init = RAMJET_DEVICE_LOADER_INIT;
  int i;
  for (i = 0; i < 3; ++i) {
    loaders[i] = init;
    loaders[i].name = i == 0 ? "disk" : "net";
    loaders[i].load = load_net;
    loaders[i].opaque = &loaded;
  }
  loaders[0].load_buffer = load_disk_buffer;
  loaders[0].load = end_disk;
  loaders[0].buffer_bytes = 3000;
  loaders[1].instance_id = 1;
  loaders[1].after = kAfterNet0;
  loaders[1].after_count = 1;
}

static void load_all(const ramjet_load *load, const struct ramjet_load_devices_options *options) {
  struct ramjet_device_loader loaders[3];
  make_loaders(loaders);
  memset(loaded.nets, 0, sizeof(loaded.nets));
  loaded.disk_bytes = 0;
  loaded.disk_ended = 0;
  CHECK(ramjet_load_devices(load, loaders, 3, options) == 0);
  CHECK(loaded.nets[0] == 'A' && loaded.nets[1] == 'B' && loaded.disk_ended);
}

static void test_load_devices(void) {
  struct ramjet_load_devices_options options = RAMJET_LOAD_DEVICES_OPTIONS_INIT;
  struct ramjet_options not_lazy = RAMJET_OPTIONS_INIT;
  struct ramjet_device_loader loaders[4];
  struct ramjet_device_id circle[] = {{"net", 1, 0}};
  ramjet_load *load = NULL;
  int unclaimed = 0;
  not_lazy.flags = RAMJET_NOT_LAZY;
  CHECK(ramjet_open(save_devices("devices.mr"), &not_lazy, &load) == 0);

  load_all(load, NULL);
  load_all(load, &options);
  options.threads = 1;
  load_all(load, &options);
  options.threads = 4;
  options.read_ahead_bytes = 1;
  load_all(load, &options);
  options.size = offsetof(struct ramjet_load_devices_options, read_ahead_bytes);
  load_all(load, &options);
  options.size = sizeof(options);

  /* Arguments. */
  make_loaders(loaders);
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, NULL, 1, NULL));
  options.threads = 65;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, &options));
  options.threads = 0;
  options.reserved = 1;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, &options));
  options.reserved = 0;
  options.size = 0;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, &options));
  options.size = sizeof(options);
  loaders[2].size = 0;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  make_loaders(loaders);
  loaders[1].name = NULL;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  make_loaders(loaders);
  loaders[1].flags = 4;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  make_loaders(loaders);
  loaders[1].after = NULL;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  make_loaders(loaders);
  loaders[1].load = NULL;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  make_loaders(loaders);
  loaders[0].buffer_bytes = (UINT64_C(1) << 30) + 1;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));

  /* Plans that cannot be, and nothing is called. */
  make_loaders(loaders);
  loaders[0].load_buffer = NULL;
  loaders[0].load = loaders[1].load = loaders[2].load = must_not_be_called;
  loaders[2].after = circle;
  loaders[2].after_count = 1;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  CHECK(strstr(ramjet_error(), "wait for each other") != NULL);
  circle[0].instance_id = 9;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  circle[0].name = NULL;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  loaders[2].after_count = 0;
  CHECK_ERROR(ENOTSUP, ramjet_load_devices(load, loaders + 1, 2, NULL));
  CHECK(strstr(ramjet_error(), "device \"disk\", instance 0 has no loader") != NULL);
  loaders[3] = loaders[2];
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 4, NULL));
  loaders[3].instance_id = 5;
  CHECK_ERROR(ENOENT, ramjet_load_devices(load, loaders, 4, NULL));

  /* What is not there, and what nobody wants. */
  make_loaders(loaders);
  loaders[1].instance_id = 5;
  loaders[1].flags = RAMJET_DEVICE_OPTIONAL;
  loaders[1].load = must_not_be_called;
  loaded.disk_bytes = 0;
  options.unclaimed = count_unclaimed;
  options.opaque = &unclaimed;
  CHECK(ramjet_load_devices(load, loaders, 3, &options) == 0 && unclaimed == 1);
  CHECK(ramjet_load_devices(load, NULL, 0, NULL) == -ENOTSUP);

  /* The first error is the one that is returned, and names its device. */
  make_loaders(loaders);
  loaders[0].load_buffer = NULL;
  loaders[0].load = wait_until_cancelled;
  loaders[1].load = must_not_be_called;
  loaders[2].load = fail_by_itself;
  CHECK_ERROR(EBUSY, ramjet_load_devices(load, loaders, 3, NULL));
  CHECK(strstr(ramjet_error(), "device \"net\", instance 0: its loader has returned -16 (") ==
        ramjet_error());
  loaders[2].load = fail_to_read;
  CHECK_ERROR(EINVAL, ramjet_load_devices(load, loaders, 3, NULL));
  CHECK(strstr(ramjet_error(), "device \"net\", instance 0: ") == ramjet_error());
  CHECK(strstr(ramjet_error(), "of a state of 1") != NULL);

  make_loaders(loaders);
  CHECK(truncate(path_of("devices.mr"), 0) == 0);
  CHECK_ERROR(EILSEQ, ramjet_load_devices(load, loaders, 1, &options));
  CHECK(strstr(ramjet_error(), "device \"disk\", instance 0: ") == ramjet_error());
  ramjet_close(load);
}

/* Loaders touch guest memory that has not arrived. */
static void test_load_devices_while_memory_loads(void) {
  ramjet_load *load = open_load(save_devices("devices.mr"));
  unsigned char *memory = map_private();
  attach(load, memory);
  loaded.memory = memory;
  load_all(load, NULL);
  loaded.memory = NULL;
  CHECK_ERROR(ETIMEDOUT, ramjet_wait(load, 0));
  CHECK(ramjet_start_eager(load) == 0 && ramjet_wait(load, -1) == 0);
  ramjet_close(load);
  munmap(memory, kLength);
}

/* --- Device state that arrives in numbered buffers --- */

enum { kBuffers = 8 };

static int take_buffer(void *opaque, uint64_t index, const void *bytes, uint64_t length) {
  uint64_t *const next = opaque;
  CHECK(length == 100 && *(const unsigned char *)bytes == index);
  CHECK(index == *next);
  ++*next;
  return index == 6 ? -EBUSY : 0;
}

static int put_buffer(ramjet_buffers *buffers, uint64_t index) {
  unsigned char bytes[100];
  memset(bytes, (int)index, sizeof(bytes));
  return ramjet_buffers_put(buffers, index, bytes, sizeof(bytes));
}

/* One of two producers: its buffers are in the worst order. */
static void *put_odd_buffers(void *buffers) {
  CHECK(put_buffer(buffers, 5) == 0);
  CHECK(put_buffer(buffers, 3) == 0);
  CHECK(put_buffer(buffers, 1) == 0);
  CHECK(ramjet_buffers_end(buffers) == 0);
  return NULL;
}

/* The producer of another device, whose first comes last. */
static void *put_two_buffers(void *buffers) {
  CHECK(put_buffer(buffers, 1) == 0);
  CHECK(put_buffer(buffers, 0) == 0);
  CHECK(ramjet_buffers_end(buffers) == 0);
  return NULL;
}

static int load_from_buffers(void *opaque, const ramjet_device_state *state) {
  (void)state;
  return ramjet_buffers_wait(opaque);
}

/* Two queues with room for one buffer: who would be the second waits for the other device. */
static void test_limit_of_all_buffers(void) {
  struct ramjet_buffers_options options = RAMJET_BUFFERS_OPTIONS_INIT;
  ramjet_buffers *one = NULL, *two = NULL;
  uint64_t next_of_one = 0, next_of_two = 0;
  pthread_t other;
  options.count = 2;
  options.queue_bytes = 100 + 128;
  options.consume = take_buffer;
  options.opaque = &next_of_one;
  CHECK(ramjet_buffers_open(&options, &one) == 0);
  options.queue_with = one;
  options.opaque = &next_of_two;
  CHECK(ramjet_buffers_open(&options, &two) == 0);
  CHECK(put_buffer(one, 1) == 0);
  CHECK(pthread_create(&other, NULL, put_two_buffers, two) == 0);
  CHECK(put_buffer(one, 0) == 0);
  CHECK(ramjet_buffers_end(one) == 0);
  CHECK(pthread_join(other, NULL) == 0);
  CHECK(next_of_one == 2 && next_of_two == 2);
  ramjet_buffers_close(one);
  ramjet_buffers_close(two);

  /* Of an older header: without the last member. */
  options.size = offsetof(struct ramjet_buffers_options, queue_with);
  options.queue_with = (const ramjet_buffers *)&options; /* is not looked at */
  CHECK(ramjet_buffers_open(&options, &one) == 0);
  CHECK(put_buffer(one, 1) == 0);
  ramjet_buffers_close(one);
}

static void test_buffers(void) {
  struct ramjet_buffers_options options = RAMJET_BUFFERS_OPTIONS_INIT;
  struct ramjet_options not_lazy = RAMJET_OPTIONS_INIT;
  struct ramjet_device_loader loader = RAMJET_DEVICE_LOADER_INIT;
  ramjet_buffers *buffers = NULL;
  ramjet_load *load = NULL;
  uint64_t next = 0, index;
  pthread_t other;
  options.count = 6;
  options.queue_bytes = 4 * (100 + 128); /* 2 and 4 of one producer, 5 and 3 of the other */
  options.producers = 2;
  options.consume = take_buffer;
  options.opaque = &next;
  CHECK_ERROR(EINVAL, ramjet_buffers_open(NULL, &buffers));
  CHECK_ERROR(EINVAL, ramjet_buffers_open(&options, NULL));
  options.consume = NULL;
  CHECK_ERROR(EINVAL, ramjet_buffers_open(&options, &buffers));
  options.consume = take_buffer;
  options.flags = 2;
  CHECK_ERROR(EINVAL, ramjet_buffers_open(&options, &buffers));
  options.flags = 0;
  options.producers = 0;
  CHECK_ERROR(EINVAL, ramjet_buffers_open(&options, &buffers));
  options.producers = UINT32_MAX;
  CHECK_ERROR(EINVAL, ramjet_buffers_open(&options, &buffers));
  options.producers = 2;
  options.count = (1 << 24) + 1;
  CHECK_ERROR(EINVAL, ramjet_buffers_open(&options, &buffers));
  CHECK(buffers == NULL);
  options.count = 6;

  /* A device waits for what two threads put. */
  CHECK(ramjet_buffers_open(&options, &buffers) == 0);
  CHECK_ERROR(EINVAL, ramjet_buffers_put(buffers, 0, NULL, 1));
  CHECK(pthread_create(&other, NULL, put_odd_buffers, buffers) == 0);
  for (index = 0; index < 6; index += 2) CHECK(put_buffer(buffers, index) == 0);
  CHECK(ramjet_buffers_end(buffers) == 0);
  not_lazy.flags = RAMJET_NOT_LAZY;
  CHECK(ramjet_open(save_as("guest.mr"), &not_lazy, &load) == 0);
  loader.name = "timer";
  loader.instance_id = 3;
  loader.load = load_from_buffers;
  loader.opaque = buffers;
  CHECK(ramjet_load_devices(load, &loader, 1, NULL) == 0 && next == 6);
  CHECK(pthread_join(other, NULL) == 0);
  ramjet_buffers_close(buffers);

  /* The consumer's own error, and then the device's. */
  next = 0;
  options.count = kBuffers;
  options.producers = 1;
  CHECK(ramjet_buffers_open(&options, &buffers) == 0);
  for (index = 0; index < 6; ++index) CHECK(put_buffer(buffers, index) == 0);
  CHECK_ERROR(EBUSY, put_buffer(buffers, 6));
  CHECK(strstr(ramjet_error(), "the consumer of buffer 6 has returned -16 (") != NULL);
  CHECK_ERROR(EBUSY, put_buffer(buffers, 7));
  CHECK_ERROR(EBUSY, ramjet_buffers_end(buffers));
  loader.opaque = buffers;
  CHECK_ERROR(EBUSY, ramjet_load_devices(load, &loader, 1, NULL));
  CHECK(strstr(ramjet_error(), "device \"timer\", instance 3: ") == ramjet_error());
  CHECK(strstr(ramjet_error(), "the consumer of buffer 6") != NULL);
  ramjet_buffers_close(buffers);
  ramjet_close(load);

  /* What is twice there, too high, missing, in an order that cannot be, or no longer wanted. */
  next = 0;
  CHECK(ramjet_buffers_open(&options, &buffers) == 0);
  CHECK(put_buffer(buffers, 0) == 0);
  CHECK_ERROR(EILSEQ, put_buffer(buffers, 0));
  CHECK_ERROR(EILSEQ, ramjet_buffers_end(buffers));
  ramjet_buffers_close(buffers);
  CHECK(ramjet_buffers_open(&options, &buffers) == 0);
  CHECK_ERROR(EILSEQ, put_buffer(buffers, kBuffers));
  ramjet_buffers_close(buffers);
  CHECK(ramjet_buffers_open(&options, &buffers) == 0);
  CHECK_ERROR(EILSEQ, ramjet_buffers_end(buffers));
  CHECK_ERROR(EILSEQ, ramjet_buffers_wait(buffers));
  ramjet_buffers_close(buffers);
  CHECK(ramjet_buffers_open(&options, &buffers) == 0);
  for (index = 7; index > 3; --index) CHECK(put_buffer(buffers, index) == 0);
  CHECK_ERROR(ENOMEM, put_buffer(buffers, 3));
  ramjet_buffers_close(buffers);
  CHECK(ramjet_buffers_open(&options, &buffers) == 0);
  CHECK(ramjet_buffers_cancel(buffers) == 0);
  CHECK_ERROR(ECANCELED, put_buffer(buffers, 0));
  ramjet_buffers_close(buffers);
  ramjet_buffers_close(NULL);
  test_limit_of_all_buffers();
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *at) {
  (void)status;
  (void)type;
  (void)at;
  return remove(path);
}

static void remove_directory(void) { nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS); }

int main(void) {
  ramjet_load *load = NULL;
  /* Not the test's own temporary directory, which `nobody` may be kept out of. */
  strcpy(directory, "/tmp/ramjet_c_test.XXXXXX");
  if (mkdtemp(directory) == NULL) {
    perror(directory);
    return 1;
  }
  atexit(remove_directory);
  CHECK(strcmp(ramjet_version(), "0.1.0") == 0);
  CHECK(*ramjet_error() == '\0');
  test_save();
  test_save_refuses();
  test_open_refuses();
  test_errors_are_of_their_thread();
  test_open_without_permission();
  test_plain_load();
  test_load_devices();
  test_buffers();

  if (ramjet_open(save_as("guest.mr"), NULL, &load) < 0) {
    printf("SKIPPED: all loads: %s\n", ramjet_error());
    return 0;
  }
  ramjet_close(load);
  test_blocks_and_devices();
  test_attach_refuses();
  test_memory_that_cannot_be_lazy();
  test_load();
  test_load_devices_while_memory_loads();
  test_close_loads_the_rest();
  test_discard();
  test_abandon();
  test_numbers();
  test_working_set();
  test_unreadable_page_is_poisoned();
  test_poisoned_memory_is_not_saved();
  test_attach_after_refusal();
  test_given_uffd();
  test_vm_is_stopped_for_unreadable_page();
  return 0;
}
