#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "mappedram/format.h"
#include "mappedram/json_reader.h"
#include "mappedram/vmdesc.h"
#include "nlohmann/json.hpp"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using absl::StatusCode;

// The payload of the one device which has `content` in its description.
uint64_t PayloadBytes(const std::string& content) {
  const auto devices =
      ParseVmdesc(absl::StrCat(R"({"devices": [{"name": "d", "instance_id": 0, )", content, "}]}"));
  EXPECT_TRUE(devices.ok()) << devices.status();
  return devices.ok() ? devices->at(0).payload_bytes : 0;
}

absl::Status ErrorOf(const std::string& json) { return ParseVmdesc(json).status(); }

TEST(Vmdesc, DevicesComeInOrderWithNameAndInstance) {
  const auto devices = ParseVmdesc(R"({"configuration": {"fields": []}, "page_size": 4096,
      "devices": [{"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2,
                   "fields": [{"name": "a", "type": "int64", "size": 8}]},
                  {"name": "0000:00:00.0/I440FX", "instance_id": 4294967295}]})");
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 2);
  EXPECT_EQ(devices->at(0).name, "timer");
  EXPECT_EQ(devices->at(0).payload_bytes, 8);
  EXPECT_EQ(devices->at(1).name, "0000:00:00.0/I440FX");
  EXPECT_EQ(devices->at(1).instance_id, 0xffffffff);
  EXPECT_EQ(devices->at(1).payload_bytes, 0);
}

TEST(Vmdesc, FieldsAddUp) {
  EXPECT_EQ(PayloadBytes(R"("fields": [{"size": 8}, {"size": 2}, {"size": 0}])"), 10);
}

TEST(Vmdesc, ArrayCountsEveryElement) {
  EXPECT_EQ(PayloadBytes(R"("fields": [{"name": "q", "array_len": 1024, "size": 4},
                                       {"size": 3, "array_len": 2}])"),
            4102);
}

TEST(Vmdesc, StructCountsOnceThoughItsFieldsAreListed) {
  EXPECT_EQ(PayloadBytes(R"("fields": [{"name": "s", "type": "struct", "size": 12, "struct":
      {"fields": [{"size": 4}, {"size": 8}], "subsections":
      [{"vmsd_name": "s/x", "fields": []}]}}])"),
            12);
}

TEST(Vmdesc, SubsectionCountsWithItsHeaderAndItsOwnSubsections) {
  EXPECT_EQ(PayloadBytes(R"("fields": [{"size": 100}], "subsections": [
      {"vmsd_name": "d/one", "version": 1, "fields": [{"size": 10}], "subsections": [
          {"vmsd_name": "d/one/two", "version": 1, "fields": [{"size": 3}]}]},
      {"vmsd_name": "d/three", "version": 1, "fields": []}])"),
            100 + (6 + 5 + 10) + (6 + 9 + 3) + (6 + 7));
}

TEST(Vmdesc, NameMayBeEscaped) {
  const auto devices = ParseVmdesc(R"({"devices": [{"name": "a\"\\\/\u0041"}]})");
  ASSERT_TRUE(devices.ok()) << devices.status();
  EXPECT_EQ(devices->at(0).name, "a\"\\/A");
}

TEST(Vmdesc, SumBeyond64BitsIsRefused) {
  constexpr char kBig[] = "18446744073709551615";
  for (const std::string& fields : {absl::StrCat(R"({"size": )", kBig, "}, {\"size\": 1}"),
                                    absl::StrCat(R"({"size": )", kBig, R"(, "array_len": 2})")}) {
    EXPECT_THAT(ErrorOf(absl::StrCat(R"({"devices": [{"name": "d", "fields": [)", fields, "]}]}")),
                StatusIs(StatusCode::kDataLoss, "fields larger than 64 bits can say"));
  }
}

TEST(Vmdesc, ErrorNamesDeviceAndPlace) {
  EXPECT_THAT(ErrorOf(R"({"devices": [{"name": "timer", "fields": [{"size": -1}]}]})"),
              StatusIs(StatusCode::kDataLoss,
                       "vmdesc: not an unsigned 64-bit number at byte 53, device 0"));
  EXPECT_THAT(ErrorOf(R"({"devices": [{"name": "a"}, {"name": "b", "fields": [{}]}]})"),
              StatusIs(StatusCode::kDataLoss, "a field without size"));
}

