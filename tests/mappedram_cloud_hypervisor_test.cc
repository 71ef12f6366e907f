#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/cloud_hypervisor.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using testing::ElementsAre;

// The outer text around the memory manager's.
std::string StateOf(const std::string& memory_manager) {
  return absl::StrCat(
      R"({"snapshots":{"device-manager":{"snapshots":{"a":{"snapshots":{}}},)",
      R"("snapshot_data":null},)", R"("memory-manager":{"snapshots":{},"snapshot_data":{"state":")",
      absl::StrReplaceAll(memory_manager, {{"\"", "\\\""}}), R"("}}},"snapshot_data":null})");
}

std::string RangesOf(const std::string& ranges) {
  return StateOf(absl::StrCat(R"({"boot_ram":1,"memory_ranges":{"data":[)", ranges,
                              R"(]},"start_of_device_area":274877906944})"));
}

TEST(ParseMemoryRanges, OrderIsThatOfTheList) {
  const auto ranges = ParseMemoryRanges(
      RangesOf(R"({"gpa":4294967296,"length":8192},{"length":4096,"more":[1],"gpa":0})"));
  ASSERT_TRUE(ranges.ok()) << ranges.status();
  EXPECT_THAT(*ranges, ElementsAre(GuestRange{4294967296, 8192}, GuestRange{0, 4096}));
}

TEST(ParseMemoryRanges, RangesThatCannotBeAreRefused) {
  const auto refused = [](const std::string& ranges, const char* words) {
    EXPECT_THAT(ParseMemoryRanges(RangesOf(ranges)).status(),
                StatusIs(absl::StatusCode::kDataLoss, words))
        << ranges;
  };
  refused("", "there are no memory ranges");
  refused(R"({"gpa":0,"length":0})", "is empty");
  refused(R"({"gpa":0,"length":4097})", "does not consist of pages");
  refused(R"({"gpa":100,"length":4096})", "does not consist of pages");
  refused(R"({"gpa":8192,"length":8192},{"gpa":4096,"length":8192})", "overlaps");
  refused(R"({"gpa":0,"length":18446744073709547520})", "is too large");
  refused(R"({"gpa":18446744073709547520,"length":8192})", "is too large");
}

TEST(ParseMemoryRanges, OtherTextsAreRefused) {
  const auto refused = [](const std::string& text, const char* words) {
    EXPECT_THAT(ParseMemoryRanges(text).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, words))
        << text;
  };
  refused("", "no state of Cloud Hypervisor");
  refused("{}", "no member \"snapshots\"");
  refused(R"({"snapshots":{}})", "no member \"memory-manager\"");
  refused(StateOf("{}"), "no member \"memory_ranges\"");
  refused(StateOf("7"), "memory manager");
  refused(StateOf(R"({"memory_ranges":{"data":[]},"memory_ranges":{"data":[]}})"), "two members");
  refused(RangesOf(R"({"gpa":0})"), "without \"gpa\" or \"length\"");
  refused(RangesOf(R"({"gpa":-1,"length":4096})"), "not an unsigned");
  const std::string whole = RangesOf(R"({"gpa":0,"length":4096})");
  ASSERT_TRUE(ParseMemoryRanges(whole).ok());
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(ParseMemoryRanges(whole.substr(0, length)).ok()) << length;
  }
  refused(whole + "x", "more than one value");
}

}  // namespace
}  // namespace ramjet
