#include "tests/corpus_file.h"

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

uint64_t Be64At(const std::string& bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

}  // namespace

absl::Status WriteFromExtents(const std::string& extents_path, const std::string& path) {
  std::ifstream in(extents_path, std::ios::binary);
  const std::string extents{std::istreambuf_iterator<char>(in), {}};
  if (extents.empty()) return absl::NotFoundError(absl::StrCat(extents_path, ": nothing there"));
  std::ofstream out(path, std::ios::binary);
  for (size_t at = 8; at + 16 <= extents.size();) {
    const uint64_t length = Be64At(extents, at + 8);
    out.seekp(static_cast<std::streamoff>(Be64At(extents, at)));
    out << extents.substr(at + 16, length);
    at += 16 + length;
  }
  if (!out.flush()) return absl::UnavailableError(absl::StrCat(path, ": cannot be written"));
  return absl::OkStatus();
}

}  // namespace ramjet
