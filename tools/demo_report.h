// The demo's result, for people and for scripts.
#ifndef RAMJET_TOOLS_DEMO_REPORT_H_
#define RAMJET_TOOLS_DEMO_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tools/restore_timing.h"

namespace ramjet {

struct DemoResult {
  std::string qemu_version;  // empty: the embedded VM, not QEMU
  GuestOptions guest;
  int vcpus = 1;                // of the embedded VM
  std::string backend_reason;   // why the embedded VM does not use KVM; else empty
  uint64_t snapshot_bytes = 0;  // on disk, without holes
  int rounds = 0;
  std::vector<Restore> restores;
  bool equal_memory = false;
};

// Lines for a terminal: machine, conditions, medians, ratios.
std::string DemoTable(const DemoResult& result);

// Schema ramjet.demo/1: the same, with every single measurement.
nlohmann::json DemoJson(const DemoResult& result);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_DEMO_REPORT_H_
