/* ramjet: resumes a virtual machine from a snapshot before its memory is loaded. The C face.
 *
 * A VMM maps guest RAM, attaches it to the blocks of a snapshot, and runs the guest at once. Pages
 * that are touched are fetched from the file (userfaultfd, pread); the others follow behind. When
 * the last one is there, ramjet_close() or ramjet_detach() makes the memory ordinary again. The
 * whole of a restore path:
 *
 *     struct ramjet_options options = RAMJET_OPTIONS_INIT;
 *     ramjet_load *load;
 *     if (ramjet_open("vm.mr", &options, &load) < 0) die(ramjet_error());
 *
 *     struct ramjet_block ram = RAMJET_BLOCK_INIT;
 *     ram.idstr = "pc.ram";
 *     ram.host = mmap(NULL, length, PROT_READ | PROT_WRITE,
 *                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
 *     ram.length = length;
 *     if (ramjet_attach(load, &ram) < 0) die(ramjet_error());
 *
 *     ... restore devices, run the vCPUs: the memory holds the snapshot's content from here on ...
 *
 *     ramjet_start_eager(load);
 *     if (ramjet_wait(load, -1) < 0) die(ramjet_error());  // in a thread that is no vCPU's
 *     struct ramjet_stats stats = RAMJET_STATS_INIT;
 *     if (ramjet_get_stats(load, &stats) == 0 && stats.poisoned_pages > 0) warn(...);
 *     ramjet_close(load);  // at once: until then the first touch of a page of zeros costs a fault
 *
 * Conventions
 *  1. A function that can fail returns a negative errno; what it returns else, 0 unless it says so,
 *     is not negative. ramjet_error() has the reason as a sentence with file, block and number. The
 *     errnos that a caller may want to tell apart are listed with each function; others come from
 *     the system. -EINVAL is an argument that makes no sense.
 *  2. Threads: every function may be called by any thread at any time, also concurrently on one
 *     handle; only ramjet_close() wants to be the last, with no other call under way.
 *     ramjet_wait(), ramjet_finish(), ramjet_detach() and ramjet_close() must not be called by
 *     a thread on which an access to guest memory depends (one that holds a lock which a vCPU
 *     needs).
 *     A handle is never NULL, but for ramjet_close().
 *  3. Addresses are of the calling process; lengths and offsets are bytes; ranges are half-open.
 *  4. Structs begin with their own size and may grow in later versions. Begin with the ..._INIT
 *     macro, which also sets what is not zero by default. A field that a caller of an older version
 *     does not know is what its macro would have set.
 *  5. Strings are whatever bytes the file holds, and end in a zero. Those that go in stay the
 *     caller's; those that come out are the library's, until the handle is closed unless something
 *     else is said.
 *  6. The library prints nothing, handles no signal (its threads block all of them; the SIGIO of a
 *     lease, see 7, goes to one of them), forks nothing and never exits. Its threads are called
 *     ramjet-*; where it reads a disk through io_uring, the kernel may add iou-wrk-*. It touches
 *     guest memory only through the kernel, so it needs no lock of yours; ramjet_read_block() and
 *     ramjet_save() alone go there.
 *  7. While a load is not complete, the attached memory must not be mremap()ed, and a child process
 *     that is forked sees zeros in pages that have not arrived: use MADV_DONTFORK. munmap() is
 *     understood, as are MADV_DONTNEED on private and MADV_REMOVE on shared memory: what is
 *     discarded is zero. Do not use MADV_DONTNEED on shared memory: the kernel keeps what has
 *     arrived, and what has not becomes zero for ever. For holes made by fallocate() see
 *     ramjet_discard(). mlock(), and devices that pin memory (VFIO), wait for every page: let
 *     ramjet_wait() come first.
 *     A read lease (F_SETLEASE) keeps others from writing to the file and from truncating it: they
 *     wait, in open() or truncate(), until the rest is loaded at full speed, and so does a thread
 *     of yours. It is there soon after ramjet_start_eager() or ramjet_wait(), if the file belongs
 *     to the process's user or the process has CAP_LEASE, and if nobody has the file open for
 *     writing. Without it, for which ramjet_stats_json() has the reason among its "notes", the
 *     file may not be written to or truncated: every page that has not arrived then counts as
 *     unreadable. Deleting it, renaming it, setting its times, and ramjet_save() to its path do no
 *     harm.
 *  8. What a vCPU sees of a page that was poisoned, or of memory that was abandoned, depends on
 *     the host: KVM_RUN fails with EFAULT or EHWPOISON, the vCPU's thread gets a SIGBUS (block it
 *     in the thread, and unblock it in KVM_RUN only, by KVM_SET_SIGNAL_MASK), or KVM takes the
 *     access for one to a device: KVM_EXIT_MMIO with an address inside RAM, or
 *     KVM_EXIT_INTERNAL_ERROR. tools/demo_vm has all of them.
 *  9. Needs Linux 4.11 or later and the permission to serve page faults: read and write access to
 *     /dev/userfaultfd (Linux 6.1), or CAP_SYS_PTRACE, or sysctl vm.unprivileged_userfaultfd=1.
 *     Unreadable pages can be poisoned since 6.6; transparent huge pages arrive whole since 6.8.
 *     A seccomp filter must answer what it denies with an error (SECCOMP_RET_ERRNO EPERM or
 *     ENOSYS). Convention 10 lists what the library calls.
 *     Sources: Linux Documentation/admin-guide/mm/userfaultfd.rst, userfaultfd(2),
 *     ioctl_userfaultfd(2).
 * 10. System calls. Every function needs what any threaded program in C needs (mmap, munmap, futex,
 *     read, write, close, rt_sigprocmask, clone3, ...), and openat, newfstatat, fcntl and pread64
 *     to read files. Without one of them it fails with a reason; so does a load without
 *       ioctl      USERFAULTFD_IOC_NEW on /dev/userfaultfd, unless userfaultfd(2) is allowed;
 *                  UFFDIO_API, _REGISTER, _UNREGISTER, _WAKE, _COPY, _ZEROPAGE; _POISON, unless the
 *                  VM is to be stopped (RAMJET_STOP_VM); _CONTINUE, for memory with an alias
 *       eventfd2, ppoll                the fault thread waits
 *       madvise                        MADV_DONTNEED, MADV_REMOVE: memory is emptied before a load
 *       process_vm_writev, or pipe2    memory with an alias is filled, ramjet_save() reads memory;
 *                  without both, -EPERM
 *       clock_nanosleep                what failed is tried again later
 *       mprotect, or mmap, or munmap   ramjet_abandon()
 *     and what writes a file (ramjet_save(), ramjet_save_working_set()) without
 *       pwrite64, ftruncate, fdatasync, linkat, rename, unlink
 *     The others are optional. Without
 *       io_uring_setup                 disks are read by pread64 alone
 *       io_uring_enter                 the same; but do not deny it while a load is under way that
 *                  was allowed io_uring_setup: a read that has begun would never end
 *       cachestat, preadv2             what the page cache has is less well known
 *       statx                          O_DIRECT reads are aligned to 4 KiB
 *       fadvise64                      the kernel reads ahead more than it is asked for
 *       ioctl      UFFDIO_MOVE: no page arrives as a huge page; PROCMAP_QUERY: /proc/self/smaps is
 *                  read; PAGEMAP_SCAN: all memory is emptied, even if it holds nothing
 *       madvise    MADV_HUGEPAGE: as without UFFDIO_MOVE; MADV_COLD: as without PAGEMAP_SCAN;
 *                  MADV_DONTFORK: a child inherits mappings of io_uring; MADV_COLLAPSE, or mincore:
 *                  ramjet_collapse() does nothing
 *       get_mempolicy, mbind           on a machine of several NUMA nodes no page arrives as a huge
 *                  page
 *       inotify_init1, inotify_add_watch, poll
 *                  whoever sets the snapshot's times counts as having written to it
 *       fcntl      F_SETLEASE, F_GETLEASE, F_SETOWN_EX, F_GETOWN_EX, F_GETSIG: no lease keeps
 *                  others from writing to the snapshot
 *       rt_sigtimedwait, gettid, tgkill
 *                  the lease's thread looks from time to time
 *       sched_getaffinity              the number of eager threads is that of all processors
 *       setpriority                    eager threads compete with vCPUs
 *       prctl                          PR_SET_NAME: threads have no names
 *       pidfd_open, pidfd_send_signal  kill(2) ends the process of kill_pid
 *       io_setup, io_submit, io_getevents, io_destroy, sync_file_range, fsync, access, prlimit64
 *                  snapshots are written more slowly, or are on the disk later
 *
 * Link with -lramjet (pkg-config ramjet). The file format is QEMU's mapped-ram
 * (docs/devel/migration/mapped-ram.rst of QEMU 9.0 and later); ramjet_save() writes it for VMMs
 * that have no other writer.
 */
