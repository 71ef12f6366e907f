#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "mappedram/device_fields.h"
#include "tests/mappedram_testing.h"
#include "tools/device_report.h"

namespace ramjet {
namespace {

using absl::StatusCode;

// One device "d" whose description has `content` in it, and these bytes at offset 1000.
absl::StatusOr<FieldStruct> Decoded(const std::string& content, absl::string_view hex) {
  const std::string bytes = absl::HexStringToBytes(absl::StrReplaceAll(hex, {{" ", ""}}));
  absl::StatusOr<std::vector<FieldStruct>> devices =
      DecodeDevices(absl::StrCat(R"({"page_size": 4096, "devices": [{"name": "d", "version": 1, )",
                                 content, "}]}"),
                    {{"d", {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, 1000}});
  if (!devices.ok()) return devices.status();
  return devices->at(0);
}

std::string AsJson(const std::string& content, absl::string_view hex) {
  const auto fields = Decoded(content, hex);
  return fields.ok() ? FieldsAsJson(*fields).dump() : fields.status().ToString();
}

std::string AsText(const std::string& content, absl::string_view hex) {
  const auto fields = Decoded(content, hex);
  return fields.ok() ? FieldsAsText(*fields, 0) : fields.status().ToString();
}

absl::Status ErrorOf(const std::string& content, absl::string_view hex) {
  return Decoded(content, hex).status();
}

// {"fields": [{"name": "a", "type": type, "size": size, more}]}
std::string OneField(absl::string_view type, size_t size, absl::string_view more = "") {
  return absl::StrCat(R"("fields": [{"name": "a", "type": ")", type, R"(", )", more,
                      more.empty() ? "" : ", ", R"("size": )", size, "}]");
}

TEST(DeviceFields, NumbersAreAsSignedAsTheirTypeSays) {
  EXPECT_EQ(AsJson(OneField("int8", 1), "ff"), R"({"a":-1})");
  EXPECT_EQ(AsJson(OneField("uint8", 1), "ff"), R"({"a":255})");
  EXPECT_EQ(AsJson(OneField("int32 le", 4), "fffffffe"), R"({"a":-2})");
  EXPECT_EQ(AsJson(OneField("uint16 equal", 2), "0102"), R"({"a":258})");
  EXPECT_EQ(AsJson(OneField("uint64", 8), "ffffffffffffffff"), R"({"a":18446744073709551615})");
  EXPECT_EQ(AsJson(OneField("int64", 8), "8000000000000000"), R"({"a":-9223372036854775808})");
  EXPECT_EQ(AsJson(OneField("timer", 8), "ffffffffffffffff"), R"({"a":-1})");
  EXPECT_EQ(AsJson(OneField("bool", 1), "02"), R"({"a":true})");
  EXPECT_EQ(AsJson(OneField("nullptr", 1), "30"), R"({"a":null})");
  EXPECT_EQ(AsJson(OneField("capability", 3), "02 6162"), R"({"a":"ab"})");
}

TEST(DeviceFields, BytesAreBytesAndWhatIsNotDescribedIsOpaque) {
  EXPECT_EQ(AsJson(OneField("buffer", 2), "00ff"), R"({"a":"00ff"})");
  EXPECT_EQ(AsJson(OneField("virtio", 2), "00ff"), R"({"a":{"opaque":"virtio","bytes":"00ff"}})");
  // Not the size of such a type.
  EXPECT_EQ(AsJson(OneField("uint32", 2), "00ff"), R"({"a":{"opaque":"uint32","bytes":"00ff"}})");
  EXPECT_EQ(AsJson(OneField("struct", 1), "00"), R"({"a":{"opaque":"struct","bytes":"00"}})");
}

TEST(DeviceFields, LengthMakesAnArrayAndSoDoesAnIndex) {
  EXPECT_EQ(AsJson(OneField("uint8", 1, R"("array_len": 3)"), "010203"), R"({"a":[1,2,3]})");
  EXPECT_EQ(AsJson(OneField("uint8", 1, R"("array_len": 1)"), "01"), R"({"a":[1]})");
  EXPECT_EQ(AsJson(OneField("uint8", 1, R"("index": 0)"), "01"), R"({"a":[1]})");
  EXPECT_EQ(AsJson(OneField("uint8", 0, R"("array_len": 0)"), ""), R"({"a":[]})");
}

// As QEMU describes an array of pointers of which some are null.
TEST(DeviceFields, RunsOfOneNameAreOneArray) {
  constexpr char kRuns[] = R"("fields": [
      {"name": "a", "array_len": 2, "type": "nullptr", "size": 1},
      {"name": "a", "type": "uint16", "size": 2},
      {"name": "a", "index": 3, "type": "nullptr", "size": 1}])";
  EXPECT_EQ(AsJson(kRuns, "30 30 0102 30"), R"({"a":[null,null,258,null]})");
  constexpr char kPlain[] = R"("fields": [{"name": "a", "type": "uint8", "size": 1},
      {"name": "b", "type": "uint8", "size": 1}, {"name": "a", "type": "uint8", "size": 1}])";
  EXPECT_EQ(AsJson(kPlain, "010203"), R"({"a":[1,3],"b":2})");
  // A list is not an array of its elements.
  constexpr char kLists[] = R"("fields": [{"name": "a", "type": "qlist", "size": 1},
      {"name": "a", "type": "qlist", "size": 1}])";
  EXPECT_EQ(AsJson(kLists, "00 00"), R"({"a":[[],[]]})");
  EXPECT_THAT(ErrorOf(OneField("uint8", 1, R"("index": 1)"), "01"),
              StatusIs(StatusCode::kDataLoss,
                       "device \"d\": a at offset 1000: element 1 where 0 comes next"));
}

