// loader/ramjet.h for code that lives in namespace ramjet, where its handle's name is taken.
#ifndef RAMJET_TOOLS_BENCH_C_FACE_H_
#define RAMJET_TOOLS_BENCH_C_FACE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace c_face {

struct LoadOptions {
  bool lazy = true;              // false: only ReadBlock()
  std::string working_set = {};  // loaded first; empty: none
  bool record = false;           // for SaveWorkingSet()
  bool single_pages = false;     // RAMJET_SINGLE_PAGES
};

// "0.1.0"
std::string Version();

// One snapshot being loaded. What is not complete when it is destroyed is abandoned.
class Load {
 public:
  static absl::StatusOr<std::unique_ptr<Load>> Open(const std::string& path,
                                                    const LoadOptions& options);
  virtual ~Load() = default;

  virtual absl::Status ReadBlock(const std::string& idstr, absl::Span<uint8_t> memory) = 0;
  virtual absl::Status Attach(const std::string& idstr, absl::Span<uint8_t> memory) = 0;
  virtual absl::Status StartEager() = 0;
  virtual absl::Status Wait() = 0;  // until everything is there
  // What was touched so far. REQUIRES: opened to record.
  virtual absl::Status SaveWorkingSet(const std::string& path) = 0;
  virtual uint64_t FaultedPages() const = 0;
};

}  // namespace c_face

#endif  // RAMJET_TOOLS_BENCH_C_FACE_H_
