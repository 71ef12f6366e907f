#include "tools/bench/report_text.h"

#include <array>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ramjet::bench {
namespace {

using nlohmann::json;

struct Contestant {
  absl::string_view name;
  absl::string_view explanation;
};

// The place in it is the number of its class.
constexpr std::array<Contestant, 8> kContestants = {{
    {"stock", "QEMU’s own load: reads all memory from the file, then the guest runs."},
    {"stock-multifd", "The same with several reading threads (multifd)."},
    {"full-read", "The demo VM reads the whole file, then the guest runs."},
    {"map-private",
     "The file is mapped as guest memory (MAP_PRIVATE), as Firecracker and Cloud Hypervisor do: "
     "the "
     "guest runs at once, the kernel brings what it touches, and nothing comes ahead of need."},
    {"one-page",
     "A plain userfaultfd handler: the guest runs at once, one thread brings one page at a time."},
    {"ramjet",
     "The guest runs at once; pages it touches are brought first, all others follow meanwhile."},
    {"ramjet-ws",
     "The same with a working set: a list, recorded in an earlier run, of the pages that this "
     "guest "
     "needs first."},
    {"floor",
     "QEMU’s own load of the same file with no page in it: what a resume costs without memory."},
}};

}  // namespace

const json& Member(const json& object, const char* key) {
  static const auto* const none = new json;
  if (!object.is_object()) return *none;
  const auto found = object.find(key);
  return found == object.end() ? *none : *found;
}

std::string TextOf(const json& value) {
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::optional<double> NumberOf(const json& value) {
  if (!value.is_number()) return std::nullopt;
  const double number = value.get<double>();
  if (!std::isfinite(number)) return std::nullopt;
  return number;
}

std::string Escape(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        // XML has no control characters.
        escaped += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  }
  return escaped;
}

std::string FormatDigits(double value) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size < 0.0995 || size >= 1e7) return absl::StrFormat("%.2g", value);
  return absl::StrFormat("%.*f", size < 9.995 ? 2 : size < 99.95 ? 1 : 0, value);
}

std::string FormatSeconds(double seconds) {
  const double size = std::abs(seconds);
  if (size == 0) return "0";
  if (size < 999.5e-6) return FormatDigits(seconds * 1e6) + " µs";
  if (size < 999.5e-3) return FormatDigits(seconds * 1e3) + " ms";
  return FormatDigits(seconds) + " s";
}

std::string FormatBytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (std::abs(bytes) >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  const bool whole = bytes == std::floor(bytes);
  return absl::StrCat(whole ? absl::StrFormat("%.0f", bytes) : FormatDigits(bytes), " ",
                      kUnits[unit]);
}

std::string FormatCount(double count) {
  std::string digits = absl::StrFormat("%.0f", count);
  for (size_t at = digits.size(); at > 3 && count >= 0;) digits.insert(at -= 3, 1, ',');
  return digits;
}

std::string ClassOf(absl::string_view contestant) {
  size_t i = 0;
  while (i < kContestants.size() && kContestants[i].name != contestant) ++i;
  return absl::StrCat("k", i);
}

absl::string_view ExplanationOf(absl::string_view contestant) {
  for (const Contestant& known : kContestants) {
    if (known.name == contestant) return known.explanation;
  }
  return "";
}

}  // namespace ramjet::bench
