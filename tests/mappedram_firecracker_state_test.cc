// Firecracker's state files: a real one, and all forms that it has had.
#include <fstream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/firecracker_state.h"
#include "tests/firecracker_files.h"

namespace ramjet {
namespace {

using testing::HasSubstr;

// Of Firecracker 1.17-dev, commit 81b38b9, a guest of 128 MiB.
std::string RealState() {
  std::ifstream file("tests/corpus/firecracker.state", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(FirecrackerState, RealOneIsRead) {
  const absl::StatusOr<FirecrackerState> state = ParseFirecrackerState(RealState());
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->version, "11.0.0");
  EXPECT_EQ(state->architecture, "x86-64");
  EXPECT_EQ(state->boot_bytes, 128u << 20);
  EXPECT_TRUE(state->can_hotplug);
}

TEST(FirecrackerState, EveryChangedByteIsNoticed) {
  const std::string real = RealState();
  ASSERT_EQ(real.size(), 14184u);
  for (size_t at = 0; at < real.size(); at += at < 32 || at > real.size() - 32 ? 1 : 211) {
    SCOPED_TRACE(at);
    std::string changed = real;
    changed[at] = static_cast<char>(changed[at] ^ 0x10);
    EXPECT_FALSE(ParseFirecrackerState(changed).ok());
    EXPECT_FALSE(ParseFirecrackerState(real.substr(0, at)).ok());
  }
  const absl::Status cut = ParseFirecrackerState(real.substr(0, 9000)).status();
  EXPECT_TRUE(absl::IsDataLoss(cut));
  EXPECT_THAT(std::string(cut.message()), HasSubstr("damaged or incomplete: the CRC-64 of its"));
}

TEST(FirecrackerState, AllFormsAreKnown) {
  for (const uint64_t mebibytes : {128, 3500, 100000}) {
    for (const auto form :
         {FirecrackerForm::k0_23, FirecrackerForm::k1_7, FirecrackerForm::k1_15}) {
      const bool has_number = form == FirecrackerForm::k0_23;
      const absl::StatusOr<FirecrackerState> state =
          ParseFirecrackerState(MakeFirecrackerState(form, mebibytes, "7.0.0"));
      ASSERT_TRUE(state.ok()) << state.status();
      EXPECT_EQ(state->version, has_number ? "data 5" : "7.0.0");
      EXPECT_EQ(state->boot_bytes, mebibytes << 20);
      EXPECT_FALSE(state->can_hotplug);
    }
  }
}

// What a later version has behind its number may be anything.
TEST(FirecrackerState, NewerOneTellsNoSize) {
  const absl::StatusOr<FirecrackerState> state =
      ParseFirecrackerState(MakeFirecrackerState(FirecrackerForm::k1_15, 128, "12.0.0"));
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->boot_bytes, std::nullopt);
}

TEST(FirecrackerState, AnythingElseIsRefused) {
  const std::string real = RealState();
  std::string other_magic = MakeFirecrackerState(FirecrackerForm::k1_7, 128);
  other_magic[5] = '\x23';
  for (const std::string& bytes :
       {std::string(), std::string("QEVM"), std::string(8, '\0'), std::string(100000, '\0'),
        real.substr(1), real.substr(0, 12), WithFirecrackerSum(other_magic),
        WithFirecrackerSum(real.substr(0, 10) + "eleven"),
        MakeFirecrackerState(FirecrackerForm::k1_15, 128, "11"),
        MakeFirecrackerState(FirecrackerForm::k1_7, 128, "1.0.\n")}) {
    SCOPED_TRACE(bytes.substr(0, 20));
    const absl::Status refused = ParseFirecrackerState(bytes).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  }
}

}  // namespace
}  // namespace ramjet
