// Files as they should not be, part two: records, devices, and the end that is missing.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "mappedram/format.h"
#include "mappedram/snapshot.h"
#include "tests/mappedram_bytes.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using absl::StatusCode;

// --- Records ---

TEST(DamagedStream, RamSectionThatDoesNotEndIsRefused) {
  Bytes bytes;
  const uint64_t at = bytes.RamEndOfSectionAt();
  ExpectRefused(bytes.Set64(at, 8),
                absl::StrCat("section \"ram\": 8 at offset ", at, " is not its end"));
  ExpectRefused(Bytes().Set64(bytes.PartAt() + 5, 0x18), "section \"ram\": 24 at offset ");
}

TEST(DamagedStream, MissingFooterIsRefused) {
  Bytes bytes;
  const uint64_t at = bytes.RamEndOfSectionAt() + 8;
  ExpectRefused(bytes.Set8(at, 0x7f),
                absl::StrCat("section \"ram\" of number 0: no footer at offset ", at));
  ExpectRefused(Bytes().Set32(at + 1, 7), "section \"ram\" of number 0: no footer at offset ");
}

TEST(DamagedStream, RecordOfUnknownTypeIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set8(bytes.PartAt(), 0x09),
                absl::StrCat("record of unknown type 9 at offset ", bytes.PartAt()));
}

TEST(DamagedStream, PartOfNoSectionOrAfterItsEndIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set32(bytes.PartAt() + 1, 5), "section 5 goes on at offset ");
  ExpectRefused(Bytes().Set8(bytes.PartAt(), kSectionEnd), "section 0 goes on at offset ");
}

TEST(DamagedStream, RamSectionWithoutEndIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set8(bytes.EndAt(), kSectionPart), "section \"ram\" has no end");
}

TEST(DamagedStream, StreamWithoutRamIsRefused) {
  Bytes bytes;
  const uint64_t devices_at = bytes.DeviceAt(0);
  const std::string head = bytes.get().substr(0, bytes.RamStartAt());
  const std::string tail = bytes.get().substr(devices_at);
  ExpectRefused(bytes.Cut(0).Insert(0, head + tail), "migration stream without a section \"ram\"");
}

TEST(DamagedStream, SecondRamSectionIsRefused) {
  SnapshotContent content = SmallContent();
  content.live = {{"rum", 0, 4, "?"}};
  Bytes bytes(content);
  ExpectRefused(bytes.Set(bytes.Find("rum"), "ram"), "a second section \"ram\"");
}

TEST(DamagedStream, TwoLiveSectionsOfOneNumberAreRefused) {
  SnapshotContent content = SmallContent();
  content.live = {{"rum", 0, 4, "?"}};
  Bytes bytes(content);
  ExpectRefused(bytes.Set32(bytes.Find("rum") - 5, 0), "section \"rum\": another has its number 0");
}

TEST(DamagedStream, TooManyLiveSectionsAreRefused) {
  SnapshotContent content = SmallContent();
  content.live.resize(kMaxLiveSections, {"live", 0, 1, ""});
  const TempFile temp(BytesOf(content));
  EXPECT_THAT(Snapshot::Describe(temp.Open()).status(),
              StatusIs(StatusCode::kDataLoss, ": section \"live\": more than 64 live sections"));
}

TEST(DamagedStream, UnknownCommandIsRefused) {
  Bytes bytes;
  ExpectRefused(
      bytes.Insert(bytes.PartAt(), absl::StrCat("\x08", BigEndian(4, 2), BigEndian(0, 2))),
      "command 4 at offset ");
}

// --- Devices ---

TEST(DamagedStream, DeviceThatIsNotAsLongAsDescribedIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set(bytes.Find("\"size\": 9}") + 8, "8"),
                "section \"timer\" of number 1: no footer at offset ");
  ExpectRefused(Bytes().Set(bytes.Find("\"size\": 300}") + 8, "999"),
                "device \"cpu\": its 999 bytes, says the vmdesc, are more than the file has");
}

TEST(DamagedStream, DeviceOtherThanDescribedIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set(bytes.DeviceAt(0) + 6, "toner"),
                "device 0 is \"toner\" 0 in the stream but \"timer\" 0 in the vmdesc");
  ExpectRefused(Bytes().Set32(bytes.description().devices[1].offset - 8, 2),
                "device 1 is \"cpu\" 2 in the stream but \"cpu\" 1 in the vmdesc");
}

