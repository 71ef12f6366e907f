// One load into the benchmark's own VM: a process that is nothing else, and what starts it.
//
// The VM has memory and vCPUs, which are threads (workload.h) or KVM's (kvm_toucher.h). From the
// moment when its memory is reserved and nothing else has been done run
//   to_resume      until its vCPUs may run;
//   to_first_work  until the first of them has made its first 100 touches;
//   to_workload    until all of them have done their work;
//   to_resident    until all content is there.
// Of a snapshot with several RAM blocks the largest takes part.
#ifndef RAMJET_TOOLS_BENCH_VM_BENCH_H_
#define RAMJET_TOOLS_BENCH_VM_BENCH_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/bench/measurement.h"

namespace ramjet::bench {

struct VmBenchOptions {
  std::string snapshot;
  Case of;  // its `where` is "vm"
  int vcpus = 1;
  std::string vcpu = "thread";   // or "kvm"
  std::string working_set = {};  // of ramjet-ws; empty: none
  std::string record = {};       // of ramjet-ws: write a working set there, measure nothing
  bool picture = false;          // watch memory meanwhile; its times then mean little
};

// In a fresh process of `ramjet`, the path of the command.
absl::StatusOr<WatchedRun> RunVm(const std::string& ramjet, const VmBenchOptions& options);

// That process, `ramjet bench-vm`: one line of JSON on stdout. Returns the exit status.
int RunVmProcess(const VmBenchOptions& options);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_VM_BENCH_H_