TEST(DeviceFields, StructsAndSubsectionsNest) {
  constexpr char kNested[] = R"("fields": [{"name": "s", "array_len": 2, "type": "struct",
      "struct": {"vmsd_name": "s", "fields": [{"name": "x", "type": "uint8", "size": 1}]},
      "size": 1}], "subsections": [{"vmsd_name": "d/one", "version": 2, "fields":
      [{"name": "y", "type": "uint8", "size": 1}], "subsections": [{"vmsd_name": "d/one/two",
      "fields": [{"name": "z", "type": "uint8", "size": 1}]}]}])";
  const std::string bytes =
      absl::StrCat("0102 05 05 642f6f6e65 00000002 03 ", "05 09 642f6f6e652f74776f 00000001 04");
  EXPECT_EQ(AsJson(kNested, bytes),
            R"({"s":[{"x":1},{"x":2}],"d/one":{"y":3,"d/one/two":{"z":4}}})");
  const auto fields = Decoded(kNested, bytes);
  EXPECT_EQ(fields->fields[0].offset, 1000);
  EXPECT_EQ(fields->fields[0].size, 2);
  EXPECT_EQ(fields->fields[1].type, "subsection");
  EXPECT_EQ(fields->fields[1].offset, 1002);
  EXPECT_EQ(fields->fields[1].size, 28);
  EXPECT_THAT(ErrorOf(kNested, absl::StrReplaceAll(bytes, {{"6f6e652f", "6f6e6530"}})),
              StatusIs(StatusCode::kDataLoss, "device \"d\": d/one.d/one/two at offset 1014: "));
}

constexpr char kBody[] =
    R"("vmsd_name": "e", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}])";

TEST(DeviceFields, TypesWithStructsOfTheirOwnAreFollowed) {
  const std::string two = absl::StrCat(kBody, ",", kBody);
  EXPECT_EQ(AsJson(OneField("tmp", 1, kBody), "07"), R"({"a":{"x":7}})");
  EXPECT_EQ(AsJson(OneField("qtailq", 5, two), "01 07 01 08 00"), R"({"a":[{"x":7},{"x":8}]})");
  EXPECT_EQ(AsJson(OneField("qlist", 1), "00"), R"({"a":[]})");
  EXPECT_EQ(AsJson(OneField("gtree", 5), "00000000 00"), R"({"a":[]})");
  EXPECT_EQ(AsJson(OneField("gtree", 15, kBody), "00000001 01 0000000000000009 07 00"),
            R"({"a":[{"key":9,"value":{"x":7}}]})");
  EXPECT_EQ(AsJson(OneField("gtree", 8, two), "00000001 01 06 07 00"),
            R"({"a":[{"key":{"x":6},"value":{"x":7}}]})");
}

TEST(DeviceFields, ContainerThatIsNotAsItsTypeHasItIsOpaque) {
  EXPECT_EQ(AsJson(OneField("qlist", 3, kBody), "01 07 01"),
            R"({"a":{"opaque":"qlist","bytes":"010701"}})");
  EXPECT_EQ(AsJson(OneField("qlist", 3), "01 07 00"),
            R"({"a":{"opaque":"qlist","bytes":"010700"}})");
  EXPECT_EQ(AsJson(OneField("tmp", 2, kBody), "0708"), R"({"a":{"opaque":"tmp","bytes":"0708"}})");
  EXPECT_THAT(ErrorOf(OneField("gtree", 15, kBody), "00000002 01 0000000000000009 07 00"),
              StatusIs(StatusCode::kDataLoss, "a tree of 2 elements, of which 1 are described"));
}

