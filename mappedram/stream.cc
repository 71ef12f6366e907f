#include "mappedram/stream.h"

#include <algorithm>
#include <cstring>

#include "mappedram/format.h"

namespace ramjet {
namespace {

// Device state of a usual guest is about this long, while a block record is a hundred bytes.
constexpr size_t kBufferBytes = 16 << 10;

}  // namespace

bool IsPrintable(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

StreamReader::StreamReader(const File& file, uint64_t position) : file_(file), position_(0) {
  Seek(position);
}

absl::Span<const uint8_t> StreamReader::Need(size_t length) {
  if (!ok()) return {};
  if (length > remaining()) {
    FailToRead(length);
    return {};
  }
  if (position_ < buffer_offset_ || position_ + length > buffer_offset_ + buffer_.size()) {
    buffer_.resize(std::min<uint64_t>(remaining(), std::max(length, kBufferBytes)));
    buffer_offset_ = position_;
    status_ = file_.ReadAt(position_, absl::MakeSpan(buffer_));
    if (!ok()) return {};
  }
  return absl::MakeConstSpan(buffer_).subspan(position_ - buffer_offset_, length);
}

uint64_t StreamReader::ReadBigEndian(size_t length) {
  uint64_t value = 0;
  for (const uint8_t byte : Need(length)) value = value << 8 | byte;
  if (ok()) position_ += length;
  return value;
}

std::string StreamReader::ReadString(size_t length) {
  const absl::Span<const uint8_t> bytes = Need(length);
  position_ += bytes.size();
  return std::string(bytes.begin(), bytes.end());
}

std::string StreamReader::ReadName(size_t length) {
  const uint64_t start = position_;
  std::string name = ReadString(std::min(length, kMaxNameBytes + 1));
  if (name.empty() || name.size() > kMaxNameBytes || !IsPrintable(name)) {
    Fail("name of ", length, " bytes at offset ", start, " is not 1 to ", kMaxNameBytes,
         " printable ASCII characters");
  }
  return name;
}

std::optional<uint8_t> StreamReader::PeekU8() {
  if (!ok() || remaining() == 0) return std::nullopt;
  const absl::Span<const uint8_t> byte = Need(1);
  if (byte.empty()) return std::nullopt;
  return byte[0];
}

void StreamReader::Seek(uint64_t position) {
  if (!ok()) return;
  if (position > file_.size()) {
    FailToRead(position - std::min(position, position_));
    return;
  }
  position_ = position;
}

bool StreamReader::FindForward(absl::string_view pattern, uint64_t limit) {
  const uint64_t start = position_;
  // Where the last occurrence may begin, plus one.
  limit = std::min(limit, file_.size() - std::min<uint64_t>(file_.size(), pattern.size() - 1));
  while (ok() && position_ < limit) {
    const absl::Span<const uint8_t> rest =
        Need(std::min<uint64_t>(remaining(), std::max(pattern.size(), kBufferBytes / 2)));
    const void* found = memmem(rest.data(), rest.size(), pattern.data(), pattern.size());
    if (found != nullptr) {
      position_ += static_cast<const uint8_t*>(found) - rest.data();
      if (position_ < limit) return true;
      break;
    }
    if (rest.size() < pattern.size()) break;
    position_ += rest.size() - (pattern.size() - 1);
  }
  position_ = start;
  return false;
}

bool StreamReader::FindBackward(uint8_t byte, uint64_t begin) {
  const uint64_t start = position_;
  while (ok() && position_ > begin) {
    const size_t length = std::min<uint64_t>(position_ - begin, kBufferBytes);
    position_ -= length;
    const absl::Span<const uint8_t> bytes = Need(length);
    const void* const found = memrchr(bytes.data(), byte, bytes.size());
    if (found == nullptr) continue;
    position_ += static_cast<const uint8_t*>(found) - bytes.data();
    return true;
  }
  position_ = start;
  return false;
}

absl::string_view StreamReader::ReadPiece(uint64_t limit) {
  if (position_ >= limit) return {};
  const uint64_t buffer_end = buffer_offset_ + buffer_.size();
  const bool buffered = position_ >= buffer_offset_ && position_ < buffer_end;
  const absl::Span<const uint8_t> bytes =
      Need(std::min(limit - position_, buffered ? buffer_end - position_ : kBufferBytes));
  position_ += bytes.size();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void StreamReader::FailToRead(uint64_t length) {
  FailEnded("ends at offset ", file_.size(), ": ", length, " bytes wanted at offset ", position_);
}

}  // namespace ramjet
