#include "tools/device_report.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace ramjet {
namespace {

using Json = nlohmann::ordered_json;

template <typename... Visits>
struct Overloaded : Visits... {
  using Visits::operator()...;
};
template <typename... Visits>
Overloaded(Visits...) -> Overloaded<Visits...>;

Json ValueAsJson(const DeviceField& field) {
  return std::visit(
      Overloaded{
          [](const RawBytes& raw) { return Json(absl::BytesToHexString(raw.bytes)); },
          [&](const OpaqueBytes& opaque) {
            return Json{{"opaque", field.type}, {"bytes", absl::BytesToHexString(opaque.bytes)}};
          },
          [](const NullPointer&) { return Json(nullptr); },
          [](const FieldArray& array) {
            Json elements = Json::array();
            for (const DeviceField& element : array.elements) {
              elements.push_back(ValueAsJson(element));
            }
            return elements;
          },
          [](const FieldStruct& fields) { return FieldsAsJson(fields); },
          [](const auto& value) { return Json(value); },
      },
      field.value);
}

// "00 01 02", all zeros or the rest of long ones in words.
std::string BytesAsText(absl::string_view bytes) {
  constexpr size_t kShown = 32;
  if (bytes.size() > 4 && bytes.find_first_not_of('\0') == absl::string_view::npos) {
    return absl::StrCat(bytes.size(), " zero bytes");
  }
  std::string text;
  for (const char byte : bytes.substr(0, kShown)) {
    absl::StrAppendFormat(&text, "%s%02x", text.empty() ? "" : " ", static_cast<uint8_t>(byte));
  }
  if (bytes.size() > kShown) absl::StrAppend(&text, " ... (", bytes.size(), " bytes)");
  return text;
}

// Of what is neither an array nor a struct.
std::string ScalarAsText(const DeviceField& field) {
  return std::visit(Overloaded{
                        [](const RawBytes& raw) { return BytesAsText(raw.bytes); },
                        [&](const OpaqueBytes& opaque) {
                          return absl::StrCat("opaque \"", absl::CHexEscape(field.type),
                                              "\": ", BytesAsText(opaque.bytes));
                        },
                        [](const NullPointer&) { return std::string("null"); },
                        [](bool value) { return std::string(value ? "true" : "false"); },
                        [](int64_t value) { return absl::StrCat(value); },
                        [](uint64_t value) {
                          return value < 10 ? absl::StrCat(value) : absl::StrFormat("%#x", value);
                        },
                        [](const std::string& value) { return absl::CHexEscape(value); },
                        [](const FieldArray&) { return std::string(); },
                        [](const FieldStruct&) { return std::string(); },
                    },
                    field.value);
}

bool IsScalar(const DeviceField& field) {
  return !std::holds_alternative<FieldArray>(field.value) &&
         !std::holds_alternative<FieldStruct>(field.value);
}

// Neighbours which are equal.
struct Run {
  size_t first;
  size_t count;
  std::string text;  // of each
};

std::vector<Run> RunsOf(const std::vector<std::string>& texts) {
  std::vector<Run> runs;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (runs.empty() || runs.back().text != texts[i]) runs.push_back({i, 0, texts[i]});
    ++runs.back().count;
  }
  return runs;
}

// "[1, 0 x7, 0x10]".
std::string ScalarsAsText(const std::vector<DeviceField>& elements) {
  constexpr size_t kShown = 16;  // runs
  std::vector<std::string> texts;
  for (const DeviceField& element : elements) texts.push_back(ScalarAsText(element));
  const std::vector<Run> runs = RunsOf(texts);
  std::string text;
  for (size_t i = 0; i < std::min(runs.size(), kShown); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", runs[i].text);
    if (runs[i].count > 1) absl::StrAppend(&text, " x", runs[i].count);
  }
  if (runs.size() > kShown) absl::StrAppend(&text, ", ... (", elements.size(), ")");
  return absl::StrCat("[", text, "]");
}

// What follows a field's name.
std::string FieldAsText(const DeviceField& field, size_t indent) {
  if (const auto* fields = std::get_if<FieldStruct>(&field.value)) {
    return absl::StrCat("\n", FieldsAsText(*fields, indent + 2));
  }
  const auto* const array = std::get_if<FieldArray>(&field.value);
  if (array == nullptr) return absl::StrCat(" = ", ScalarAsText(field), "\n");
  const std::vector<DeviceField>& elements = array->elements;
  if (std::all_of(elements.begin(), elements.end(), IsScalar)) {
    return absl::StrCat(" = ", ScalarsAsText(elements), "\n");
  }
  std::vector<std::string> texts;
  for (const DeviceField& element : elements) texts.push_back(FieldAsText(element, indent + 2));
  std::string text = "\n";
  for (const Run& run : RunsOf(texts)) {
    const std::string last = run.count > 1 ? absl::StrCat("-", run.first + run.count - 1) : "";
    absl::StrAppend(&text, std::string(indent + 2, ' '), "[", run.first, last, "]", run.text);
  }
  return text;
}

}  // namespace

Json FieldsAsJson(const FieldStruct& fields) {
  Json object = Json::object();
  // Not by name, which would look through those before: no name comes twice.
  auto& members = object.get_ref<Json::object_t&>();
  for (const DeviceField& field : fields.fields) {
    members.emplace_back(field.name, ValueAsJson(field));
  }
  return object;
}

std::string FieldsAsText(const FieldStruct& fields, size_t indent) {
  std::string text;
  for (const DeviceField& field : fields.fields) {
    absl::StrAppend(&text, std::string(indent, ' '), absl::CHexEscape(field.name),
                    FieldAsText(field, indent));
  }
  return text;
}

}  // namespace ramjet