#ifndef RAMJET_LOADER_RAMJET_H_
#define RAMJET_LOADER_RAMJET_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define RAMJET_API __attribute__((visibility("default")))
#else
#define RAMJET_API
#endif

/* One snapshot being loaded into memory of this process. */
typedef struct ramjet_load ramjet_load;

/* "0.1.0" */
RAMJET_API const char *ramjet_version(void);

/* Why the last function that failed in the calling thread did so: one line, "" if none has. Valid
 * until the next failure in this thread. */
RAMJET_API const char *ramjet_error(void);

/* --- Opening --- */

/* What becomes of a page that a thread waits for and that the file does not give: for 2 seconds, if
 * the disk refuses it, or for 60 ms, if the file has ended or has something else there. It is never
 * zeros, and never silence: ramjet_stats_json() has the reason before that thread goes on. A page
 * that no thread waits for is never given up; it is tried again and again. */
enum ramjet_on_unreadable {
  /* The page is poisoned: its use is a SIGBUS, in a guest a machine check; everything else goes on.
   * Where the kernel cannot do that (before Linux 6.6), and for RAMJET_SHARED memory, whose other
   * mappings would see zeros: as RAMJET_STOP_VM. */
  RAMJET_POISON = 0,
  /* The VM is to be stopped: see ramjet_options.stop_vm. Who touches such a page sleeps until
   * then. */
  RAMJET_STOP_VM = 1
};

