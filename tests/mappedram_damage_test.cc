// Files as they should not be, part one: what they say of the machine and of its RAM. Each check
// that Snapshot makes has a file which fails it, and it alone.
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

// --- Not a mapped-ram file ---

TEST(Damage, WhatIsNoMigrationStreamIsAnInvalidArgument) {
  const std::string message = "no QEMU migration stream (\"QEVM\") at offset 0";
  ExpectRefused(Bytes().Cut(0), message, StatusCode::kInvalidArgument);
  ExpectRefused(Bytes().Cut(3), message, StatusCode::kInvalidArgument);
  ExpectRefused(Bytes().Set(0, "QEVN"), message, StatusCode::kInvalidArgument);
}

TEST(Damage, OtherStreamVersionIsAnInvalidArgument) {
  ExpectRefused(Bytes().Set32(4, 2), "migration stream of version 2, not 3",
                StatusCode::kInvalidArgument);
}

TEST(Damage, StreamWithoutConfigurationIsAnInvalidArgument) {
  ExpectRefused(Bytes().Set8(8, 1), "migration stream without a configuration",
                StatusCode::kInvalidArgument);
}

TEST(Damage, StreamWithoutMappedRamIsAnInvalidArgument) {
  Bytes bytes;
  ExpectRefused(bytes.Set(bytes.Find("mapped-ram"), "mapped-rim"),
                "migration stream without the capability \"mapped-ram\"",
                StatusCode::kInvalidArgument);
}

// --- Configuration ---

TEST(Damage, AbsurdMachineNameIsRefused) {
  const std::string message = " at offset 13 is not 1 to 255 printable ASCII characters";
  ExpectRefused(Bytes().Set32(9, 0), "name of 0 bytes" + message);
  ExpectRefused(Bytes().Set32(9, 0xffffffff), "name of 4294967295 bytes" + message);
  ExpectRefused(Bytes().Set8(13, '\n'), "name of 4 bytes" + message);
}

TEST(Damage, UnknownConfigurationIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set(bytes.Find("configuration/capabilities") + 14, "x"),
                "unknown part of the configuration: \"configuration/xapabilities\"");
  ExpectRefused(Bytes().Set32(bytes.Find("mapped-ram") - 9, 2),
                "configuration/capabilities: version 2 is unknown");
}

TEST(Damage, SecondListOfCapabilitiesIsRefused) {
  Bytes bytes;
  const uint64_t at = bytes.Find("configuration/") - 2;
  const std::string subsection = bytes.get().substr(at, bytes.RamStartAt() - at);
  ExpectRefused(bytes.Insert(at, subsection), "configuration/capabilities stands twice");
}

TEST(Damage, AbsurdNumberOfCapabilitiesIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set32(bytes.Find("mapped-ram") - 5, 0xffffffff),
                "configuration: 4294967295 capabilities are more than 64");
}

TEST(Damage, AbsurdPageBitsAreRefused) {
  SnapshotContent content = SmallContent();
  content.page_bits = 10;
  for (const uint32_t bits : {0u, 9u, 17u, 64u, 0xffffffffu}) {
    Bytes bytes(content);
    ExpectRefused(bytes.Set32(bytes.Find("target-page-bits") + 20, bits),
                  absl::StrCat("configuration: target-page-bits ", bits, " is not from 10 to 16"));
  }
}

TEST(Damage, PageSizeOtherThanThePageBitsIsRefused) {
  SnapshotContent content = SmallContent();
  content.page_bits = 10;
  Bytes bytes(content);
  ExpectRefused(bytes.Set32(bytes.Find("target-page-bits") + 20, 12),
                "block \"ram\": page_size 1024 differs from target-page-bits 12");
}

// --- The list of blocks ---

TEST(Damage, RamSectionOfOtherVersionOrInstanceIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set32(bytes.TotalAt() - 4, 3), "section \"ram\": version 3 is not 4");
  ExpectRefused(Bytes().Set32(bytes.TotalAt() - 8, 1), "section \"ram\": instance 1 is not 0");
}

TEST(Damage, FlagsOfTheTotalAreChecked) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.TotalAt(), (103 << 10) | 0x24),
                "ram section: flags 36 instead of 4 with the total");
}

TEST(Damage, AbsurdTotalIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.TotalAt(), 4),
                "ram section: total 0 is not between 1 and 70368744177664 bytes");
  ExpectRefused(Bytes().Set64(bytes.TotalAt(), ~uint64_t{0x3ff} | 4),
                "ram section: total 18446744073709550592 is not between");
}

TEST(Damage, LengthsThatExceedTheTotalAreRefused) {
  Bytes bytes;
  const uint64_t at = bytes.UsedLengthAt(1);
  ExpectRefused(bytes.Set64(at, 4 << 10),
                "block \"rom\": used_length 4096 is not within the 3072 bytes left of the total");
  ExpectRefused(Bytes().Set64(at, 0), "block \"rom\": used_length 0 is not within the 3072 bytes");
  ExpectRefused(Bytes().Set64(at, ~uint64_t{0}), "block \"rom\": used_length 18446744073709551615");
}

// What follows the last block is then read as a block.
TEST(Damage, LengthsThatFallShortOfTheTotalAreRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.TotalAt(), (104 << 10) | 4),
                absl::StrCat("name of 0 bytes at offset ", bytes.RamEndOfSectionAt() + 1));
}

TEST(Damage, NameThatIsNotPrintableIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set8(bytes.IdstrAt(1) + 1, 0x80), "name of 3 bytes at offset ");
  ExpectRefused(Bytes().Set8(bytes.IdstrAt(0) - 1, 0), "name of 0 bytes at offset ");
}

TEST(Damage, TwoBlocksOfOneNameAreRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set(bytes.IdstrAt(1), "ram"), "block \"ram\": there are two of that idstr");
}

TEST(Damage, OtherHeaderVersionIsRefused) {
  Bytes bytes;
  for (const uint32_t version : {0, 2}) {
    ExpectRefused(Bytes().Set32(bytes.HeaderAt(1), version),
                  absl::StrCat("block \"rom\": header version ", version, " is not 1"));
  }
}

TEST(Damage, PageSizeThatIsNoneIsRefused) {
  Bytes bytes;
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{512}, uint64_t{1025},
                              uint64_t{3072}, uint64_t{131072}, uint64_t{1} << 63, ~uint64_t{0}}) {
    ExpectRefused(Bytes().Set64(bytes.PageSizeAt(0), size),
                  absl::StrCat("block \"ram\": page_size ", size,
                               " is not a power of two from 1024 to 65536"));
  }
}

TEST(Damage, PageSizeMustBeTheSameForAll) {
  SnapshotContent content = SmallContent();
  content.blocks[1].used_length = 4 << 10;
  content.pages_alignment = 2048;
  Bytes bytes(content);
  ExpectRefused(bytes.Set64(bytes.PageSizeAt(1), 2048),
                "block \"rom\": page_size 2048 differs from that of block \"ram\", 1024");
}

TEST(Damage, LengthThatIsNotAMultipleOfThePageSizeIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.UsedLengthAt(0), (100 << 10) - 1),
                "block \"ram\": used_length 102399 is not a multiple of its page size 1024");
}

TEST(Damage, PagesOffsetThatIsNotAlignedIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.PagesOffsetAt(0), 1025),
                "block \"ram\": pages_offset 1025 is not a multiple of its page size 1024");
}

TEST(Damage, BitmapThatOverlapsTheStreamIsRefused) {
  Bytes bytes;
  const uint64_t right = bytes.description().blocks[1].bitmap_offset;
  ExpectRefused(bytes.Set64(bytes.BitmapOffsetAt(1), right - 1),
                absl::StrCat("block \"rom\": bitmap_offset ", right - 1,
                             " lies before the end of the block's header at ", right));
  ExpectRefused(Bytes().Set64(bytes.BitmapOffsetAt(1), 0),
                "block \"rom\": bitmap_offset 0 lies before");
}

TEST(Damage, BitmapThatOverlapsThePagesIsRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.BitmapOffsetAt(0), 1024 - 15),
                "block \"ram\": bitmap of 16 bytes at bitmap_offset 1009 does not end before "
                "pages_offset 1024");
  ExpectRefused(Bytes().Set64(bytes.BitmapOffsetAt(0), ~uint64_t{0}),
                "block \"ram\": bitmap of 16");
}

// The pages of "rom" where those of "ram" are: in front of its own header.
TEST(Damage, PagesThatOverlapAnotherBlockAreRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.PagesOffsetAt(1), 1024),
                "block \"rom\": bitmap of 8 bytes at bitmap_offset ");
}

TEST(Damage, PagesOffsetNearTheEndOfNumbersDoesNotWrapAround) {
  Bytes bytes;
  for (const uint64_t offset : {~uint64_t{0x3ff}, uint64_t{1} << 63, (uint64_t{1} << 63) - 2048}) {
    ExpectRefused(
        Bytes().Set64(bytes.PagesOffsetAt(1), offset),
        absl::StrCat("block \"rom\": pages_offset ", offset, " is beyond what a file can hold"));
  }
}

TEST(Damage, EmptyHeaderIsRefusedUnlessSharedBlocksAreLeftOut) {
  Bytes bytes;
  ExpectRefused(bytes.Set64(bytes.BitmapOffsetAt(1), 0).Set64(bytes.PagesOffsetAt(1), 0),
                "block \"rom\": bitmap_offset 0 lies before");
  SnapshotContent content = SmallContent();
  content.capabilities.push_back("x-ignore-shared");
  Bytes shared(content);
  ExpectRefused(shared.Set64(shared.BitmapOffsetAt(1), 0),
                "block \"rom\": bitmap_offset 0 lies before");
}

TEST(Damage, BitsBeyondTheLastPageAreRefused) {
  Bytes bytes;
  ExpectRefused(bytes.Set8(bytes.description().blocks[0].bitmap_offset + 12, 0x18),
                "block \"ram\": its bitmap has bits set beyond the last of 100 pages");
}

TEST(Damage, MoreBlocksThanAnyMachineHasAreRefused) {
  SnapshotContent content;
  content.pages_alignment = 1024;
  for (size_t i = 0; i <= kMaxBlocks; ++i) {
    content.blocks.push_back({.idstr = absl::StrCat(i), .used_length = 1024, .page_size = 1024});
  }
  const TempFile temp(BytesOf(content));
  EXPECT_THAT(Snapshot::Describe(temp.Open()).status(),
              StatusIs(StatusCode::kDataLoss,
                       ": ram section: more than 4096 blocks, and 1024 bytes of the total left"));
  content.blocks.pop_back();
  temp.Write(BytesOf(content));
  EXPECT_EQ(Snapshot::Open(temp.Open()).status(), absl::OkStatus());
}

}  // namespace
}  // namespace ramjet
