// What the tests of mappedram/ share: small snapshots, their bytes, and files made of bytes.
#ifndef RAMJET_TESTS_MAPPEDRAM_TESTING_H_
#define RAMJET_TESTS_MAPPEDRAM_TESTING_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "mappedram/file.h"
#include "tests/snapshot_content.h"

namespace ramjet {

// A file in the test's own directory, removed at the end of the test.
class TempFile {
 public:
  // `bytes` are its content.
  explicit TempFile(absl::string_view bytes = "");
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile();

  const std::string& path() const { return path_; }
  std::string Read() const;
  void Write(absl::string_view bytes) const;
  File Open() const;

 private:
  std::string path_;
};

// Two blocks, "ram" of 100 pages and "rom" of 3; two devices; all in less than 120 KiB. Page size
// 1024.
SnapshotContent SmallContent();
// The file that WriteSnapshot makes of it.
std::string BytesOf(const SnapshotContent& content);

// Bytes of which no two stretches are alike; always the same.
std::string Noise(uint64_t length);

std::string BigEndian(uint64_t value, int bytes);
// Overwrites what stands at `offset`.
void Patch(std::string& bytes, uint64_t offset, absl::string_view replacement);

MATCHER_P2(StatusIs, code, message, "") {
  *result_listener << arg;
  return arg.code() == code &&
         ::testing::ExplainMatchResult(::testing::HasSubstr(message), std::string(arg.message()),
                                       result_listener);
}

}  // namespace ramjet

#endif  // RAMJET_TESTS_MAPPEDRAM_TESTING_H_
