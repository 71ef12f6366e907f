#include "mappedram/vmstate/wire.h"

#include <algorithm>

#include "absl/strings/escaping.h"

namespace ramjet::vmstate {
namespace {

constexpr uint8_t kSubsection = 5;  // in front of its name

}  // namespace

void Wire::FailWith(absl::StatusCode code, absl::string_view at, absl::string_view what) {
  std::string path;
  for (const Step::Place& place : trail_) {
    if (const size_t* index = std::get_if<size_t>(&place)) {
      absl::StrAppend(&path, "[", *index, "]");
    } else {
      absl::StrAppend(&path, path.empty() ? " " : ".",
                      absl::CHexEscape(std::get<absl::string_view>(place)));
    }
  }
  status_ = absl::Status(code, absl::StrCat("device \"", device_, "\":", path, at,
                                            path.empty() && at.empty() ? " " : ": ", what));
}

uint64_t Reader::ReadBigEndian(size_t length) {
  uint64_t value = 0;
  for (const uint8_t byte : ReadBytes(length)) value = value << 8 | byte;
  return value;
}

absl::Span<const uint8_t> Reader::ReadBytes(size_t length) {
  if (!ok()) return {};
  read_at_ = offset_;
  if (length > rest_.size()) {
    Fail(length, " bytes wanted, ", rest_.size(), " left");
    return {};
  }
  const absl::Span<const uint8_t> bytes = rest_.first(length);
  rest_.remove_prefix(length);
  offset_ += length;
  return bytes;
}

std::optional<absl::string_view> Reader::PeekSubsection() const {
  if (!ok() || rest_.size() < 2 || rest_[0] != kSubsection) return std::nullopt;
  const size_t length = rest_[1];
  if (length > rest_.size() - 2) return std::nullopt;
  return absl::string_view(reinterpret_cast<const char*>(rest_.data() + 2), length);
}

uint32_t Reader::EnterSubsection() {
  ReadBigEndian(1);
  ReadBytes(ReadBigEndian(1));
  return static_cast<uint32_t>(ReadBigEndian(4));
}

bool Reader::Expect(uint64_t count, size_t each) {
  if (ok() && count > rest_.size() / std::max<size_t>(each, 1)) {
    Fail(count, " elements cannot be in the ", rest_.size(), " bytes left");
  }
  return ok();
}

void Writer::WriteBigEndian(uint64_t value, size_t length) {
  if (!ok()) return;
  for (size_t i = length; i-- > 0;) bytes_.push_back(static_cast<char>(value >> (8 * i)));
}

void Writer::WriteBytes(absl::Span<const uint8_t> bytes) {
  if (ok()) bytes_.append(bytes.begin(), bytes.end());
}

void Writer::WriteSubsection(absl::string_view name, uint32_t version) {
  WriteBigEndian(kSubsection, 1);
  WriteBigEndian(name.size(), 1);
  if (ok()) absl::StrAppend(&bytes_, name);
  WriteBigEndian(version, 4);
}

}  // namespace ramjet::vmstate
