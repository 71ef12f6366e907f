// `ramjet demo --embedded`, as scripts see it.
#include <string>

#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/loader_testing.h"
#include "tools/demo.h"
#include "tools/demo_report.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(EmbeddedDemo, RestoresBothWaysFromBothCacheStatesAndFindsTheSameMemory) {
  SKIP_WITHOUT_USERFAULTFD();
  const absl::StatusOr<DemoResult> result =
      MeasureDemo({.embedded = true, .memory_mib = 16, .vcpus = 2, .rounds = 2});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->equal_memory);
  EXPECT_THAT(ThreadsLeft(), IsEmpty());
  EXPECT_EQ(OpenUserfaultfds(), 0);

  const json report = DemoJson(*result);
  EXPECT_EQ(report["schema"], "ramjet.demo/1");
  EXPECT_TRUE(report["qemu"].is_null());
  EXPECT_EQ(report["guest"]["machine"], "embedded");
  EXPECT_EQ(report["guest"]["vcpus"], 2);
  EXPECT_EQ(report["guest"]["accel_reason"].is_null(), report["guest"]["accel"] == "kvm");
  EXPECT_EQ(report["guest"]["memory_bytes"], 16 << 20);
  ASSERT_EQ(report["restores"].size(), 2u * 2u * 2u);
  for (const json& restore : report["restores"]) {
    const bool lazy = restore["loader"] == "ramjet";
    ASSERT_EQ(restore["stats"].is_object(), lazy);
    EXPECT_EQ(lazy && restore["stats"]["complete"] == true, lazy);
    EXPECT_GT(restore["to_resume_s"], 0);
    EXPECT_GE(restore["to_first_work_s"], restore["to_resume_s"]);
    EXPECT_GE(restore["to_resident_s"], restore["to_resume_s"]);
  }
  for (const char* const cache : {"warm", "cold"}) {
    EXPECT_GT(report["medians"][cache]["stock_over_ramjet"]["to_resume"], 0);
  }
  EXPECT_THAT(DemoTable(*result), HasSubstr("equal memory: yes"));
}

TEST(EmbeddedDemo, MemoryThatIsNotEqualIsSaidSo) {
  DemoResult result;
  result.equal_memory = false;
  EXPECT_THAT(DemoTable(result), HasSubstr("equal memory: NO"));
  EXPECT_FALSE(DemoJson(result)["equal_memory"]);
}

TEST(EmbeddedDemo, MemoryThatTheGuestCannotHaveIsAUsageError) {
  EXPECT_EQ(RunDemo({.embedded = true, .memory_mib = 4096}), 2);
  EXPECT_EQ(RunDemo({.embedded = true, .memory_mib = 8}), 2);
  EXPECT_EQ(RunDemo({.embedded = true, .rounds = 0}), 2);
}

}  // namespace
}  // namespace ramjet
