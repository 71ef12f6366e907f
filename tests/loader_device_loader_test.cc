// Devices are loaded in threads: in their order, to their end, or until the first of them fails.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/barrier.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "loader/device_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"
#include "tests/mappedram_testing.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

std::string Bytes(size_t size, size_t salt) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + i / 251 + salt);
  return bytes;
}

// A snapshot with the devices named, instance 0 each, and a log of what their loaders do.
class DeviceLoaderTest : public ::testing::Test {
 protected:
  // Their state is Bytes(`size`, index), their version is 10 + index.
  void Save(const std::vector<std::string>& names, size_t size = 100) {
    SnapshotContent content = SmallContent();
    content.devices.clear();
    for (size_t i = 0; i < names.size(); ++i) {
      content.devices.push_back({.name = names[i],
                                 .version_id = static_cast<uint32_t>(10 + i),
                                 .payload = Bytes(size, i)});
    }
    SaveContent(content);
  }
  void SaveContent(const SnapshotContent& content) {
    file_.Write(BytesOf(content));
    auto snapshot = Snapshot::Open(file_.Open());
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    snapshot_ = *std::move(snapshot);
  }

  absl::Status Load(const std::vector<DeviceLoader>& loaders,
                    const LoadDevicesOptions& options = {}) {
    return LoadDevices(*snapshot_, loaders, options);
  }

  // A loader that notes its name.
  DeviceLoader Noting(const std::string& name, const std::vector<std::string>& after = {}) {
    DeviceLoader loader{.device = {name}, .load = [this](const DeviceState& state) {
                          Note(state.section().name);
                          return absl::OkStatus();
                        }};
    for (const std::string& before : after) loader.after.push_back({before});
    return loader;
  }
  void Note(std::string what) {
    absl::MutexLock lock(&mu_);
    noted_.push_back(std::move(what));
  }
  std::vector<std::string> noted() {
    absl::MutexLock lock(&mu_);
    return noted_;
  }

  TempFile file_;
  std::unique_ptr<Snapshot> snapshot_;

 private:
  absl::Mutex mu_;
  std::vector<std::string> noted_ ABSL_GUARDED_BY(mu_);
};

TEST_F(DeviceLoaderTest, EachLoaderGetsTheStateOfItsDevice) {
  SnapshotContent content = SmallContent();
  content.devices = {{"timer", 0, 2, "ticking"}, {"timer", 1, 3, "stopped"}, {"rtc", 0, 1, ""}};
  SaveContent(content);
  const auto load = [this](const DeviceState& state) {
    std::string bytes(state.section().size, '\0');
    absl::Status read = state.Read(0, {reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()});
    Note(absl::StrCat(state.section().name, state.section().instance_id, " ",
                      state.section().version_id, bytes));
    return read;
  };
  const absl::Status loaded = Load({{.device = {"rtc", 0}, .load = load},
                                    {.device = {"timer", 1}, .load = load},
                                    {.device = {"timer", 0}, .load = load}});
  EXPECT_TRUE(loaded.ok()) << loaded;
  EXPECT_THAT(noted(), UnorderedElementsAre("timer0 2ticking", "timer1 3stopped", "rtc0 1"));
}

TEST_F(DeviceLoaderTest, PiecesOfAStateCanBeRead) {
  Save({"disk"}, 1000);
  const absl::Status loaded =
      Load({{.device = {"disk"}, .load = [](const DeviceState& state) {
               std::string bytes(10, '\0');
               const absl::Span<uint8_t> buffer(reinterpret_cast<uint8_t*>(bytes.data()), 10);
               EXPECT_TRUE(state.Read(990, buffer).ok());
               EXPECT_EQ(bytes, Bytes(1000, 0).substr(990));
               EXPECT_TRUE(state.Read(1000, {}).ok());
               EXPECT_EQ(state.Read(991, buffer).code(), absl::StatusCode::kOutOfRange);
               EXPECT_EQ(state.Read(UINT64_MAX, buffer).code(), absl::StatusCode::kOutOfRange);
               return absl::OkStatus();
             }}});
  EXPECT_TRUE(loaded.ok()) << loaded;
}

