#include "tests/firecracker_files.h"

#include "absl/strings/str_cat.h"

namespace ramjet {
namespace {

std::string LittleEndian(uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

uint64_t Reversed(uint64_t value, int bits) {
  uint64_t reversed = 0;
  for (int i = 0; i < bits; ++i) reversed |= (value >> i & 1) << (bits - 1 - i);
  return reversed;
}

}  // namespace

std::string MakeFirecrackerState(FirecrackerForm form, uint64_t mebibytes,
                                 const std::string& version) {
  constexpr uint64_t kMagic = 0x0710198486640000;
  const std::string state = "what only Firecracker understands";
  switch (form) {
    case FirecrackerForm::k0_23:
      return WithFirecrackerSum(absl::StrCat(LittleEndian(kMagic + 1, 8), LittleEndian(5, 2),
                                             LittleEndian(mebibytes, 8), state));
    case FirecrackerForm::k1_7:
      return WithFirecrackerSum(absl::StrCat(LittleEndian(kMagic, 8),
                                             LittleEndian(version.size(), 8), version,
                                             LittleEndian(mebibytes, 8), state));
    case FirecrackerForm::k1_15: {
      const int width = mebibytes < 256 ? 1 : mebibytes < 65536 ? 2 : 4;
      return WithFirecrackerSum(absl::StrCat(LittleEndian(0, 1), LittleEndian(kMagic, 8),
                                             LittleEndian(version.size(), 1), version,
                                             LittleEndian(width == 1   ? 6
                                                          : width == 2 ? 4
                                                                       : 2,
                                                          1),
                                             LittleEndian(mebibytes, width), state));
    }
  }
  return "";
}

// Bit by bit and from the other end than ParseFirecrackerState() does it.
std::string WithFirecrackerSum(const std::string& bytes) {
  uint64_t crc = 0;
  for (const char c : bytes) {
    crc ^= Reversed(static_cast<uint8_t>(c), 8) << 56;
    for (int bit = 0; bit < 8; ++bit) crc = crc << 1 ^ ((crc >> 63) != 0 ? 0xad93d23594c935a9 : 0);
  }
  return bytes + LittleEndian(Reversed(crc, 64), 8);
}

}  // namespace ramjet