TEST(Vmdesc, WhatIsMissingOrOfTheWrongKindIsRefused) {
  for (const char* json :
       {"", "{}", "[]", "7", R"({"devices": {}})", R"({"devices": [7]})", R"({"devices": [{}]})",
        R"({"devices": [{"name": 7}]})", R"({"devices": [{"name": "d", "fields": {}}]})",
        R"({"devices": [{"name": "d", "instance_id": 4294967296}]})",
        R"({"devices": [{"name": "d", "fields": [{"size": 1.5}]}]})",
        R"({"devices": [{"name": "d", "fields": [{"size": 18446744073709551616}]}]})",
        R"({"devices": [{"name": "d", "fields": [{"size": "1"}]}]})",
        R"({"devices": [{"name": "d", "subsections": [{}]}]})",
        R"({"devices": [{"name": "\u00e4"}]})"}) {
    EXPECT_THAT(ErrorOf(json), StatusIs(StatusCode::kDataLoss, "vmdesc: ")) << json;
  }
}

TEST(Vmdesc, TooManyDevicesAreRefused) {
  std::string json = R"({"devices": [)";
  for (size_t i = 0; i < kMaxDevices; ++i) absl::StrAppend(&json, R"({"name": "d"},)");
  EXPECT_THAT(ErrorOf(absl::StrCat(json, R"({"name": "d"}]})")),
              StatusIs(StatusCode::kDataLoss, "more than 16384 devices"));
}

TEST(Vmdesc, DeepNestingIsRefusedNotFollowed) {
  for (const char* opening : {"[", "{\"a\":", R"({"vmsd_name":"x","subsections":[)"}) {
    std::string json = R"({"devices": [{"name": "d", "subsections": [)";
    for (int i = 0; i < 100000; ++i) json += opening;
    EXPECT_FALSE(ErrorOf(json).ok());
  }
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_THAT(ErrorOf(absl::StrCat("{\"x\": ", deep, "}")),
              StatusIs(StatusCode::kDataLoss, "nested too deeply"));
}

constexpr const char* kTexts[] = {"null",
                                  "true",
                                  "false",
                                  "nul",
                                  "truex",
                                  "0",
                                  "-0",
                                  "01",
                                  "-",
                                  "1.",
                                  "1.5",
                                  ".5",
                                  "1e5",
                                  "1e",
                                  "1E+5",
                                  "1e-5",
                                  "+1",
                                  "\"\"",
                                  "\"a\"",
                                  "\"",
                                  "\"\\",
                                  "\"\\x\"",
                                  "\"\\u12\"",
                                  "\"\\u12aF\"",
                                  "\"\n\"",
                                  "\"\x1f\"",
                                  "\"\\n\"",
                                  "[]",
                                  "[1]",
                                  "[1,]",
                                  "[,1]",
                                  "[1,2]",
                                  "[1 2]",
                                  "[",
                                  "]",
                                  "[}",
                                  "{}",
                                  "{\"a\":1}",
                                  "{a:1}",
                                  "{\"a\" 1}",
                                  "{\"a\":}",
                                  "{\"a\":1,}",
                                  "{,}",
                                  "{\"a\":1,\"b\":[{}]}",
                                  " [ 1 , { \"a\" : null } ] ",
                                  "[] []",
                                  "",
                                  " ",
                                  "[[[[]]]]",
                                  "[[[[]]]",
                                  "{\"a\":1 \"b\":2}",
                                  "\"\\/\\b\\f\\r\\t\\\"\"",
                                  "\x0b[]",
                                  "[1]x",
                                  "nullnull",
                                  "NaN",
                                  "Infinity",
                                  "'a'",
                                  "{1:2}",
                                  "[1,,2]"};

absl::Status Skip(JsonReader reader) {
  reader.SkipValue();
  reader.Finish();
  return reader.status();
}

TEST(JsonReader, AcceptsExactlyWhatAnotherParserDoes) {
  for (const char* json : kTexts) {
    EXPECT_EQ(Skip(JsonReader(json)).ok(), nlohmann::json::accept(json)) << json;
  }
}

// Gives `text` piece by piece.
std::function<absl::string_view()> InPieces(absl::string_view text, size_t piece_length) {
  return [text, piece_length]() mutable {
    const absl::string_view piece = text.substr(0, piece_length);
    text.remove_prefix(piece.size());
    return piece;
  };
}

