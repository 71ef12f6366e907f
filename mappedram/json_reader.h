// Pulls values out of a JSON text, front to back, without building it up in memory.
#ifndef RAMJET_MAPPEDRAM_JSON_READER_H_
#define RAMJET_MAPPEDRAM_JSON_READER_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ramjet {

// A strict reader of one JSON text (RFC 8259), for a caller that knows what it is looking for:
//
//   json.EnterObject();
//   for (std::string key; json.NextMember(&key);) {
//     if (key == "size") size = json.ReadUnsigned(); else json.SkipValue();
//   }
//   json.Finish();
//
// It exists because the description of devices (100 KB of JSON on a usual guest) is read while a VM
// waits to resume: nlohmann's SAX parser takes 620 us for it, this takes 200 us (one core of a
// cloud VM, 2026). It need not be in memory as a whole either, whose first touch costs, too.
//
// Errors are sticky: after the first nothing moves, reads give zeros, and NextMember and
// NextElement return false. Nothing recurses; nesting deeper than kMaxDepth is an error. One
// thread.
class JsonReader {
 public:
  static constexpr size_t kMaxDepth = 256;

  // `text` outlives the reader.
  explicit JsonReader(absl::string_view text) : piece_(text) {}
  // The text is what `next` gives, piece by piece, until one is empty. Each piece is needed until
  // the next call only.
  explicit JsonReader(std::function<absl::string_view()> next) : next_(std::move(next)) {}

  void EnterObject() { Enter('{', true); }
  void EnterArray() { Enter('[', false); }
  // Moves to the next member's value, or element, of the object or array entered last; false,
  // having left it, if there is none. REQUIRES: the previous value was read, skipped, or entered
  // and left.
  bool NextMember(std::string* key);
  bool NextElement() { return Next(); }

  uint64_t ReadUnsigned();
  // Characters beyond ASCII are fine as such, but not as \u escapes.
  std::string ReadString();
  void SkipValue();
  // Nothing but white space may follow.
  void Finish();

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  // Makes the text as a whole be in error, with its own words and the position.
  void Fail(absl::string_view what);

 private:
  void Enter(char bracket, bool is_object);
  bool Next();
  void SkipSpace() {
    for (char c = Peek(); c == ' ' || c == '\n' || c == '\t' || c == '\r'; c = Peek()) ++position_;
  }
  // False at the end or after an error.
  bool More() { return position_ < piece_.size() || NextPiece(); }
  bool NextPiece();
  // The next character; 0 if there is none.
  char Peek() { return More() ? piece_[position_] : '\0'; }
  // REQUIRES: wanted != 0.
  bool Consume(char wanted) {
    if (Peek() != wanted) return false;
    ++position_;
    return true;
  }
  void Expect(char wanted);
  // nullopt: a number that is not unsigned, or has more than 64 bits; or none, which is an error.
  std::optional<uint64_t> ConsumeNumber();
  std::optional<uint64_t> ConsumeDigits();
  void SkipScalar();
  // Consumes a string; `out` may be null.
  void ConsumeString(std::string* out);
  void ConsumeEscape(std::string* out);

  std::function<absl::string_view()> next_;  // nullptr: the piece is the last
  absl::string_view piece_;                  // empty after an error
  size_t position_ = 0;                      // in the piece
  uint64_t before_ = 0;                      // bytes of the pieces before
  size_t depth_ = 0;
  std::bitset<kMaxDepth> is_object_;  // of the containers entered, outermost first
  bool first_ = false;                // nothing was read of the container entered last
  absl::Status status_;
};

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_JSON_READER_H_