TEST(DamagedStream, DeviceThatIsNotDescribedIsRefused) {
  Bytes bytes;
  const uint64_t at = bytes.DeviceAt(1);
  const std::string device = bytes.get().substr(at, bytes.description().eof_offset - at);
  ExpectRefused(bytes.Insert(at, device + device),
                "device 2 is \"cpu\" 1 in the stream but \"\" 0 in the vmdesc");
}

TEST(DamagedStream, DescribedDeviceThatIsMissingIsRefused) {
  Bytes bytes;
  const uint64_t at = bytes.DeviceAt(1);
  const std::string tail = bytes.get().substr(bytes.description().eof_offset);
  ExpectRefused(bytes.Cut(at).Insert(at, tail), "the stream has 1 devices but its vmdesc 2");
}

TEST(DamagedStream, VmdescThatIsNoJsonIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set8(bytes.VmdescAt() + 6, 'x'), "vmdesc: no '\"' at byte 1");
}

TEST(DamagedStream, TooManyDevicesAreRefused) {
  SnapshotContent content = SmallContent();
  content.devices.resize(kMaxDevices + 1, {"d", 0, 0, ""});
  content.vmdesc = false;
  const TempFile temp(BytesOf(content));
  EXPECT_THAT(Snapshot::Describe(temp.Open()).status(),
              StatusIs(StatusCode::kDataLoss, ": more than 16384 devices"));
}

TEST(DamagedStream, FooterThatIsTooFarAwayIsNotSearchedFor) {
  SnapshotContent content = SmallContent();
  content.vmdesc = false;
  content.devices[0].payload = std::string(kMaxSearchBytes + 1, 'x');
  const TempFile temp(BytesOf(content));
  EXPECT_THAT(
      Snapshot::Describe(temp.Open()).status(),
      StatusIs(StatusCode::kDataLoss, ": section \"timer\": no footer within 67108864 bytes"));
}

// --- The end ---

TEST(DamagedStream, BytesBehindTheEndAreRefused) {
  SnapshotContent content = SmallContent();
  Bytes bytes(content);
  ExpectRefused(bytes.Insert(bytes.get().size(), "x"),
                "1 bytes follow the stream's end at offset ");
  content.vmdesc = false;
  Bytes without(content);
  // Here the end is searched for, and this does not look like it.
  ExpectIncomplete(without.get() + "xyz", "ends at offset ");
}

TEST(DamagedStream, InterruptedSaveIsIncompleteAndItsBitmapsAreEmpty) {
  SnapshotContent content = SmallContent();
  content.interrupted = true;
  const SnapshotDescription description = ExpectIncomplete(BytesOf(content), "ends at offset ");
  ASSERT_EQ(description.blocks.size(), 2);
  EXPECT_EQ(description.blocks[0].nonzero_pages, 0);
  EXPECT_TRUE(description.devices.empty());
}

TEST(DamagedStream, LastBlockBeyondTheEndIsIncomplete) {
  Bytes bytes;
  const SnapshotBlock rom = bytes.description().blocks[1];
  // Its bitmap is there, its pages are not all there.
  SnapshotDescription cut =
      ExpectIncomplete(bytes.get().substr(0, rom.pages_offset + 1), "ends at offset ");
  EXPECT_EQ(cut.blocks[1].nonzero_pages, 3);
  // Its bitmap is not there.
  cut = ExpectIncomplete(bytes.get().substr(0, rom.bitmap_offset + 7), "ends at offset ");
  EXPECT_EQ(cut.blocks[1].nonzero_pages, 0);
  EXPECT_EQ(cut.blocks[1].pages_offset, rom.pages_offset);
}

// 64 TiB, says a file of 2 KiB: its bitmap would be 8 GiB.
TEST(DamagedStream, BitmapThatTheFileIsTooShortForIsNotAllocated) {
  Bytes bytes;
  const uint64_t at = bytes.IdstrAt(0) - 1;
  bytes.Set64(bytes.TotalAt(), kMaxRamBytes | 4).Set64(bytes.UsedLengthAt(0), kMaxRamBytes);
  bytes.Set64(bytes.PagesOffsetAt(0), uint64_t{1} << 40).Cut(at + 2000);
  const SnapshotDescription description = ExpectIncomplete(bytes.get(), "ends at offset ");
  EXPECT_EQ(description.blocks[0].used_length, kMaxRamBytes);
  EXPECT_EQ(description.blocks[0].nonzero_pages, 0);
}

