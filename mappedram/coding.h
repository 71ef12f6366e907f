// How the small files of our own are coded: numbers little-endian, varints LEB128 (seven bits a
// byte, the lowest first, the top bit set in all but the last), and CRC-32C at the end.
#ifndef RAMJET_MAPPEDRAM_CODING_H_
#define RAMJET_MAPPEDRAM_CODING_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ramjet {

template <typename Number>
void AppendNumber(std::string& to, Number number) {
  for (size_t i = 0; i < sizeof(number); ++i) {
    to.push_back(static_cast<char>(number >> (8 * i) & 0xff));
  }
}

void AppendVarint(std::string& to, uint64_t number);

// Appends the sum of all that is there.
void AppendCrc(std::string& to);

// DataLoss: "damaged: what".
absl::Status Damaged(absl::string_view what);

// Takes bytes from the front. Behind the end, and after a number that is too large, everything is 0
// and ok() is false.
class CodedReader {
 public:
  explicit CodedReader(absl::string_view bytes) : left_(bytes) {}

  bool ok() const { return ok_; }
  bool at_end() const { return left_.empty(); }
  size_t left() const { return left_.size(); }

  absl::string_view Take(uint64_t count);
  template <typename Number>
  Number TakeNumber() {
    Number number = 0;
    const absl::string_view bytes = Take(sizeof(number));
    for (size_t i = 0; i < bytes.size(); ++i) {
      number |= static_cast<Number>(static_cast<uint8_t>(bytes[i])) << (8 * i);
    }
    return number;
  }
  uint64_t TakeVarint();

 private:
  absl::string_view left_;
  bool ok_ = true;
};

// What stands in `bytes` between magic and version, which are checked first, and the sum, which is
// right. InvalidArgument: it is not `what` ("a working set"), or one of another version; DataLoss:
// a damaged one.
absl::StatusOr<CodedReader> OpenCoded(absl::string_view bytes, absl::string_view magic,
                                      uint32_t version, absl::string_view what);

// All of the file `path`. InvalidArgument if it has more than `max_bytes`, so is not `what`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t max_bytes,
                                          absl::string_view what);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_CODING_H_
