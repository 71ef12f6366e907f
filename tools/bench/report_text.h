// What the tables and the pictures of the report share: careful reading, numbers in words,
// escaping.
#ifndef RAMJET_TOOLS_BENCH_REPORT_TEXT_H_
#define RAMJET_TOOLS_BENCH_REPORT_TEXT_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace ramjet::bench {

// The member `key` of an object; null if there is none, or if it is no object.
const nlohmann::json& Member(const nlohmann::json& object, const char* key);
// The string, or "" for anything else; the finite number, or nothing.
std::string TextOf(const nlohmann::json& value);
std::optional<double> NumberOf(const nlohmann::json& value);

// `text` as content or as an attribute in quotes.
std::string Escape(absl::string_view text);

// With a unit and three digits.
std::string FormatSeconds(double seconds);
std::string FormatBytes(double bytes);
std::string FormatCount(double count);
std::string FormatDigits(double value);

// The class that gives a contestant its colour and line, everywhere on the page.
std::string ClassOf(absl::string_view contestant);
// What it does, in a sentence; empty if it is not known here.
absl::string_view ExplanationOf(absl::string_view contestant);

}  // namespace ramjet::bench

#endif  // RAMJET_TOOLS_BENCH_REPORT_TEXT_H_
