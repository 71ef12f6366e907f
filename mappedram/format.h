// The snapshot file that QEMU's mapped-ram migration capability writes, as a grammar.
//
// Numbers are big-endian, but for the bitmaps, which are the host's words as they lay in its
// memory. Offsets count from the start of the file even where the stream begins later. name8 is one
// length byte and as many characters.
//
//   file          = [wrapper] stream           wrapper: whatever lies in front, for one libvirt's
//                                              save image header
//   stream        = "QEVM" u32:3 configuration record* eof [vmdescription]    there the file ends
//   configuration = u8:7 u32:n machine[n] subsection*
//   subsection    = u8:5 name8 u32:1 content   "configuration/..." +
//                     "capabilities":      u32:n n*name8    "mapped-ram" is always among them
//                     "target-page-bits":  u32
//                     "uuid":              u8[16]
//   record        = start | part | end | full | command
//   start         = u8:1 u32:id name8 u32:instance u32:version payload footer
//                                              a live section begins: "ram", ...
//   part          = u8:2 u32:id payload footer               and goes on, any number of times
//   end           = u8:3 u32:id payload footer               and ends
//   full          = u8:4 u32:id name8 u32:instance u32:version payload footer
//                                              an ordinary device
//   footer        = u8:0x7e u32:id
//   command       = u8:8 u16:command u16:n u8[n]
//   eof           = u8:0
//   vmdescription = u8:6 u32:n json[n]         describes the payloads of full sections (vmdesc.h)
//
// No payload tells its length. That of the section "ram" (version 4) is known:
//
//   ram start     = u64:(total | 4) block* u64:0x10     until the blocks' lengths make up total
//   ram part, end = u64:0x10
//   block         = name8 u64:used_length [u64:address] header bitmap hole pages
//                                              address: only with capability "x-ignore-shared"
//   header        = u32:1 u64:page_size u64:bitmap_offset u64:pages_offset
//   bitmap        at bitmap_offset, one bit per page in 64-bit words: page i is bit i % 64 of
//                 word i / 64
//   pages         at pages_offset: page i, if its bit is set, at pages_offset + i * page_size;
//                 else it is zero, and whatever the file holds there is stale
//
// A block that is shared with whoever loads the file (x-ignore-shared) has both offsets 0, no
// bitmap and no pages. The writer fills in bitmaps last, so an interrupted save looks well, with
// empty bitmaps, up to where it stops.
//
// For example, a machine of 128 KiB (32 pages) of which only page 2 is not zero:
//
//        0  51 45 56 4d  00 00 00 03                            "QEVM", 3
//        8  07  00 00 00 04 "none"                              machine
//       11  05  1a "configuration/capabilities"  00 00 00 01
//       31    00 00 00 01  0a "mapped-ram"
//       40  01  00 00 00 00  03 "ram"                           start of section 0:
//       49    00 00 00 00  00 00 00 04                          instance 0, version 4
//       51    00 00 00 00 00 02 00 04                           total 0x20000 | 4
//       59    03 "ram"  00 00 00 00 00 02 00 00                 block "ram", used_length 0x20000
//       65    00 00 00 01  00 00 00 00 00 00 10 00              version 1, page_size 0x1000
//       71    00 00 00 00 00 00 00 81  00 00 00 00 00 10 00 00  bitmap_offset, pages_offset
//       81    04 00 00 00 00 00 00 00                           bitmap: page 2
//   102000    (page 2)
//   120000    00 00 00 00 00 00 00 10  7e 00 00 00 00           end of the blocks, footer
//   12000d  02  00 00 00 00  00 00 00 00 00 00 00 10  7e 00 00 00 00
//   12001f  03  00 00 00 00  00 00 00 00 00 00 00 10  7e 00 00 00 00
//   120031  00                                                  eof
//   120032  06  00 00 00 0f "{\"devices\": []}"                 vmdescription
#ifndef RAMJET_MAPPEDRAM_FORMAT_H_
#define RAMJET_MAPPEDRAM_FORMAT_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace ramjet {

constexpr uint32_t kStreamMagic = 0x5145564d;  // "QEVM"
constexpr uint32_t kStreamVersion = 3;

// The first byte of every record.
enum RecordType : uint8_t {
  kEof = 0x00,
  kSectionStart = 0x01,
  kSectionPart = 0x02,
  kSectionEnd = 0x03,
  kSectionFull = 0x04,
  kSubsection = 0x05,
  kVmdescription = 0x06,
  kConfiguration = 0x07,
  kCommand = 0x08,
  kFooter = 0x7e,
};

constexpr size_t kFooterBytes = 1 + 4;

constexpr uint32_t kConfigurationVersion = 1;  // of each of its subsections
constexpr absl::string_view kCapabilitiesSubsection = "configuration/capabilities";
constexpr absl::string_view kTargetPageBitsSubsection = "configuration/target-page-bits";
constexpr absl::string_view kUuidSubsection = "configuration/uuid";
constexpr size_t kUuidBytes = 16;
constexpr absl::string_view kMappedRamCapability = "mapped-ram";
constexpr absl::string_view kIgnoreSharedCapability = "x-ignore-shared";

constexpr absl::string_view kRamSection = "ram";
constexpr uint32_t kRamSectionVersion = 4;
constexpr uint32_t kBlockHeaderVersion = 1;
// Flags stand in the low bits of an address or length, below any page size.
constexpr uint64_t kRamFlagsMask = 0x3ff;
constexpr uint64_t kRamFlagMemSize = 0x04;
constexpr uint64_t kRamFlagEndOfSection = 0x10;
constexpr size_t kBlockHeaderBytes = 4 + 8 + 8 + 8;
// To which a writer aligns pages_offset; a reader asks for alignment to the page size only.
constexpr uint64_t kPagesAlignment = 1 << 20;

// Limits of ours: far beyond any machine, and small enough that no number from a file costs much
// before it is refused.
constexpr unsigned kMinPageBits = 10;
constexpr unsigned kMaxPageBits = 16;
constexpr size_t kMaxBlocks = 4096;
constexpr uint64_t kMaxRamBytes = uint64_t{1} << 46;
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kMaxCapabilities = 64;
constexpr size_t kMaxLiveSections = 64;
constexpr size_t kMaxDevices = 16384;
// Below 2^24, so that the first byte of the length is zero: FindVmdesc relies on that.
constexpr uint64_t kMaxVmdescBytes = (1 << 24) - 1;
// How far a footer is searched for where nothing tells the length of a payload.
constexpr uint64_t kMaxSearchBytes = 64 << 20;

// libvirt's save image header: magic, five numbers in the byte order of its host, unused words;
// data (XML, cookie) follow.
constexpr absl::string_view kSaveImageMagic = "LibvirtQemudSave";
constexpr absl::string_view kSaveImagePartMagic = "LibvirtQemudPart";  // while it is being written
constexpr uint32_t kSaveImageVersion = 2;
constexpr uint32_t kSaveImageFormatSparse = 6;  // the one that is mapped-ram
constexpr uint64_t kSaveImageHeaderBytes = 16 + 5 * 4 + 14 * 4;

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_FORMAT_H_