TEST_F(DeviceLoaderTest, FileThatChangesIsNoticed) {
  Save({"disk"});
  file_.Write("something else");
  EXPECT_THAT(Load({{.device = {"disk"},
                     .load =
                         [](const DeviceState& state) {
                           uint8_t byte;
                           return state.Read(0, {&byte, 1});
                         }}}),
              StatusIs(absl::StatusCode::kDataLoss, "device \"disk\", instance 0: "));
}

TEST_F(DeviceLoaderTest, DevicesRunAtTheSameTime) {
  Save({"a", "b", "c"});
  absl::Barrier barrier(3);
  const auto load = [&barrier](const DeviceState&) {
    barrier.Block();
    return absl::OkStatus();
  };
  const absl::Status loaded = Load({{.device = {"a"}, .load = load},
                                    {.device = {"b"}, .load = load},
                                    {.device = {"c"}, .load = load}});
  EXPECT_TRUE(loaded.ok()) << loaded;
}

TEST_F(DeviceLoaderTest, ThreadsAreNotMoreThanWanted) {
  Save({"a", "b", "c", "d", "e", "f"});
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  std::vector<DeviceLoader> loaders;
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) {
    loaders.push_back({.device = {name}, .load = [&](const DeviceState&) {
                         most.store(std::max(most.load(), ++running));
                         std::this_thread::yield();
                         --running;
                         return absl::OkStatus();
                       }});
  }
  EXPECT_TRUE(Load(loaders, {.threads = 1}).ok());
  EXPECT_EQ(most, 1);
}

TEST_F(DeviceLoaderTest, WithOneThreadTheOrderIsTheStreams) {
  Save({"a", "b", "c"});
  EXPECT_TRUE(Load({Noting("c"), Noting("b"), Noting("a")}, {.threads = 1}).ok());
  EXPECT_THAT(noted(), ElementsAre("a", "b", "c"));
}

TEST_F(DeviceLoaderTest, ADeviceBeginsWhenThoseItComesAfterAreComplete) {
  Save({"leaf", "left", "right", "root"});
  for (int round = 0; round < 50; ++round) {
    DeviceLoader root = Noting("root");
    root.load = [this](const DeviceState&) {
      std::this_thread::yield();
      Note("root");
      return absl::OkStatus();
    };
    const absl::Status loaded = Load({Noting("leaf", {"left", "right"}), Noting("left", {"root"}),
                                      Noting("right", {"root"}), root});
    EXPECT_TRUE(loaded.ok()) << loaded;
  }
  const std::vector<std::string> order = noted();
  ASSERT_EQ(order.size(), 200);
  for (size_t i = 0; i < order.size(); i += 4) {
    EXPECT_EQ(order[i], "root");
    EXPECT_EQ(order[i + 3], "leaf");
  }
}

TEST_F(DeviceLoaderTest, DevicesThatWaitForEachOtherAreRefused) {
  Save({"a", "b", "c", "d"});
  EXPECT_THAT(
      Load({Noting("d", {"a"}), Noting("a", {"b"}), Noting("b", {"c"}), Noting("c", {"a"})}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               "devices wait for each other: device \"a\", instance 0 comes after device \"b\", "
               "instance 0, which comes after device \"c\", instance 0, which comes after device "
               "\"a\", instance 0"));
  EXPECT_THAT(Load({Noting("a", {"a"}), Noting("b"), Noting("c"), Noting("d")}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "device \"a\", instance 0 comes after device \"a\", instance 0"));
  EXPECT_THAT(noted(), IsEmpty());
}

TEST_F(DeviceLoaderTest, PlansThatMakeNoSenseAreRefused) {
  Save({"a", "b"});
  const auto refused = [](const char* why) {
    return StatusIs(absl::StatusCode::kInvalidArgument, why);
  };
  EXPECT_THAT(Load({Noting("a", {"x"}), Noting("b")}),
              refused("device \"a\", instance 0 comes after device \"x\", instance 0, which has no "
                      "loader"));
  EXPECT_THAT(Load({Noting("a"), Noting("b"), Noting("a")}),
              refused("device \"a\", instance 0 has two loaders"));
  EXPECT_THAT(Load({{.device = {"a"}}, Noting("b")}), refused("nothing would load it"));
  EXPECT_THAT(Load({Noting("a"), Noting("b")}, {.threads = 65}), refused("65 threads"));
  DeviceLoader buffered = Noting("a");
  buffered.load_buffer = [](const DeviceState&, uint64_t, absl::Span<const uint8_t>) {
    return absl::OkStatus();
  };
  buffered.buffer_bytes = 0;
  EXPECT_THAT(Load({buffered, Noting("b")}), refused("buffers of 0 bytes"));
  buffered.buffer_bytes = UINT64_MAX;
  EXPECT_THAT(Load({buffered, Noting("b")}), refused("buffers of 18446744073709551615 bytes"));
  EXPECT_THAT(noted(), IsEmpty());
}