/* A flag: serve no page faults. For a process that may not, and only reads blocks and devices.
 * Nothing can be attached. */
#define RAMJET_NOT_LAZY 1u

/* A flag: note which pages are touched, for ramjet_save_working_set(). Takes 8 bytes a page. */
#define RAMJET_RECORD 2u

/* A flag: a thread that touches a page gets it alone, never the huge page around it. Without this
 * flag, once ramjet_start_eager() was called and if there is no eager_rate, an untouched huge page
 * of which the page cache has all content comes whole: 0.3 to 0.5 ms, not 0.02, for its first page,
 * nothing for the next 511. So it does from a fast disk, in about 1 ms, once 16 pages had to come
 * alone. For guests to which the longest wait matters more than their sum. */
#define RAMJET_SINGLE_PAGES 4u

/* How what is loaded ahead treats the page cache. While the kernel has no huge page to give, as in
 * a memory cgroup that is full, it goes through the cache in any case. */
enum ramjet_direct {
  /* What is there comes from there; all else comes straight from the disk (O_DIRECT), and leaves no
   * trace in the cache. */
  RAMJET_DIRECT_AUTO = 0,
  RAMJET_DIRECT_ON = 1, /* straight from the disk, wherever the file system can */
  RAMJET_DIRECT_OFF = 2 /* through the cache, which then has it for the next VM */
};

