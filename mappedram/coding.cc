#include "mappedram/coding.h"

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "mappedram/crc32c.h"
#include "mappedram/file.h"

namespace ramjet {

void AppendVarint(std::string& to, uint64_t number) {
  for (; number >= 0x80; number >>= 7) to.push_back(static_cast<char>(number | 0x80));
  to.push_back(static_cast<char>(number));
}

void AppendCrc(std::string& to) { AppendNumber(to, Crc32c(to)); }

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("damaged: ", what));
}

absl::string_view CodedReader::Take(uint64_t count) {
  if (count > left_.size()) {
    ok_ = false;
    left_ = {};
    return {};
  }
  const absl::string_view taken = left_.substr(0, count);
  left_.remove_prefix(count);
  return taken;
}

uint64_t CodedReader::TakeVarint() {
  uint64_t number = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const absl::string_view byte = Take(1);
    if (byte.empty()) return 0;
    const uint64_t bits = static_cast<uint8_t>(byte[0]) & 0x7f;
    if (bits << shift >> shift != bits) break;
    number |= bits << shift;
    if (static_cast<uint8_t>(byte[0]) < 0x80) return number;
  }
  ok_ = false;
  return 0;
}

absl::StatusOr<CodedReader> OpenCoded(absl::string_view bytes, absl::string_view magic,
                                      uint32_t version, absl::string_view what) {
  CodedReader reader(bytes);
  if (reader.Take(magic.size()) != magic) {
    return absl::InvalidArgumentError(absl::StrCat("it is not ", what));
  }
  const auto found = reader.TakeNumber<uint32_t>();
  constexpr size_t kCrcBytes = sizeof(uint32_t);
  if (reader.ok() && found != version) {
    return absl::InvalidArgumentError(
        absl::StrCat("its version is ", found, ", and only ", version, " is known"));
  }
  if (!reader.ok() || reader.left() < kCrcBytes) return Damaged("it ends in its header");
  const absl::string_view summed = bytes.substr(0, bytes.size() - kCrcBytes);
  const absl::string_view content = reader.Take(reader.left() - kCrcBytes);
  if (reader.TakeNumber<uint32_t>() != Crc32c(summed)) return Damaged("its checksum is wrong");
  return CodedReader(content);
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t max_bytes,
                                          absl::string_view what) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->size() > max_bytes) {
    return InvalidArgumentError(*file, "of ", file->size(), " bytes, it is not ", what);
  }
  std::string bytes(file->size(), '\0');
  absl::Status read =
      file->ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()));
  if (!read.ok()) return read;
  return bytes;
}

}  // namespace ramjet