TEST_F(DeviceLoaderTest, DeviceThatTheSnapshotLacksIsAnError) {
  Save({"a"});
  EXPECT_THAT(Load({Noting("a"), Noting("b")}),
              StatusIs(absl::StatusCode::kNotFound,
                       absl::StrCat(file_.path(), ": there is no device \"b\", instance 0")));
  EXPECT_THAT(noted(), IsEmpty());
}

TEST_F(DeviceLoaderTest, OptionalDeviceThatTheSnapshotLacksIsPassedOver) {
  Save({"a"});
  DeviceLoader absent = Noting("b");
  absent.optional = true;
  EXPECT_TRUE(Load({Noting("a", {"b"}), absent}).ok());
  EXPECT_THAT(noted(), ElementsAre("a"));
}

TEST_F(DeviceLoaderTest, DeviceWithoutALoaderIsAnErrorUnlessSomebodyIsTold) {
  Save({"a", "b", "c"});
  EXPECT_THAT(Load({Noting("b")}), StatusIs(absl::StatusCode::kFailedPrecondition,
                                            "device \"a\", instance 0 has no loader, and 1 more"));
  EXPECT_THAT(Load({Noting("a"), Noting("b")}),
              StatusIs(absl::StatusCode::kFailedPrecondition, "instance 0 has no loader"));
  EXPECT_THAT(noted(), IsEmpty());
  const absl::Status loaded =
      Load({Noting("b")}, {.on_unclaimed = [this](const DeviceSection& section) {
             Note(absl::StrCat("no loader: ", section.name));
           }});
  EXPECT_TRUE(loaded.ok()) << loaded;
  EXPECT_THAT(noted(), ElementsAre("no loader: a", "no loader: c", "b"));
}

TEST_F(DeviceLoaderTest, DeviceThatIsThereTwiceIsRefused) {
  SnapshotContent content = SmallContent();
  content.devices = {{"timer", 0, 2, "ticking"}, {"timer", 0, 2, "ticking"}};
  SaveContent(content);
  EXPECT_THAT(Load({Noting("timer")}),
              StatusIs(absl::StatusCode::kDataLoss, "device \"timer\", instance 0 is there twice"));
}

TEST_F(DeviceLoaderTest, FirstErrorCancelsTheRestAndIsTheOneReported) {
  Save({"slow", "bad", "later", "after"});
  constexpr int kSmoke = 12345;  // none of absl::StatusCode
  absl::Notification slow_runs;
  const std::vector<DeviceLoader> loaders = {
      {.device = {"slow"},
       .load =
           [&](const DeviceState& state) {
             slow_runs.Notify();
             while (!state.cancelled()) std::this_thread::yield();
             return absl::CancelledError("slow has noticed");
           }},
      {.device = {"bad"},
       .load =
           [&](const DeviceState&) {
             slow_runs.WaitForNotification();
             return absl::Status(static_cast<absl::StatusCode>(kSmoke), "it smokes");
           }},
      // No thread is free for one, and the other comes after a device that never is complete.
      Noting("later"),
      Noting("after", {"bad"})};
  const absl::Status loaded = Load(loaders, {.threads = 2});
  EXPECT_EQ(loaded.raw_code(), kSmoke);
  EXPECT_EQ(loaded.message(), "device \"bad\", instance 0: it smokes");
  EXPECT_THAT(noted(), IsEmpty());
}

// A loader by buffers that puts the state together, and then compares it.
DeviceLoader InBuffers(const std::string& name, std::string* state, uint64_t buffer_bytes) {
  return {.device = {name},
          .load_buffer =
              [state, buffer_bytes](const DeviceState& of, uint64_t offset,
                                    absl::Span<const uint8_t> bytes) {
                EXPECT_EQ(offset, state->size());
                EXPECT_EQ(bytes.size(), std::min(buffer_bytes, of.section().size - offset));
                state->append(bytes.begin(), bytes.end());
                return absl::OkStatus();
              },
          .buffer_bytes = buffer_bytes};
}

