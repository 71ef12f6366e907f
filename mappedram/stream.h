// Reads the numbers and names of a migration stream.
#ifndef RAMJET_MAPPEDRAM_STREAM_H_
#define RAMJET_MAPPEDRAM_STREAM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/file.h"

namespace ramjet {

// True if all of `text` is printable ASCII.
bool IsPrintable(absl::string_view text);

// A position in a file, from which big-endian values are read. Nothing at or beyond the file's size
// (as it was when the file was opened) is ever asked for.
//
// Errors are sticky, so that code which parses reads a whole record before it asks: the first
// failure is kept, every later read gives zeros or an empty string and moves nothing. Two kinds
// differ: ended() means that the file is too short for what was to be read; anything else is an I/O
// error.
//
// Seeking costs nothing until the next read, and not even then within the buffer. One thread.
class StreamReader {
 public:
  // `file` outlives the reader.
  StreamReader(const File& file, uint64_t position);

  const File& file() const { return file_; }
  uint64_t position() const { return position_; }
  uint64_t remaining() const { return file_.size() - position_; }

  bool ok() const { return status_.ok(); }
  bool ended() const { return ended_; }
  // "FILE: ends at offset N: M bytes wanted at offset P", or why a read failed.
  const absl::Status& status() const { return status_; }

  uint8_t ReadU8() { return static_cast<uint8_t>(ReadBigEndian(1)); }
  uint16_t ReadBe16() { return static_cast<uint16_t>(ReadBigEndian(2)); }
  uint32_t ReadBe32() { return static_cast<uint32_t>(ReadBigEndian(4)); }
  uint64_t ReadBe64() { return ReadBigEndian(8); }
  // `length` bytes as they are. REQUIRES: the caller has bounded `length`.
  std::string ReadString(size_t length);
  // 1 to kMaxNameBytes printable ASCII characters, or else an error: names end up in messages, and
  // QEMU's are no others.
  std::string ReadName(size_t length);
  // The same behind a byte that holds its length.
  std::string ReadName8() { return ReadName(ReadU8()); }

  // Makes DataLoss("FILE: what") the reader's error unless there is one already, so a check of
  // values read need not ask whether they could be read. Returns false.
  template <typename... Parts>
  bool Fail(const Parts&... what) {
    return FailWith(DataLossError(file_, what...));
  }
  // The same, and ended() from then on.
  template <typename... Parts>
  bool FailEnded(const Parts&... what) {
    ended_ |= ok();
    return Fail(what...);
  }
  bool FailWith(absl::Status error) {
    status_.Update(std::move(error));
    return false;
  }

  // The next byte without moving, nullopt at the end of the file.
  std::optional<uint8_t> PeekU8();

  // Both fail, as a read does, if the target lies beyond the end of the file; right at the end is
  // fine.
  void Skip(uint64_t length) { Seek(length > remaining() ? file_.size() + 1 : position_ + length); }
  void Seek(uint64_t position);

  // Moves to the first occurrence of `pattern` which begins in [position(), limit) and lies within
  // the file, and returns true; or returns false, having moved nothing. REQUIRES: 0 <
  // pattern.size() <= 16.
  bool FindForward(absl::string_view pattern, uint64_t limit);
  // Moves to the last `byte` in [begin, position()) and returns true; or returns false, having
  // moved nothing. REQUIRES: begin <= position().
  bool FindBackward(uint8_t byte, uint64_t begin);

  // Bytes from position() on, as many as are at hand but none at or beyond `limit`; moves behind
  // them. None at `limit` or after an error. They are there until the next read.
  absl::string_view ReadPiece(uint64_t limit);

 private:
  // Makes `length` bytes at position_ available in the buffer and returns them; empty if that
  // fails.
  absl::Span<const uint8_t> Need(size_t length);
  uint64_t ReadBigEndian(size_t length);
  // What failing to read `length` bytes because the file is too short comes to.
  void FailToRead(uint64_t length);

  const File& file_;
  uint64_t position_;
  absl::Status status_;
  bool ended_ = false;

  // The file's bytes from buffer_offset_ on.
  std::vector<uint8_t> buffer_;
  uint64_t buffer_offset_ = 0;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_STREAM_H_
