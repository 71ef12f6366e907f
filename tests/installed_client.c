/* A VMM in C as its author would write it, built against what tools/install has installed: saves a
 * guest, resumes it, and knows every error it is promised. Exit status: 0 all as promised; 77 this
 * machine lets nobody serve page faults. */
#define _GNU_SOURCE
#include <errno.h>
#include <ramjet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(condition)                                                                       \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      fprintf(stderr, "installed_client.c:%d: %s\n  ramjet_error: %s\n", __LINE__, #condition, \
              ramjet_error());                                                                 \
      exit(1);                                                                                 \
    }                                                                                          \
  } while (0)

enum { kPages = 1024, kPageBytes = 4096 };
static const uint64_t kLength = (uint64_t)kPages * kPageBytes;

/* What page `page` of the guest holds; every seventh is zero. */
static unsigned char content_of(unsigned page) {
  return (unsigned char)(page % 7 == 0 ? 0 : page % 251 + 1);
}

static unsigned char *map_guest(void) {
  void *memory = mmap(NULL, kLength, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  return memory;
}

static int holds_its_content(const unsigned char *memory, unsigned page) {
  unsigned i;
  for (i = 0; i < kPageBytes; ++i) {
    if (memory[(size_t)page * kPageBytes + i] != content_of(page)) return 0;
  }
  return 1;
}

static void save(const char *path) {
  static const char kTimer[] = "ticking";
  struct ramjet_save_block block;
  struct ramjet_save_device device;
  unsigned char *memory = map_guest();
  unsigned page;
  for (page = 0; page < kPages; ++page) {
    memset(memory + (size_t)page * kPageBytes, content_of(page), kPageBytes);
  }
  memset(&block, 0, sizeof(block));
  block.idstr = "pc.ram";
  block.host = memory;
  block.length = kLength;
  memset(&device, 0, sizeof(device));
  device.name = "timer";
  device.version_id = 2;
  device.state = kTimer;
  device.length = sizeof(kTimer);
  CHECK(ramjet_save(path, &block, 1, &device, 1) == 0);
  block.length = kLength - 1;
  CHECK(ramjet_save(path, &block, 1, &device, 1) == -EINVAL);
  munmap(memory, kLength);
}

static void refuse_what_is_no_snapshot(const char *directory) {
  char path[4096];
  ramjet_load *load = (ramjet_load *)directory;
  FILE *file;
  snprintf(path, sizeof(path), "%s/missing.mr", directory);
  CHECK(ramjet_open(path, NULL, &load) == -ENOENT);
  CHECK(load == NULL);
  CHECK(strstr(ramjet_error(), path) != NULL);
  snprintf(path, sizeof(path), "%s/text.mr", directory);
  file = fopen(path, "w");
  CHECK(file != NULL && fputs("This is no snapshot.\n", file) >= 0 && fclose(file) == 0);
  CHECK(ramjet_open(path, NULL, &load) == -EBADMSG);
  CHECK(load == NULL);
  CHECK(ramjet_open(NULL, NULL, &load) == -EINVAL);
}

static int load_timer(void *opaque, const ramjet_device_state *state) {
  return ramjet_read_device_state(state, 0, opaque, 8);
}

static void restore(const char *path) {
  struct ramjet_options options = RAMJET_OPTIONS_INIT;
  struct ramjet_block_info info = RAMJET_BLOCK_INFO_INIT;
  struct ramjet_block ram = RAMJET_BLOCK_INIT;
  struct ramjet_device_loader loader = RAMJET_DEVICE_LOADER_INIT;
  ramjet_load *load = NULL;
  char timer[8], stats[4096];
  unsigned page;
  int result = ramjet_open(path, &options, &load);
  if (result == -EPERM || result == -ENOSYS) {
    printf("SKIPPED: %s\n", ramjet_error());
    exit(77);
  }
  CHECK(result == 0);

  CHECK(ramjet_block_count(load) == 1);
  CHECK(ramjet_get_block(load, 0, &info) == 0);
  CHECK(strcmp(info.idstr, "pc.ram") == 0 && info.used_length == kLength);
  CHECK(ramjet_get_block(load, 1, &info) == -ENOENT);
  CHECK(ramjet_read_device(load, "timer", 0, timer, sizeof(timer)) == 8);
  CHECK(strcmp(timer, "ticking") == 0);
  CHECK(ramjet_read_device(load, "timer", 1, timer, sizeof(timer)) == -ENOENT);
  memset(timer, 0, sizeof(timer));
  loader.name = "timer";
  loader.load = load_timer;
  loader.opaque = timer;
  CHECK(ramjet_load_devices(load, &loader, 1, NULL) == 0);
  CHECK(strcmp(timer, "ticking") == 0);

  ram.idstr = "vga.vram";
  ram.host = map_guest();
  ram.length = kLength;
  CHECK(ramjet_attach(load, &ram) == -ENOENT);
  ram.idstr = info.idstr;
  CHECK(ramjet_attach(load, &ram) == 0);
  CHECK(ramjet_attach(load, &ram) == -EALREADY);

  /* The guest runs: faults come before anything is loaded. */
  CHECK(ramjet_wait(load, 0) == -ETIMEDOUT);
  CHECK(ramjet_detach(load) == -EBUSY);
  CHECK(holds_its_content(ram.host, 7));
  CHECK(holds_its_content(ram.host, 500));
  CHECK(ramjet_stats_json(load, stats, sizeof(stats)) > 0);
  CHECK(strstr(stats, "\"complete\":false") != NULL);

  CHECK(ramjet_start_eager(load) == 0);
  CHECK(ramjet_wait(load, -1) == 0);
  CHECK(ramjet_stats_json(load, stats, sizeof(stats)) < (int64_t)sizeof(stats));
  CHECK(strstr(stats, "\"schema\":\"ramjet.stats/1\"") != NULL);
  CHECK(strstr(stats, "\"complete\":true") != NULL);
  CHECK(ramjet_detach(load) == 0);
  ramjet_close(load);
  for (page = 0; page < kPages; ++page) CHECK(holds_its_content(ram.host, page));
  munmap(ram.host, kLength);
}

int main(int argc, char **argv) {
  char path[4096];
  if (argc != 2) {
    fprintf(stderr, "usage: installed_client DIRECTORY\n");
    return 2;
  }
  snprintf(path, sizeof(path), "%s/guest.mr", argv[1]);
  save(path);
  refuse_what_is_no_snapshot(argv[1]);
  restore(path);
  printf("ramjet %s\n", ramjet_version());
  return 0;
}
