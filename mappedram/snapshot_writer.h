// Writes snapshot files: the content of RAM at its fixed offsets, by several threads, between the
// parts of a stream.
#ifndef RAMJET_MAPPEDRAM_SNAPSHOT_WRITER_H_
#define RAMJET_MAPPEDRAM_SNAPSHOT_WRITER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mappedram/format.h"
#include "mappedram/ram_source.h"
#include "mappedram/stream_parts.h"

namespace ramjet {

// A block to be written.
struct NewBlock {
  std::string idstr = {};
  uint64_t used_length = 0;  // bytes, a multiple of page_size
  uint64_t page_size = 0;    // a power of two; the same in all blocks
  // Its content; outlives the writing. Null: the block is shared with whoever loads the file, and
  // not in it. REQUIRES then: StreamParts::block_addresses.
  const RamSource* source = nullptr;
  uint64_t address = 0;  // guest-physical; written with StreamParts::block_addresses
};

// Who looks for pages of zeros among what the sources do not know to be zero; such pages are not
// written, and stay holes.
enum class ZeroDetection {
  kNone,       // nobody: all of it is written (QEMU: none)
  kOneThread,  // one thread at a time, while the others write (QEMU: legacy)
  kAllThreads  // each where it writes (QEMU: multifd)
};

// One file to be written. For example:
//
//   const MemorySource ram(memory);
//   SnapshotWriter writer(*EncodeStream({.machine = "pc", .devices = ...}),
//                         {{.idstr = "pc.ram", .used_length = memory.size(), .page_size = 4096,
//                           .source = &ram}},
//                         {.threads = 4});
//   const absl::Status written = writer.Write("vm.mr");
//
// Whatever happens at whatever moment, there is never a file, under the name or another, that
// Snapshot::Open() takes and that lacks anything: first everything is brought to the disk but for
// one byte without which no reader takes it; then that byte; then the file gets its name (NewFile).
class SnapshotWriter {
 public:
  struct Options {
    unsigned threads = 0;  // that read, find zeros and write; 0: as many as suit the machine
    ZeroDetection zero_detection = ZeroDetection::kAllThreads;
    // Pages go past the page cache where the file system and the sources' addresses allow it.
    bool direct = false;
    // Off: the file is whole for every process that opens it, but may not outlive a crash of the
    // machine.
    bool sync = true;
    // Where checksums of what is written go (checksums.h), which then are there with the file or
    // not at all; empty: there are none. Needs `check`.
    std::string checksums_path = "";
    // Off, for tests of what reads: whatever is asked for is written, sense or nonsense.
    bool check = true;
    uint64_t stream_offset = 0;  // where the stream begins; a hole before it, but for
    std::string wrapper = {};    // what the file begins with: libvirt's header, for one
    // Of every pages_offset, a multiple of the page size: QEMU writes 1 MiB, and reads any.
    uint64_t pages_alignment = kPagesAlignment;
    std::function<absl::Status(int fd)> before_write = nullptr;  // NewFile::Options::before_write
  };
  // In bytes of RAM. `done` counts holes, too, and reaches `total` before the file is on the disk.
  struct Progress {
    uint64_t total = 0;
    uint64_t done = 0;
    uint64_t written = 0;  // those that are not zero
  };

  SnapshotWriter(StreamParts stream, std::vector<NewBlock> blocks, Options options);
  SnapshotWriter(const SnapshotWriter&) = delete;
  SnapshotWriter& operator=(const SnapshotWriter&) = delete;

  // Once. Returns when the file is there, or why it is not, and then there is nothing but what was
  // there before. Errors: InvalidArgument: the blocks cannot be written so that they could be read
  // again; Cancelled; the sources' and the system's. Messages name the file, or source, and block.
  absl::Status Write(const std::string& path);

  // Any thread, at any time.
  Progress progress() const;
  // Write() returns soon; what was begun is removed.
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  class Job;

  const StreamParts stream_;
  const std::vector<NewBlock> blocks_;
  const Options options_;
  // relaxed, all of them: they say nothing of other memory
  std::atomic<bool> cancelled_{false};
  std::atomic<uint64_t> done_bytes_{0};
  std::atomic<uint64_t> written_bytes_{0};
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_SNAPSHOT_WRITER_H_
