// Devices that a real QEMU wrote, described for the codec as a VMM would: what it decodes is what
// the file's own description tells, and it writes the same bytes again.
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "mappedram/device_fields.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/vmstate/device.h"
#include "tests/corpus_file.h"
#include "tests/mappedram_testing.h"
#include "tools/device_report.h"

namespace ramjet {
namespace {

using vmstate::Array;
using vmstate::Field;
using vmstate::Struct;
using vmstate::Subsection;
using vmstate::Timer;
using vmstate::Unused;

struct IoApic {
  uint8_t id = 0;
  uint8_t ioregsel = 0;
  uint32_t irr = 0;
  std::array<uint64_t, 24> ioredtbl = {};
};
constexpr auto kIoApic =
    Struct<IoApic>("ioapic", {.current = 3, .oldest = 1}, Field("id", &IoApic::id),
                   Field("ioregsel", &IoApic::ioregsel), Unused{8}, Field("irr", &IoApic::irr),
                   Field("ioredtbl", &IoApic::ioredtbl));

struct Rtc {
  std::array<uint8_t, 128> cmos = {};
  uint8_t index = 0;
  std::optional<int64_t> periodic_timer;
  int64_t next_periodic_time = 0;
  uint32_t irq_coalesced = 0;
  uint32_t period = 0;
  uint64_t base_rtc = 0;
  uint64_t last_update = 0;
  int64_t offset = 0;
  std::optional<int64_t> update_timer;
  uint64_t next_alarm_time = 0;
};
constexpr auto kRtc =
    Struct<Rtc>("mc146818rtc", {.current = 3, .oldest = 1}, Field("cmos_data", &Rtc::cmos),
                Field("cmos_index", &Rtc::index), Unused{28},
                Field("periodic_timer", &Rtc::periodic_timer, Timer()),
                Field("next_periodic_time", &Rtc::next_periodic_time), Unused{24},
                Field("irq_coalesced", &Rtc::irq_coalesced), Field("period", &Rtc::period),
                Field("base_rtc", &Rtc::base_rtc), Field("last_update", &Rtc::last_update),
                Field("offset", &Rtc::offset), Field("update_timer", &Rtc::update_timer, Timer()),
                Field("next_alarm_time", &Rtc::next_alarm_time));

struct PitChannel {
  int32_t count = 0;
  uint16_t latched_count = 0;
  std::array<uint8_t, 10> registers = {};
  int64_t count_load_time = 0;
  int64_t next_transition_time = 0;
};
struct Pit {
  uint32_t irq_disabled = 0;
  std::array<PitChannel, 3> channels;
  int64_t next_transition_time = 0;
};
constexpr auto kPitChannel = Struct<PitChannel>(
    "pit channel", {.current = 2}, Field("count", &PitChannel::count),
    Field("latched_count", &PitChannel::latched_count), Field("registers", &PitChannel::registers),
    Field("count_load_time", &PitChannel::count_load_time),
    Field("next_transition_time", &PitChannel::next_transition_time));
constexpr auto kPit =
    Struct<Pit>("i8254", {.current = 3, .oldest = 2}, Field("irq_disabled", &Pit::irq_disabled),
                Field("channels", &Pit::channels, Array(kPitChannel)),
                Field("next_transition_time", &Pit::next_transition_time));

struct FwCfg {
  uint16_t cur_entry = 0;
  uint32_t cur_offset = 0;
  uint64_t dma_addr = 0;
  uint64_t table_bytes = 0;
  uint64_t linker_bytes = 0;
  uint64_t rsdp_bytes = 0;
};
constexpr auto kFwCfg = Struct<FwCfg>(
    "fw_cfg", {.current = 2, .oldest = 1}, Field("cur_entry", &FwCfg::cur_entry),
    Field("cur_offset", &FwCfg::cur_offset),
    Subsection(Struct<FwCfg>("fw_cfg/dma", {.current = 0}, Field("dma_addr", &FwCfg::dma_addr)),
               [](const FwCfg&) { return true; }),
    Subsection(
        Struct<FwCfg>("fw_cfg/acpi_mr", {.current = 1}, Field("table_mr_size", &FwCfg::table_bytes),
                      Field("linker_mr_size", &FwCfg::linker_bytes),
                      Field("rsdp_mr_size", &FwCfg::rsdp_bytes)),
        [](const FwCfg& fw_cfg) { return fw_cfg.table_bytes != 0; }));

class RealDevice : public ::testing::Test {
 protected:
  RealDevice() {
    EXPECT_TRUE(WriteFromExtents("tests/corpus/microvm.extents", snapshot_.path()).ok());
    file_.emplace(snapshot_.Open());
    auto description = Snapshot::Describe(*file_);
    EXPECT_TRUE(description.ok()) << description.status();
    devices_ = description->devices;
    fields_ = *std::move(ReadDeviceFields(*file_, *description)).value();
  }