TEST(DamagedStream, TruncationSaysWhere) {
  const Bytes bytes;
  ExpectRefused(Bytes().Cut(10),
                "ends at offset 10: 4 bytes wanted at offset 9, in its configuration");
  const uint64_t in_name = bytes.IdstrAt(1) + 1;
  ExpectRefused(Bytes().Cut(in_name),
                absl::StrCat("ends at offset ", in_name, ": 3 bytes wanted at offset ", in_name - 1,
                             ", in section \"ram\""));
  const uint64_t in_cpu = bytes.description().devices[1].offset + 5;
  ExpectIncomplete(
      bytes.get().substr(0, in_cpu),
      absl::StrCat("ends at offset ", in_cpu, " without a footer of number 2, in section \"cpu\""));
}

// The list of blocks ends with the last header, the file with its vmdesc.
TEST(DamagedStream, TruncationAnywhereIsAnErrorBeforeTheListsEndAndIncompleteBehindIt) {
  for (const bool vmdesc : {true, false}) {
    SnapshotContent content = SmallContent();
    content.vmdesc = vmdesc;
    const Bytes bytes(content);
    const uint64_t list_end = bytes.description().blocks[1].bitmap_offset;
    // QEMU may write no vmdesc: nothing tells a file cut off right behind its eof from a whole one.
    const uint64_t eof_end = bytes.description().eof_offset + 1;
    const TempFile temp(bytes.get());
    for (uint64_t size = bytes.get().size(); size-- > 0;) {
      ASSERT_EQ(truncate(temp.path().c_str(), static_cast<off_t>(size)), 0);
      const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(temp.Open());
      ASSERT_EQ(description.ok(), size >= list_end) << size << ": " << description.status();
      if (description.ok()) {
        ASSERT_EQ(description->complete.ok(), size == eof_end) << size;
        ASSERT_EQ(description->blocks.size(), 2);
      }
    }
  }
}

// A bit may change only in what nothing else tells: names, addresses, content. Everywhere else it
// must be noticed.
TEST(DamagedStream, FlippedBitAnywhereInTheStructureIsNoticed) {
  SnapshotContent content = SmallContent();
  content.page_bits = 10;
  content.uuid = "0123456789abcdef";
  content.capabilities = {"mapped-ram", "x-ignore-shared"};
  content.live = {{"dirty-bitmap", 0, 1, "live"}};
  const Bytes bytes(content);
  std::string is_free(bytes.get().size(), 0);
  const auto free = [&](uint64_t begin, uint64_t end) {
    std::fill(is_free.begin() + begin, is_free.begin() + end, 1);
  };
  free(13, 17);  // machine
  free(bytes.Find(content.uuid), bytes.Find(content.uuid) + 16);
  for (size_t block = 0; block < 2; ++block) {
    const SnapshotBlock& described = bytes.description().blocks[block];
    const uint64_t idstr_end = bytes.HeaderAt(block) - 8 - 8;
    free(idstr_end - described.idstr.size(), idstr_end);
    free(bytes.HeaderAt(block) - 8, bytes.HeaderAt(block));         // address
    free(bytes.BitmapOffsetAt(block), bytes.PagesOffsetAt(block));  // within the hole there
    free(described.bitmap_offset, described.pages_end());
  }
  free(bytes.Find("dirty-bitmap") - 1, bytes.Find("live") + 4);
  free(bytes.get().rfind("live"), bytes.get().rfind("live") + 4);  // its end has the same payload
  for (const DeviceSection& device : bytes.description().devices) {
    free(device.offset - 4, device.offset + device.size);  // version, payload
  }
  free(bytes.VmdescAt() + 5, bytes.get().size());

  std::string flipped = bytes.get();
  const TempFile temp(flipped);
  const int fd = open(temp.path().c_str(), O_WRONLY);
  for (size_t bit = 0; bit < flipped.size() * 8; ++bit) {
    const size_t byte = bit / 8;
    const bool in_pages =
        std::any_of(bytes.description().blocks.begin(), bytes.description().blocks.end(),
                    [&](const SnapshotBlock& block) {
                      return byte >= block.pages_offset && byte < block.pages_end();
                    });
    if (in_pages) continue;
    const char value = static_cast<char>(flipped[byte] ^ (1 << bit % 8));
    ASSERT_EQ(pwrite(fd, &value, 1, static_cast<off_t>(byte)), 1);
    // A free one may be noticed too; what counts then is that nothing worse happens.
    const bool opened = Snapshot::Open(temp.Open()).ok();
    ASSERT_TRUE(!opened || is_free[byte])
        << "bit " << bit % 8 << " of byte " << byte << ", which follows "
        << testing::PrintToString(flipped.substr(byte - 16, 16));
    ASSERT_EQ(pwrite(fd, &flipped[byte], 1, static_cast<off_t>(byte)), 1);
  }
  close(fd);
}

}  // namespace
}  // namespace ramjet