TEST_F(DeviceLoaderTest, BuffersComeInOrderAndTheEndAfterThem) {
  constexpr size_t kSize = 100'001;
  Save({"vfio"}, kSize);
  for (const unsigned threads : {1, 2, 8}) {
    for (const uint64_t buffer_bytes : {1000, 1 << 20}) {
      std::string state;
      DeviceLoader loader = InBuffers("vfio", &state, buffer_bytes);
      loader.load = [&](const DeviceState&) {
        EXPECT_EQ(state, Bytes(kSize, 0));
        Note("end");
        return absl::OkStatus();
      };
      const absl::Status loaded = Load({loader}, {.threads = threads});
      EXPECT_TRUE(loaded.ok()) << loaded;
    }
  }
  EXPECT_EQ(noted().size(), 3 * 2);
}

TEST_F(DeviceLoaderTest, DevicesShareALimitOfWhatIsReadAheadHoweverSmall) {
  constexpr size_t kSize = 100'001;
  Save({"a", "b", "c"}, kSize);
  for (const unsigned threads : {1, 3, 8}) {
    for (const uint64_t limit : {0, 1, 1200, 5000}) {
      std::string a, b, c;
      const absl::Status loaded =
          Load({InBuffers("a", &a, 1000), InBuffers("b", &b, 999), InBuffers("c", &c, 30'000)},
               {.threads = threads, .read_ahead_bytes = limit});
      EXPECT_TRUE(loaded.ok()) << loaded;
      EXPECT_EQ(a, Bytes(kSize, 0));
      EXPECT_EQ(b, Bytes(kSize, 1));
      EXPECT_EQ(c, Bytes(kSize, 2));
    }
  }
}

TEST_F(DeviceLoaderTest, EmptyStateHasNoBufferButAnEnd) {
  Save({"vfio"}, 0);
  std::string state;
  DeviceLoader loader = InBuffers("vfio", &state, 1000);
  EXPECT_TRUE(Load({loader}).ok());
  loader.load = Noting("vfio").load;
  EXPECT_TRUE(Load({loader}).ok());
  EXPECT_THAT(noted(), ElementsAre("vfio"));
  EXPECT_EQ(state, "");
}

TEST_F(DeviceLoaderTest, NextBuffersAreReadWhileOneIsBeingLoaded) {
  Save({"vfio"}, 4000);
  DeviceLoader loader{.device = {"vfio"}, .buffer_bytes = 1000, .any_order = true};
  absl::Barrier barrier(4);  // is passed by four calls that are under way together
  loader.load_buffer = [&barrier](const DeviceState&, uint64_t offset,
                                  absl::Span<const uint8_t> bytes) {
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), Bytes(4000, 0).substr(offset, 1000));
    barrier.Block();
    return absl::OkStatus();
  };
  const absl::Status loaded = Load({loader}, {.threads = 4});
  EXPECT_TRUE(loaded.ok()) << loaded;
}

TEST_F(DeviceLoaderTest, ErrorInABufferIsThatOfItsDevice) {
  Save({"slow", "vfio"}, 100'000);
  std::atomic<int> calls{0};
  DeviceLoader loader{.device = {"vfio"}, .load = Noting("vfio").load, .buffer_bytes = 1000};
  loader.load_buffer = [&](const DeviceState&, uint64_t, absl::Span<const uint8_t>) {
    return ++calls < 10 ? absl::OkStatus() : absl::InternalError("too much");
  };
  // The others that load by buffers are woken, too.
  DeviceLoader slow{.device = {"slow"}, .buffer_bytes = 1000};
  slow.load_buffer = [](const DeviceState& state, uint64_t, absl::Span<const uint8_t>) {
    while (!state.cancelled()) std::this_thread::yield();
    return absl::OkStatus();
  };
  EXPECT_THAT(Load({slow, loader}, {.threads = 4}),
              StatusIs(absl::StatusCode::kInternal, "device \"vfio\", instance 0: too much"));
  EXPECT_EQ(calls, 10);
  EXPECT_THAT(noted(), IsEmpty());
}

}  // namespace
}  // namespace ramjet