struct ramjet_options {
  uint64_t size; /* of this struct */
  /* Where the migration stream begins in the file; 0: at its start, or behind libvirt's header. */
  uint64_t stream_offset;
  /* A userfaultfd of this process, not registered with anything, of which a duplicate is used; or
   * -1: open one. It must not be opened with UFFD_USER_MODE_ONLY, for KVM's accesses come from the
   * kernel. If UFFDIO_API was called on it, then with UFFD_FEATURE_EVENT_REMOVE, and without
   * UFFD_FEATURE_EVENT_FORK, _EVENT_REMAP, _SIGBUS and features that are newer than Linux 6.18. */
  int32_t uffd;
  /* An open /dev/userfaultfd for a process that can no longer open it, or -1. Stays yours. */
  int32_t device_fd;
  /* Threads that load ahead, 1 to 64; 0: as many as suit the machine, 2 to 4. */
  uint32_t eager_threads;
  /* enum ramjet_on_unreadable */
  uint32_t on_unreadable;
  /* Called once, by a thread of the library, if the VM is to be stopped; `why` is valid during the
   * call. It must not touch guest memory, nor call a function of this library; writing to an
   * eventfd or signalling a vCPU thread is what it is for. */
  void (*stop_vm)(void *opaque, const char *why);
  void *opaque;
  /* If the VM is to be stopped and there is no stop_vm: this process (getpid() is allowed) gets
   * SIGKILL, which alone ends a vCPU that sleeps on a page; 0: none. In any case ramjet_wait()
   * returns -ENOTRECOVERABLE. */
  int32_t kill_pid;
  /* RAMJET_NOT_LAZY, RAMJET_RECORD, RAMJET_SINGLE_PAGES: any of them, or 0 */
  uint32_t flags;
  /* A file of ramjet_save_working_set(), or NULL: what the guest touched first in an earlier run is
   * loaded first in this one, beginning when a block is attached. Gently until ramjet_start_eager()
   * is called, or for 50 ms, since the guest is being resumed; then as fast as can be, and what
   * ramjet_start_eager() does waits until it is there. A thread of the library reads the file,
   * soon after ramjet_open(). One that cannot be read, is damaged, or is of another snapshot is
   * ignored, and ramjet_stats_json() has the reason among its "errors". Not with RAMJET_RECORD. */
  const char *working_set;
  /* What is loaded ahead, at most, in bytes a second; 0: no limit. Ignored without a lease on the
   * file (7), because then only the end of the load makes it safe to write to the file. */
  uint64_t eager_rate;
  /* enum ramjet_direct */
  uint32_t direct;
  uint32_t reserved; /* 0 */
  /* A file of `ramjet checksum`, or NULL: no page is given to the guest but with the checksum that
   * it had when they were made; it is as unreadable otherwise (see on_unreadable). A fault then
   * reads the 15 pages around its own, too. One that is damaged or of another snapshot is an error
   * of ramjet_open(). */
  const char *checksums;
};
#define RAMJET_OPTIONS_INIT \
  { sizeof(struct ramjet_options), 0, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Opens the snapshot `path`, checks all of it but the content of pages, and prepares for attaching:
 * one thread, one userfaultfd. `options` may be NULL. On success `*load` is to be freed by
 * ramjet_close(); otherwise it is NULL.
 * -ENOENT, -EACCES, ...: the file cannot be opened. -EBADMSG: it is not a mapped-ram snapshot.
 * -EILSEQ: it is one, but damaged or incomplete, or the checksums are. -EINVAL: also if the
 * checksums are none, or of another snapshot. -EPERM, -ENOSYS: this process may not, or this
 * kernel cannot serve page faults, or the given uffd lacks what is needed: RAMJET_NOT_LAZY still
 * works. */
RAMJET_API int ramjet_open(const char *path, const struct ramjet_options *options,
                           ramjet_load **load);

/* --- What is in it --- */

/* A block of guest RAM as the snapshot has it. */
struct ramjet_block_info {
  uint64_t size;          /* of this struct */
  const char *idstr;      /* QEMU's name of it: "pc.ram" */
  uint64_t used_length;   /* of its memory, a multiple of page_size */
  uint64_t page_size;     /* of the guest's architecture, as stored */
  uint64_t nonzero_pages; /* pages of page_size that the file holds; the others are zero */
};
#define RAMJET_BLOCK_INFO_INIT \
  { sizeof(struct ramjet_block_info), 0, 0, 0, 0 }

/* How many blocks the snapshot has, and what block `index`, less than that, is.
 * -ENOENT: there is no such block. */
RAMJET_API uint64_t ramjet_block_count(const ramjet_load *load);
RAMJET_API int ramjet_get_block(const ramjet_load *load, uint64_t index,
                                struct ramjet_block_info *info);

/* The state of a device as the snapshot has it. */
struct ramjet_device_info {
  uint64_t size; /* of this struct */
  const char *name;
  uint32_t instance_id;
  uint32_t version_id;
  uint64_t length; /* of the state */
};
#define RAMJET_DEVICE_INFO_INIT \
  { sizeof(struct ramjet_device_info), 0, 0, 0, 0 }

/* How many devices the snapshot has, and what device `index`, less than that, is.
 * -ENOENT: there is no such device. */
RAMJET_API uint64_t ramjet_device_count(const ramjet_load *load);
RAMJET_API int ramjet_get_device(const ramjet_load *load, uint64_t index,
                                 struct ramjet_device_info *info);

/* Copies the first `length` bytes of the state of device `name`, instance `instance_id`, to
 * `buffer`; returns the length of the whole state, which may be more.
 * -ENOENT: the snapshot has no such device. -EIO, -EILSEQ: it cannot be read. */
RAMJET_API int64_t ramjet_read_device(const ramjet_load *load, const char *name,
                                      uint32_t instance_id, void *buffer, uint64_t length);

/* --- Device state, several devices at once --- */

/* The state of one device while it is being loaded. Valid until the function that was given it
 * returns. */
typedef struct ramjet_device_state ramjet_device_state;

/* Copies `length` bytes at `offset` of the state to `buffer`. Exactly these are read from the disk,
 * with nothing ahead of them, so large pieces are better. Any thread may call it.
 * -EINVAL: also if there is not so much. -EIO, -EILSEQ: it cannot be read. */
RAMJET_API int ramjet_read_device_state(const ramjet_device_state *state, uint64_t offset,
                                        void *buffer, uint64_t length);

/* What it is; `name` stays valid until the handle is closed. */
RAMJET_API int ramjet_get_device_state(const ramjet_device_state *state,
                                       struct ramjet_device_info *info);

/* 1: another device has failed, so what this one loads will not be used, and its functions may
 * return an error at once, which nobody will see; else 0. Any thread may call it. */
RAMJET_API int ramjet_device_cancelled(const ramjet_device_state *state);

/* A device by its name, as the snapshot has it. */
struct ramjet_device_id {
  const char *name;
  uint32_t instance_id;
  uint32_t reserved; /* 0 */
};

/* Flags of a ramjet_device_loader. */
/* The snapshot may lack the device; nothing is called then, and those after it do not wait. */
#define RAMJET_DEVICE_OPTIONAL 1u
/* load_buffer() takes buffers in any order, several at the same time. */
#define RAMJET_DEVICE_ANY_ORDER 2u

/* Who loads the state of a device: load() alone, or in buffers load_buffer(), after which load(),
 * if it is not NULL, ends it. Both return 0 or a negative errno, get `opaque`, and are called by
 * threads of the library: "ramjet-device", all signals blocked, 8 MiB of stack. They may call the
 * functions above, and touch guest memory that is attached, for its pages come all the same. */
struct ramjet_device_loader {
  uint64_t size; /* of this struct */
  const char *name;
  uint32_t instance_id;
  uint32_t flags; /* RAMJET_DEVICE_OPTIONAL, RAMJET_DEVICE_ANY_ORDER, or 0 */
  int (*load)(void *opaque, const ramjet_device_state *state);
  /* For a state that is large: buffers of buffer_bytes, the last of which may be shorter. `bytes`
   * lies at `offset` in the state, and is valid during the call; meanwhile the next ones are read.
   * In order, one call at a time, though not by one thread, unless RAMJET_DEVICE_ANY_ORDER. */
  int (*load_buffer)(void *opaque, const ramjet_device_state *state, uint64_t offset,
                     const void *bytes, uint64_t length);
  uint64_t buffer_bytes; /* at most 1 GiB; 0: 1 MiB */
  void *opaque;
  /* Devices that must be complete before this one begins. Each has a loader, too. */
  const struct ramjet_device_id *after;
  uint64_t after_count;
};
#define RAMJET_DEVICE_LOADER_INIT \
  { sizeof(struct ramjet_device_loader), 0, 0, 0, 0, 0, 0, 0, 0, 0 }

struct ramjet_load_devices_options {
  uint64_t size; /* of this struct */
  /* 1 to 64; 0: one for each device, two for one that comes in buffers, up to 16. Most of them wait
   * for a device, not for a processor. */
  uint32_t threads;
  uint32_t reserved; /* 0 */
  /* Called for each device of the snapshot that has no loader, before any loader is; NULL: such a
   * device is an error. By the calling thread; `info` is valid during the call. */
  void (*unclaimed)(void *opaque, const struct ramjet_device_info *info);
  void *opaque;
  /* Buffers that are read before their turn take no more than that, with 128 bytes more for each,
   * those of all devices together; 0: 256 MiB. The one whose turn it is comes without counting. */
  uint64_t read_ahead_bytes;
};
#define RAMJET_LOAD_DEVICES_OPTIONS_INIT \
  { sizeof(struct ramjet_load_devices_options), 0, 0, 0, 0, 0 }

/* Has `count` loaders load their devices, and returns when all have. Each begins as soon as those
 * that it comes after are complete, else in the order of the snapshot; guest memory, if it is
 * attached, goes on loading meanwhile. All elements of `loaders` have the size of the first.
 * `options` may be NULL. Not to be called by a loader.
 * First it checks, and calls none of them if something is wrong. -EINVAL: also if a device has two
 * loaders, comes after one without a loader, or devices wait for each other in a circle. -ENOENT:
 * the snapshot lacks a device. -ENOTSUP: a device of the snapshot has no loader. -EILSEQ: the
 * snapshot has a device twice.
 * The first loader that fails ends it: those that have not begun never begin, those that run are
 * told by ramjet_device_cancelled(), and waited for. What it has returned is returned, and
 * ramjet_error() begins with the name and instance of its device. -EIO, -EILSEQ: a buffer cannot be
 * read. */
RAMJET_API int ramjet_load_devices(const ramjet_load *load,
                                   const struct ramjet_device_loader *loaders, uint64_t count,
                                   const struct ramjet_load_devices_options *options);

/* --- Device state that arrives in numbered buffers --- */

/* For a state that does not come from the snapshot but, say, through several connections: buffers 0
 * to count - 1 that several threads, the producers, put in whatever order. One consumer gets them
 * in theirs. Those that are early are copied to a queue of limited size; a producer that would
 * exceed it waits. The next one in order never waits, and goes straight from the producer's memory
 * to the consumer, so the limit is never exceeded. Each producer
 *
 *     ramjet_buffers_put(buffers, index, bytes, length);  // for what it has, then once
 *     ramjet_buffers_end(buffers);
 *
 * and whoever needs all of it, such as load() of a ramjet_device_loader, calls
 * ramjet_buffers_wait(). Its error is then that of the device; a load() that gives up before calls
 * ramjet_buffers_cancel(), so that the producers end, too.
 *
 * The first error ends the whole: every call that waits, and every later one, returns it. -EILSEQ:
 * an index that is too high, that came before, or that nobody has put. -ENOMEM: all producers that
 * are left wait with buffers that are too early, so that nobody can put the next: the queue is too
 * small for this order. Where each producer puts its own in ascending order, that cannot be, and
 * any limit will do, 0 too. -ECANCELED: by ramjet_buffers_cancel(). What the consumer has returned
 * is returned as it is. */
typedef struct ramjet_buffers ramjet_buffers;

/* A flag: the consumer takes buffers in any order, several at the same time. None waits then. */
#define RAMJET_BUFFERS_ANY_ORDER 1u

struct ramjet_buffers_options {
  uint64_t size;        /* of this struct */
  uint64_t count;       /* of buffers, at most 2^24 */
  uint64_t queue_bytes; /* the limit: of all buffers in the queue, with 128 bytes more for each */
  uint32_t producers;   /* at least 1; each will call ramjet_buffers_end() once */
  uint32_t flags;       /* RAMJET_BUFFERS_ANY_ORDER, or 0 */
  /* The consumer. Called by the producers' threads, in ramjet_buffers_put(): in order, one call at
   * a time, unless RAMJET_BUFFERS_ANY_ORDER. `bytes` are valid during the call. Returns 0 or a
   * negative errno; must not call the functions below. */
  int (*consume)(void *opaque, uint64_t index, const void *bytes, uint64_t length);
  void *opaque;
  /* Those of another device, or NULL. The queues of all that are opened with the same one, and its
   * own, together take no more than its queue_bytes: a producer that would exceed that waits, too.
   * -ENOMEM: also if all that take some of it wait with buffers that are too early. No thread may
   * put to two of them, for one that waits at the first could have what the second lacks. */
  const ramjet_buffers *queue_with;
};
#define RAMJET_BUFFERS_OPTIONS_INIT \
  { sizeof(struct ramjet_buffers_options), 0, UINT64_C(67108864), 1, 0, 0, 0, 0 }

/* On success `*buffers` is to be freed by ramjet_buffers_close(); otherwise it is NULL. */
RAMJET_API int ramjet_buffers_open(const struct ramjet_buffers_options *options,
                                   ramjet_buffers **buffers);

/* Returns when the buffer, which stays the caller's, is consumed or in the queue. */
RAMJET_API int ramjet_buffers_put(ramjet_buffers *buffers, uint64_t index, const void *bytes,
                                  uint64_t length);

/* The calling producer will put no more, after an error too. Returns the first error so far. */
RAMJET_API int ramjet_buffers_end(ramjet_buffers *buffers);

/* Waits until all producers have ended. 0: all was consumed. */
RAMJET_API int ramjet_buffers_wait(ramjet_buffers *buffers);

/* Ends the whole with -ECANCELED, unless there was an error before. */
RAMJET_API int ramjet_buffers_cancel(ramjet_buffers *buffers);

/* Frees it; NULL is allowed. All producers have ended, and no other call is under way. */
RAMJET_API void ramjet_buffers_close(ramjet_buffers *buffers);

/* --- Loading --- */

/* How guest memory is mapped. */
enum ramjet_memory {
  /* MAP_PRIVATE | MAP_ANONYMOUS, also of huge pages (MAP_HUGETLB). */
  RAMJET_PRIVATE = 0,
  /* MAP_SHARED of a memfd, or of a file on tmpfs or hugetlbfs. Before the load is complete, other
   * mappings of it, in this process or another, see zeros where pages have not arrived, and
   * touching them there brings the zeros into the guest: have none but `alias`. On Linux before
   * 6.4, and with an alias, all mappings of it in this process have MADV_NOHUGEPAGE until the load
   * ends, and then MADV_HUGEPAGE if they had it, or would have got huge pages without. */
  RAMJET_SHARED = 1
};

struct ramjet_block {
  uint64_t size; /* of this struct */
  /* Which block of the snapshot. */
  const char *idstr;
  /* Its memory: a multiple of host_page_size, mapped readable and writable. */
  void *host;
  /* At least the block's used_length, and a multiple of host_page_size. */
  uint64_t length;
  /* Of the mapping: the system's page size, or that of hugetlb (2 MiB, 1 GiB); 0: find out. A huge
   * page arrives whole, at the first touch of any of its bytes, and takes a buffer of its size in
   * each thread of the library. */
  uint64_t host_page_size;
  /* enum ramjet_memory */
  uint32_t memory;
  uint32_t reserved; /* 0 */
  /* Of shared memory: a second mapping of the same `length` bytes, through which the content is
   * filled in before it becomes visible at `host` (UFFDIO_CONTINUE, Linux 5.14); NULL: none. What
   * is allocated for huge pages of hugetlb has the memory policy (mbind) of `alias`. */
  void *alias;
};
#define RAMJET_BLOCK_INIT \
  { sizeof(struct ramjet_block), 0, 0, 0, 0, 0, 0, 0 }

/* Makes `block->host` the memory of that block of the snapshot. What was there is dropped; when the
 * call returns, every access sees the snapshot's content, at once or as soon as it is read. After
 * a failure nobody waits for faults there, and the memory's content is unspecified: try again, or
 * load it by ramjet_read_block(). Waits for a ramjet_read_block() of that block that is under way.
 * -ENOENT: the snapshot has no such block. -EALREADY: it is attached. -ENOTSUP: this memory cannot
 * be loaded lazily (of a file on disk, locked, registered with another userfaultfd, ...). -EPERM: a
 * seccomp filter denies every way to fill memory through `alias` (convention 10). */
RAMJET_API int ramjet_attach(ramjet_load *load, const struct ramjet_block *block);

/* The other way: reads all of a block that is not attached to `to`, which is `length` bytes long,
 * at least its used_length. Bytes that are zero already are not written, so that memory which
 * nobody has used stays so.
 * -ENOENT: the snapshot has no such block. -EALREADY: it is attached. -EIO, -EILSEQ: it cannot be
 * read, or is not what it was when the checksums were made. */
RAMJET_API int ramjet_read_block(const ramjet_load *load, const char *idstr, void *to,
                                 uint64_t length);

/* Starts loading what nobody has touched yet, of blocks attached by now or later. Without it pages
 * come only when they are touched. Calling it again is harmless. */
RAMJET_API int ramjet_start_eager(ramjet_load *load);

/* Writes which pages were touched before they had arrived, in order of first touch, to the file
 * `path`, for the next load of this snapshot or of a copy of it: see ramjet_options.working_set. It
 * has what was touched up to now, or up to ramjet_start_eager(), after which the guest finds pages
 * that it did not ask for; so the way to record is
 *
 *     options.flags = RAMJET_RECORD;
 *     ... open, attach, run the guest for some seconds ...
 *     ramjet_save_working_set(load, "vm.ws");
 *     ramjet_start_eager(load);
 *
 * Also after ramjet_wait() or ramjet_detach(). Reads bitmaps and device state from the snapshot.
 * The file appears under `path`, where it replaces another, when it is complete; a name that it may
 * have until then is PATH.PID.tmp. Pages of zeros are not in it. Several records of one snapshot
 * are made one by `ramjet workingset merge`.
 * -ENOTSUP: the handle was opened without RAMJET_RECORD, or there was no memory to record. -EIO,
 * -EILSEQ: the file cannot be written, or the snapshot not be read. */
RAMJET_API int ramjet_save_working_set(const ramjet_load *load, const char *path);

/* The caller is about to discard [start, start + length) in a way that the kernel does not report:
 * fallocate() with FALLOC_FL_PUNCH_HOLE on shared memory. On return nothing of it can arrive any
 * more: pages that have not are zero for ever. Whole pages of attached memory, that is; the rest of
 * the range is none of its business. Waits for installs under way, never for I/O. */
RAMJET_API int ramjet_discard(ramjet_load *load, void *start, uint64_t length);

/* Waits until all attached blocks are complete, for at most `timeout_ms` milliseconds (negative: no
 * limit; 0: only asks). Without ramjet_start_eager() that is when everything has been touched.
 * Pages that were poisoned count as arrived: ramjet_get_stats() tells. While the file does not give
 * a page, and no thread waits for it, the load is not complete: ramjet_stats_json() has the reason
 * as "unread".
 * -ETIMEDOUT: not yet. -ENOTRECOVERABLE: a page cannot be had, and the VM has to be stopped (see
 * ramjet_options). -ECANCELED: the load was abandoned. */
RAMJET_API int ramjet_wait(ramjet_load *load, int64_t timeout_ms);

/* For a caller that cannot go on before all attached blocks are complete: loads the rest at full
 * speed, whatever the eager_rate, also in the calling thread, so that the end comes even if no
 * thread can be started. The caller counts as a guest that waits for every page: what the file does
 * not give is poisoned, or the VM stopped (ramjet_on_unreadable). Not to be called by a thread on
 * which an access to guest memory depends. Errors as those of ramjet_wait(). */
RAMJET_API int ramjet_finish(ramjet_load *load);

/* Numbers so far. Pages are of the memory they lie in. */
struct ramjet_stats {
  uint64_t size;           /* of this struct */
  uint64_t complete;       /* 1: everything attached has arrived */
  uint64_t pages;          /* of all attached blocks */
  uint64_t nonzero_pages;  /* of those, with content in the file: the sum of the next four, then */
  uint64_t eager_pages;    /* loaded ahead */
  uint64_t faulted_pages;  /* loaded because somebody touched them */
  uint64_t removed_pages;  /* discarded by the guest before they came */
  uint64_t poisoned_pages; /* unreadable */
  uint64_t faults;         /* read from the kernel */
  uint64_t fault_p50_ns;   /* from reading a fault to its page being there; good to 6 % */
  uint64_t fault_p99_ns;
  uint64_t fault_max_ns;
  uint64_t read_retries; /* reads of the file that were repeated */
  uint64_t
      rescued_faults; /* lost, and woken by a watchdog: if not 0, you have found a bug of ours */
  uint64_t working_set_pages; /* of eager_pages: loaded first, for ramjet_options.working_set */
};
#define RAMJET_STATS_INIT \
  { sizeof(struct ramjet_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
RAMJET_API int ramjet_get_stats(const ramjet_load *load, struct ramjet_stats *stats);

/* The same and more as one JSON object (schema ramjet.stats/1: docs/stats.md), into `buffer` of
 * `size` bytes, cut off if need be and ended by a zero if size > 0; returns its length without the
 * zero, as snprintf() does. */
RAMJET_API int64_t ramjet_stats_json(const ramjet_load *load, char *buffer, uint64_t size);

/* --- Ending --- */

/* Ends a load that is complete: the memory is unregistered, and no thread and no descriptor is
 * left. Statistics stay, and nothing can be attached any more. Calling it again, or ramjet_wait(),
 * is harmless. -EBUSY: pages are still owed to the guest. */
RAMJET_API int ramjet_detach(ramjet_load *load);

/* Makes transparent huge pages of what has arrived in small ones because it was touched before its
 * turn, where huge pages are wanted (MADV_HUGEPAGE, or a host that always makes them). A guest runs
 * faster in them. To be called after ramjet_detach(), by a thread that has time: half a millisecond
 * for each 2 MiB of that kind (MADV_COLLAPSE, Linux 6.1; before that nothing happens). Where the
 * guest has discarded something since, nothing happens either. */
RAMJET_API int ramjet_collapse(ramjet_load *load);

/* Ends the load of a guest that will never run again, without loading the rest. Memory of blocks
 * that are not complete becomes inaccessible (PROT_NONE), for it would read as zeros; whoever
 * sleeps on a page of it wakes up to a SIGSEGV (convention 8: in KVM_RUN), and ramjet_wait()
 * returns. Takes no longer than a few reads of the file; meanwhile nothing of the memory may be
 * unmapped. Harmless when the load is complete or was never begun, so that every VM may end by
 *
 *     ramjet_abandon(load);
 *     ... join the vCPU threads and whoever waits ...
 *     munmap(ram.host, ram.length);
 *     ramjet_close(load);
 */
RAMJET_API int ramjet_abandon(ramjet_load *load);

/* Frees the handle; NULL is allowed. What is attached, unless it was abandoned, is loaded to the
 * end first (ramjet_finish()), and detached: the guest is never left with pages owed. After
 * ramjet_wait() has said -ENOTRECOVERABLE it is abandoned instead. */
RAMJET_API void ramjet_close(ramjet_load *load);

/* --- Saving --- */

/* One block of RAM, and one device, to save. */
struct ramjet_save_block {
  const char *idstr; /* unique, 1 to 255 bytes */
  const void *host;  /* does not change during the call */
  uint64_t length;   /* a multiple of 4 KiB */
};
struct ramjet_save_device {
  const char *name; /* 1 to 255 bytes */
  uint32_t instance_id;
  uint32_t version_id;
  const void *state;
  uint64_t length; /* of the state */
};

/* Writes a snapshot: `block_count` blocks, pages of zeros as holes, and `device_count` devices. It
 * appears under `path`, where it replaces a regular file, when it is complete and on disk; until
 * then it has no name or, where the file system has no such files, is called PATH.PID.tmp. The
 * guest must be stopped.
 * -EINVAL: also if something else than a regular file is there. -EIO: a page of a block cannot be
 * read, as it is poisoned; or the file cannot be written. -EPERM: also if a seccomp filter denies
 * every way to read memory that may be poisoned (convention 10). */
RAMJET_API int ramjet_save(const char *path, const struct ramjet_save_block *blocks,
                           uint64_t block_count, const struct ramjet_save_device *devices,
                           uint64_t device_count);

#ifdef __cplusplus
}
#endif

#endif /* RAMJET_LOADER_RAMJET_H_ */
