// The contestants that bring a snapshot into the memory of the benchmark's own VM.
//
//   full-read      ramjet_read_block() into huge pages; then the guest runs
//   map-private    the file's pages, mapped MAP_PRIVATE; the kernel brings what is touched
//   one-page       one_page_loader.h
//   ramjet         lazily, and everything else behind the guest's back
//   ramjet-ws      the same, beginning with a recorded working set
// and, for the figures of a single fault,
//   ramjet-demand  only what is touched
//   ramjet-pages   as ramjet, but a touch brings no more than its page
//   fault-loop     one_page_loader.h without loading ahead
#ifndef RAMJET_TOOLS_BENCH_VM_LOAD_H_
#define RAMJET_TOOLS_BENCH_VM_LOAD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace ramjet::bench {

struct VmSource {
  std::string path;
  size_t block = 0;  // its number
  std::string idstr;
  absl::Span<uint8_t> memory;    // the block's length, mapped, empty, aligned to a huge page
  std::string working_set = {};  // of ramjet-ws
  std::string record = {};       // not empty: write a working set there, and load nothing ahead
};

// Each opens the file for itself, in Begin(): to know what is in it takes its time.
//
// Owned by one thread.
class VmLoad {
 public:
  virtual ~VmLoad() = default;
  // Returns when the guest may run.
  virtual absl::Status Begin() = 0;
  // Returns true when all content is there, or false at once: it never comes by itself.
  virtual absl::StatusOr<bool> WaitResident() = 0;
  // When the guest's work is done.
  virtual absl::Status End() { return absl::OkStatus(); }
  // Pages that came because they were touched; nullopt: the kernel alone knows.
  virtual std::optional<uint64_t> FaultedPages() const { return std::nullopt; }
};

// `source` outlives it. InvalidArgument: there is no contestant of that name.
absl::StatusOr<std::unique_ptr<VmLoad>> MakeVmLoad(const std::string& contestant,
                                                   const VmSource& source);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_VM_LOAD_H_