TEST(JsonReader, PiecesReadAsTheWhole) {
  for (const char* json : kTexts) {
    const absl::Status whole = Skip(JsonReader(json));
    for (size_t length = 1; length < 5; ++length) {
      EXPECT_EQ(Skip(JsonReader(InPieces(json, length))), whole) << json << " by " << length;
    }
  }
  constexpr absl::string_view kDescription =
      R"({"devices": [{"name": "a\"\u0041 long name", "instance_id": 4000,
          "fields": [{"size": 1234}],
          "version": -1.5e7, "subsections": [{"vmsd_name": "b/c"}], "x": true},
          {"name": "z"}, 0]})";
  const auto good = absl::StrCat(kDescription.substr(0, kDescription.size() - 5), "]}");
  for (size_t length = 1; length <= kDescription.size(); ++length) {
    EXPECT_EQ(ParseVmdesc(JsonReader(InPieces(kDescription, length))).status(),
              ParseVmdesc(kDescription).status());
    const auto devices = ParseVmdesc(JsonReader(InPieces(good, length)));
    ASSERT_TRUE(devices.ok()) << devices.status();
    ASSERT_EQ(devices->size(), 2);
    EXPECT_EQ(devices->at(0).name, "a\"A long name");
    EXPECT_EQ(devices->at(0).instance_id, 4000);
    EXPECT_EQ(devices->at(0).payload_bytes, 1234 + 6 + 3);
  }
}

TEST(JsonReader, AgreesWithAnotherParserOnEveryFlippedBit) {
  const std::string json =
      R"({"a": [1, -2.5e+3, true, null], "b\n": {"c\u0041": "x"}, "d": [[], {}]})";
  for (size_t bit = 0; bit < json.size() * 8; ++bit) {
    std::string flipped = json;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    // Not valid UTF-8, which ours does not mind.
    if (static_cast<unsigned char>(flipped[bit / 8]) > 0x7f) continue;
    EXPECT_EQ(Skip(JsonReader(flipped)).ok(), nlohmann::json::accept(flipped)) << flipped;
  }
}

// --- FindVmdesc ---

std::string Record(const std::string& text) {
  return absl::StrCat("\x06", BigEndian(text.size(), 4), text);
}

std::optional<std::string> Found(const std::string& bytes, uint64_t begin = 0) {
  const TempFile temp(bytes);
  const auto found = FindVmdesc(temp.Open(), begin);
  EXPECT_TRUE(found.ok()) << found.status();
  return *found;
}

TEST(FindVmdesc, FindsTheRecordOfAnyLength) {
  // Every shape of the length's low bytes: zero, white space, printable.
  // And every place of it in what is read at once, whatever power of two that is.
  std::vector<size_t> lengths = {2, 10, 0x20, 0x100, 0x0a0a, 0x2020, 0x20100, 0x90000};
  for (const size_t at_once : {0x4000, 0x8000, 0x10000, 0x20000}) {
    for (size_t less = 0; less < 10; ++less) lengths.push_back(at_once - less);
  }
  for (const size_t length : lengths) {
    const std::string text = absl::StrCat("{", std::string(length - 2, 'x'), "}");
    EXPECT_EQ(Found(absl::StrCat("stream", std::string(1, '\0'), Record(text))), text) << length;
  }
}

// The last zero byte, by which the record is found, once had the length read from behind the end.
TEST(FindVmdesc, ZeroByteNearTheEndIsNotFollowedBeyondIt) {
  for (size_t behind = 0; behind < 8; ++behind) {
    const std::string end = absl::StrCat(std::string(1, '\0'), std::string(behind, 'x'), "}");
    EXPECT_EQ(Found(absl::StrCat("stream", end)), std::nullopt);
    EXPECT_EQ(Found(absl::StrCat("stream\x06", end)), std::nullopt);
    EXPECT_EQ(Found(end), std::nullopt);
  }
}

TEST(FindVmdesc, NothingIsFoundWhereThereIsNone) {
  EXPECT_EQ(Found(""), std::nullopt);
  EXPECT_EQ(Found("}"), std::nullopt);
  EXPECT_EQ(Found("some text {}"), std::nullopt);
  EXPECT_EQ(Found(std::string(200000, '}')), std::nullopt);
  EXPECT_EQ(Found(std::string(200000, '\0')), std::nullopt);
  EXPECT_EQ(Found(Record("{}") + "}"), std::nullopt);
  EXPECT_EQ(Found(Record("{}").substr(1)), std::nullopt);
  EXPECT_EQ(Found(Record("{}"), 1), std::nullopt);
  EXPECT_EQ(Found(Record("{}"), 0), "{}");
}

}  // namespace
}  // namespace ramjet
