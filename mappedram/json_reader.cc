#include "mappedram/json_reader.h"

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

void JsonReader::Fail(absl::string_view what) {
  if (!ok()) return;
  status_ = absl::DataLossError(absl::StrCat(what, " at byte ", before_ + position_));
  next_ = nullptr;
  piece_ = {};
  position_ = 0;
}

bool JsonReader::NextPiece() {
  if (next_ == nullptr) return false;
  before_ += position_;
  position_ = 0;
  piece_ = next_();
  if (piece_.empty()) next_ = nullptr;
  return !piece_.empty();
}

void JsonReader::Expect(char wanted) {
  if (!Consume(wanted)) Fail(absl::StrCat("no '", absl::string_view(&wanted, 1), "'"));
}

void JsonReader::Enter(char bracket, bool is_object) {
  SkipSpace();
  if (depth_ == kMaxDepth) return Fail("nested too deeply");
  Expect(bracket);
  is_object_[depth_++] = is_object;
  first_ = true;
}

bool JsonReader::Next() {
  if (!ok() || depth_ == 0) return false;
  SkipSpace();
  const bool is_object = is_object_[depth_ - 1];
  if (Consume(is_object ? '}' : ']')) {
    --depth_;
    first_ = false;
    return false;
  }
  if (!first_) Expect(',');
  first_ = false;
  return ok();
}

bool JsonReader::NextMember(std::string* key) {
  if (!Next()) return false;
  SkipSpace();
  ConsumeString(key);
  SkipSpace();
  Expect(':');
  return ok();
}

uint64_t JsonReader::ReadUnsigned() {
  SkipSpace();
  const std::optional<uint64_t> value = ConsumeNumber();
  if (!value) Fail("not an unsigned 64-bit number");
  return ok() ? *value : 0;
}

std::string JsonReader::ReadString() {
  SkipSpace();
  std::string value;
  ConsumeString(&value);
  return ok() ? value : "";
}

void JsonReader::SkipValue() {
  const size_t base = depth_;
  do {
    SkipSpace();
    if (Peek() == '{') {
      EnterObject();
    } else if (Peek() == '[') {
      EnterArray();
    } else {
      SkipScalar();
    }
    // On to the next value, out of as many containers as end here.
    while (ok() && depth_ > base && !(is_object_[depth_ - 1] ? NextMember(nullptr) : Next())) {
    }
  } while (ok() && depth_ > base);
}

void JsonReader::Finish() {
  SkipSpace();
  if (More()) Fail("more than one value");
}

std::optional<uint64_t> JsonReader::ConsumeDigits() {
  if (!IsDigit(Peek())) Fail("no digit");
  std::optional<uint64_t> value = 0;
  for (; IsDigit(Peek()); ++position_) {
    const auto digit = static_cast<uint64_t>(Peek() - '0');
    if (value && (__builtin_mul_overflow(*value, uint64_t{10}, &*value) ||
                  __builtin_add_overflow(*value, digit, &*value))) {
      value.reset();
    }
  }
  return value;
}

std::optional<uint64_t> JsonReader::ConsumeNumber() {
  const bool negative = Consume('-');
  std::optional<uint64_t> value = 0;
  if (!Consume('0')) value = ConsumeDigits();
  if (negative) value.reset();
  if (Consume('.')) {
    ConsumeDigits();
    value.reset();
  }
  if (Consume('e') || Consume('E')) {
    if (!Consume('+')) Consume('-');
    ConsumeDigits();
    value.reset();
  }
  return value;
}

void JsonReader::SkipScalar() {
  if (Peek() == '"') return ConsumeString(nullptr);
  if (Peek() == '-' || IsDigit(Peek())) return static_cast<void>(ConsumeNumber());
  for (const absl::string_view literal : {"true", "false", "null"}) {
    if (Peek() != literal[0]) continue;
    for (const char c : literal) {
      if (!Consume(c)) Fail("no value");
    }
    return;
  }
  Fail("no value");
}

void JsonReader::ConsumeString(std::string* out) {
  Expect('"');
  if (out != nullptr) out->clear();
  while (More()) {
    const absl::string_view rest = piece_.substr(position_);
    size_t plain = 0;
    while (plain < rest.size() && rest[plain] != '"' && rest[plain] != '\\' &&
           static_cast<unsigned char>(rest[plain]) >= ' ') {
      ++plain;
    }
    if (out != nullptr) out->append(rest.data(), plain);
    position_ += plain;
    if (plain == rest.size()) continue;
    if (Consume('"')) return;
    if (!Consume('\\')) break;
    ConsumeEscape(out);
  }
  Fail("unfinished string");
}

void JsonReader::ConsumeEscape(std::string* out) {
  constexpr absl::string_view kEscapes = "\"\\/bfnrt";
  constexpr absl::string_view kMeanings = "\"\\/\b\f\n\r\t";
  unsigned code = 0;
  if (Consume('u')) {
    for (int i = 0; i < 4; ++i) {
      const int digit = HexDigit(Peek());
      if (digit < 0) return Fail("bad escape");
      code = code * 16 + digit;
      ++position_;
    }
  } else {
    const size_t index = Peek() == '\0' ? absl::string_view::npos : kEscapes.find(Peek());
    if (index == absl::string_view::npos) return Fail("bad escape");
    code = static_cast<unsigned char>(kMeanings[index]);
    ++position_;
  }
  if (out == nullptr) return;
  if (code > 0x7f) return Fail("escape beyond ASCII");
  out->push_back(static_cast<char>(code));
}

}  // namespace ramjet
