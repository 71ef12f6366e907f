#include "mappedram/firecracker_state.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace ramjet {
namespace {

constexpr uint64_t kMagicX86 = 0x0710198486640000;
constexpr uint64_t kMagicArm = 0x07101984aaaa0000;
constexpr uint64_t kNumberedForm = 1;  // is added to the magic number
// Major versions of the format: the first whose guests can have virtio-mem, and the last that was
// looked at.
constexpr uint64_t kFirstWithHotplug = 8;
constexpr uint64_t kNewestKnown = 11;
constexpr size_t kMaxVersionLength = 64;
constexpr size_t kSumBytes = 8;

constexpr std::array<uint64_t, 256> MakeCrcTable() {
  constexpr uint64_t kReflectedPolynomial = 0x95ac9329ac4bc9b5;
  std::array<uint64_t, 256> table = {};
  for (uint64_t byte = 0; byte < 256; ++byte) {
    uint64_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReflectedPolynomial : 0);
    }
    table[byte] = crc;
  }
  return table;
}

uint64_t Crc64(absl::string_view bytes) {
  static constexpr std::array<uint64_t, 256> kTable = MakeCrcTable();
  uint64_t crc = 0;
  for (const char c : bytes) crc = kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff] ^ (crc >> 8);
  return crc;
}

// Takes values off the front of a text. Errors are sticky.
class Reader {
 public:
  explicit Reader(absl::string_view text) : text_(text) {}

  absl::string_view Take(uint64_t length) {
    ok_ = ok_ && length <= text_.size();
    if (!ok_) return {};
    const absl::string_view taken = text_.substr(0, length);
    text_.remove_prefix(length);
    return taken;
  }
  uint64_t Number(size_t width) {
    uint64_t value = 0;
    size_t shift = 0;
    for (const char c : Take(width)) {
      value |= uint64_t{static_cast<uint8_t>(c)} << shift;
      shift += 8;
    }
    return value;
  }
  bool ok() const { return ok_; }

 private:
  absl::string_view text_;
  bool ok_ = true;
};

// The major number of "11.0.0", or of "1.2.3-anything".
std::optional<uint64_t> MajorOf(absl::string_view version) {
  const auto is_printable = [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c));
  };
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(version, absl::MaxSplits('.', 1));
  uint64_t major = 0;
  if (version.size() > kMaxVersionLength ||
      !std::all_of(version.begin(), version.end(), is_printable) ||
      !absl::StrContains(parts.second, '.') || !absl::SimpleAtoi(parts.first, &major)) {
    return std::nullopt;
  }
  return major;
}

std::optional<uint64_t> MebibytesAsBytes(uint64_t mebibytes) {
  if (mebibytes == 0 || mebibytes >= uint64_t{1} << 44) return std::nullopt;
  return mebibytes << 20;
}

// What all forms but the first have behind the magic number.
std::optional<FirecrackerState> ReadVersioned(Reader in, bool packed) {
  FirecrackerState state;
  state.version = std::string(in.Take(in.Number(packed ? 1 : 8)));
  const std::optional<uint64_t> major = MajorOf(state.version);
  if (!in.ok() || !major) return std::nullopt;
  state.can_hotplug = *major >= kFirstWithHotplug;
  if (*major > kNewestKnown) return state;
  size_t width = 8;
  if (packed) {
    const uint64_t packing = in.Number(1);
    if (packing > 6 || packing % 2 != 0) return state;
    width >>= packing / 2;
  }
  const uint64_t mebibytes = in.Number(width);
  if (in.ok()) state.boot_bytes = MebibytesAsBytes(mebibytes);
  return state;
}

// Empty: it is no magic number.
std::string ArchitectureOf(uint64_t magic) {
  return magic == kMagicX86 ? "x86-64" : magic == kMagicArm ? "aarch64" : "";
}

std::optional<FirecrackerState> ReadNumbered(Reader in) {
  FirecrackerState state;
  state.version = absl::StrCat("data ", in.Number(2));
  state.boot_bytes = MebibytesAsBytes(in.Number(8));
  return in.ok() ? std::optional(std::move(state)) : std::nullopt;
}

std::optional<FirecrackerState> ReadHeader(absl::string_view bytes) {
  Reader in(bytes);
  uint64_t magic = in.Number(8);
  const bool numbered = !ArchitectureOf(magic - kNumberedForm).empty();
  if (numbered) magic -= kNumberedForm;
  const bool packed = ArchitectureOf(magic).empty() && !bytes.empty() && bytes.front() == '\0';
  if (packed) {
    in = Reader(bytes.substr(1));
    magic = in.Number(8);
  }
  const std::string architecture = ArchitectureOf(magic);
  if (!in.ok() || architecture.empty()) return std::nullopt;
  std::optional<FirecrackerState> state = numbered ? ReadNumbered(in) : ReadVersioned(in, packed);
  if (state) state->architecture = architecture;
  return state;
}

}  // namespace

absl::StatusOr<FirecrackerState> ParseFirecrackerState(absl::string_view bytes) {
  const absl::string_view summed =
      bytes.substr(0, bytes.size() - std::min(bytes.size(), kSumBytes));
  std::optional<FirecrackerState> state = ReadHeader(summed);
  if (!state) {
    return absl::InvalidArgumentError(
        "is no state file of Firecracker: it does not begin as those of 0.23 and later do");
  }
  const uint64_t stored = Reader(bytes.substr(summed.size())).Number(kSumBytes);
  if (const uint64_t sum = Crc64(summed); sum != stored) {
    return absl::DataLossError(
        absl::StrFormat("is a state file of Firecracker, but damaged or incomplete: the CRC-64 of "
                        "its bytes is %016x, and %016x stands at its end",
                        sum, stored));
  }
  return *std::move(state);
}

}  // namespace ramjet