  // The first device of that name, decoded and written again, and its fields in `json`.
  template <typename Form>
  typename Form::Object DecodeAndEncode(const Form& form, nlohmann::ordered_json& json) {
    for (size_t i = 0; i < devices_.size(); ++i) {
      const DeviceSection& device = devices_[i];
      if (device.name != form.name()) continue;
      json = FieldsAsJson(fields_[i]);
      std::vector<uint8_t> bytes(device.size);
      EXPECT_TRUE(file_->ReadAt(device.offset, absl::MakeSpan(bytes)).ok());
      auto decoded = vmstate::Decode(
          form, {.bytes = bytes, .offset = device.offset, .version = device.version_id});
      EXPECT_TRUE(decoded.ok()) << decoded.status();
      if (!decoded.ok()) break;
      EXPECT_EQ(form.version(), device.version_id);
      EXPECT_EQ(*vmstate::Encode(form, *decoded), std::string(bytes.begin(), bytes.end()));
      return *std::move(decoded);
    }
    ADD_FAILURE() << form.name();
    return {};
  }

  TempFile snapshot_;
  std::optional<File> file_;
  std::vector<DeviceSection> devices_;
  std::vector<FieldStruct> fields_;
};

TEST_F(RealDevice, ArraysOfNumbers) {
  nlohmann::ordered_json json;
  const IoApic ioapic = DecodeAndEncode(kIoApic, json);
  EXPECT_EQ(ioapic.ioredtbl, (json["ioredtbl"].get<std::array<uint64_t, 24>>()));
  EXPECT_EQ(ioapic.ioredtbl[23], 0x10000);  // masked
}

TEST_F(RealDevice, TimersOnAndOff) {
  nlohmann::ordered_json json;
  const Rtc rtc = DecodeAndEncode(kRtc, json);
  EXPECT_EQ(rtc.periodic_timer, std::nullopt);
  EXPECT_EQ(json["periodic_timer"], -1);
  EXPECT_EQ(rtc.update_timer, json["update_timer"].get<int64_t>());
  EXPECT_GT(rtc.update_timer, 0);
}

TEST_F(RealDevice, ArrayOfStructs) {
  nlohmann::ordered_json json;
  const Pit pit = DecodeAndEncode(kPit, json);
  ASSERT_EQ(json["channels"].size(), pit.channels.size());
  for (size_t i = 0; i < pit.channels.size(); ++i) {
    EXPECT_EQ(pit.channels[i].count, json["channels"][i]["count"]);
    EXPECT_EQ(pit.channels[i].next_transition_time, json["channels"][i]["next_transition_time"]);
  }
  EXPECT_EQ(pit.channels[0].count, 0x10000);
}

TEST_F(RealDevice, Subsections) {
  nlohmann::ordered_json json;
  const FwCfg fw_cfg = DecodeAndEncode(kFwCfg, json);
  EXPECT_EQ(fw_cfg.table_bytes, json["fw_cfg/acpi_mr"]["table_mr_size"]);
  EXPECT_GT(fw_cfg.table_bytes, 0);
}

}  // namespace
}  // namespace ramjet