TEST(DeviceFields, DescriptionThatContradictsTheBytesIsRefused) {
  EXPECT_THAT(
      ErrorOf(OneField("uint32", 4), "0102"),
      StatusIs(StatusCode::kDataLoss, "device \"d\": a at offset 1000: 4 bytes wanted, 2 left"));
  EXPECT_THAT(ErrorOf(OneField("uint8", 1), "0102"),
              StatusIs(StatusCode::kDataLoss, "at offset 1001: 1 bytes are not described"));
  EXPECT_THAT(ErrorOf(OneField("nullptr", 1), "00"),
              StatusIs(StatusCode::kDataLoss, "0 is no nullptr"));
  EXPECT_THAT(
      ErrorOf(OneField("struct", 2, absl::StrCat(R"("struct": {)", kBody, "}")), "0102"),
      StatusIs(StatusCode::kDataLoss, "its content is 1 bytes, but it is described to have 2"));
  EXPECT_THAT(DecodeDevices(R"({"devices": []})", {{"d", {}, 0}}).status(),
              StatusIs(StatusCode::kDataLoss, "describes 0 devices, not 1"));
  EXPECT_THAT(ErrorOf(R"("fields": [{"name": "a"}])", ""),
              StatusIs(StatusCode::kDataLoss, "a field without size"));
  EXPECT_THAT(ErrorOf("", ""), StatusIs(StatusCode::kDataLoss, "vmdesc: "));
}

TEST(DeviceFields, FewCharactersDoNotMakeManyFields) {
  EXPECT_THAT(ErrorOf(OneField("buffer", 0, R"("array_len": 18446744073709551615)"), ""),
              StatusIs(StatusCode::kDataLoss, "more fields are described than"));
  EXPECT_THAT(ErrorOf(OneField("buffer", 1, R"("array_len": 400)"), "01"),
              StatusIs(StatusCode::kDataLoss, "400 elements cannot be in the 1 bytes left"));
  // Each doubling what the one in it makes.
  std::string inner = OneField("buffer", 0, R"("array_len": 65536)");
  for (int i = 0; i < 3; ++i) {
    inner = OneField("struct", 0, absl::StrCat(R"("array_len": 65536, "struct": {)", inner, "}"));
  }
  EXPECT_THAT(ErrorOf(inner, ""),
              StatusIs(StatusCode::kDataLoss, "more fields are described than"));
  // Nor long ones many times.
  EXPECT_THAT(ErrorOf(OneField(std::string(100000, 't'), 0, R"("array_len": 4000000)"), ""),
              StatusIs(StatusCode::kDataLoss, "more fields are described than"));
}

TEST(DeviceFields, ErrorIsOneLineWhateverTheNames) {
  const absl::Status error =
      ErrorOf(R"("fields": [{"name": "a\nb", "type": "uint8", "size": 1}])", "");
  EXPECT_THAT(error, StatusIs(StatusCode::kDataLoss, "device \"d\": a\\nb at offset 1000"));
}

// --- the text for people ---

TEST(DeviceReport, EveryFieldHasItsLine) {
  EXPECT_EQ(AsText(OneField("uint8", 1), "09"), "a = 9\n");
  EXPECT_EQ(AsText(OneField("uint8", 1), "0a"), "a = 0xa\n");
  EXPECT_EQ(AsText(OneField("int8", 1), "f6"), "a = -10\n");
  EXPECT_EQ(AsText(OneField("virtio", 2), "0102"), "a = opaque \"virtio\": 01 02\n");
  EXPECT_EQ(AsText(OneField("tmp", 1, kBody), "07"), "a\n  x = 7\n");
}

TEST(DeviceReport, LongThingsAreCutShortAndEqualOnesShownOnce) {
  EXPECT_EQ(AsText(OneField("uint8", 1, R"("array_len": 4)"), "01000000"), "a = [1, 0 x3]\n");
  EXPECT_EQ(AsText(OneField("buffer", 5), "0000000000"), "a = 5 zero bytes\n");
  EXPECT_EQ(AsText(OneField("buffer", 33), std::string(66, '1')),
            absl::StrCat("a =", absl::StrReplaceAll(std::string(32, 'x'), {{"x", " 11"}}),
                         " ... (33 bytes)\n"));
  EXPECT_EQ(
      AsText(OneField("struct", 1, absl::StrCat(R"("array_len": 3, "struct": {)", kBody, "}")),
             "070708"),
      "a\n  [0-1]\n    x = 7\n  [2]\n    x = 8\n");
}

}  // namespace
}  // namespace ramjet
