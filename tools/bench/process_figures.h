// What the kernel knows of a process: its memory, its processor time, its reads.
#ifndef RAMJET_TOOLS_BENCH_PROCESS_FIGURES_H_
#define RAMJET_TOOLS_BENCH_PROCESS_FIGURES_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace ramjet::bench {

// Addresses [start, start + length) of a process.
struct AddressRange {
  uintptr_t start = 0;
  uint64_t length = 0;
};

struct RangeFigures {
  uint64_t resident_bytes = 0;
  uint64_t huge_bytes = 0;  // of them in transparent huge pages
};

// Figures that cannot be read are 0.
RangeFigures FiguresOf(pid_t pid, AddressRange range);
// Of the process as a whole. The kernel keeps it within a few pages.
uint64_t ResidentBytes(pid_t pid);
// The most it has been since ResetPeak().
uint64_t PeakResidentBytes(pid_t pid);
void ResetPeak(pid_t pid);
// From block devices, since the process began.
uint64_t ReadBytes(pid_t pid);
// Processor time, of all its threads, ended ones too, but those in `without`.
double CpuSeconds(pid_t pid, const std::vector<pid_t>& without);

// Where a VMM has guest RAM of at least `length` bytes: the smallest of its mappings, neighbours
// taken together, that is writable, not executable and large enough.
std::optional<AddressRange> FindGuestRam(pid_t pid, uint64_t length);

// Differences from the moment of construction, which also resets the peak.
class ProcessBaseline {
 public:
  // Processor time is without that of `vcpu_threads`.
  ProcessBaseline(pid_t pid, AddressRange ram, std::vector<pid_t> vcpu_threads);

  double CpuSeconds() const;
  uint64_t ReadBytes() const { return bench::ReadBytes(pid_) - read_bytes_; }
  // The most memory at any moment beyond what was there at first and what of `ram` is there now.
  uint64_t PeakBytesBeyondRam() const;

 private:
  const pid_t pid_;
  const AddressRange ram_;
  const std::vector<pid_t> vcpu_threads_;
  double cpu_seconds_;
  uint64_t read_bytes_;
  uint64_t bytes_beyond_ram_;
};

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_PROCESS_FIGURES_H_
