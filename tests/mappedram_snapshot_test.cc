// Files as they should be: what Snapshot makes of them, and how it reads their pages.
// mappedram_damage_test.cc has the others.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "mappedram/format.h"
#include "mappedram/snapshot.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using absl::StatusCode;
using testing::ElementsAre;

SnapshotDescription Describe(const std::string& bytes,
                             std::optional<uint64_t> stream_offset = std::nullopt) {
  const TempFile temp(bytes);
  absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(temp.Open(), stream_offset);
  EXPECT_TRUE(description.ok()) << description.status();
  return description.ok() ? *std::move(description) : SnapshotDescription();
}

std::unique_ptr<Snapshot> Open(const TempFile& temp) {
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(temp.Open());
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  return *std::move(snapshot);
}

TEST(Snapshot, WholeFileIsDescribed) {
  SnapshotContent content = SmallContent();
  content.machine = "pc-i440fx-10.0";
  const std::string bytes = BytesOf(content);
  const SnapshotDescription description = Describe(bytes);
  EXPECT_EQ(description.complete, absl::OkStatus());
  EXPECT_EQ(description.stream_offset, 0);
  EXPECT_EQ(description.machine, "pc-i440fx-10.0");
  EXPECT_THAT(description.capabilities, ElementsAre("mapped-ram"));

  ASSERT_EQ(description.blocks.size(), 2);
  const SnapshotBlock& ram = description.blocks[0];
  EXPECT_EQ(ram.idstr, "ram");
  EXPECT_EQ(ram.used_length, 100 << 10);
  EXPECT_EQ(ram.page_size, 1024);
  EXPECT_EQ(ram.pages(), 100);
  EXPECT_EQ(ram.nonzero_pages, 5);
  EXPECT_EQ(ram.pages_offset, 1024);
  EXPECT_EQ(bytes.substr(ram.bitmap_offset - 16, 8), BigEndian(ram.bitmap_offset, 8));
  const SnapshotBlock& rom = description.blocks[1];
  EXPECT_EQ(rom.idstr, "rom");
  EXPECT_EQ(rom.nonzero_pages, 3);

  ASSERT_EQ(description.devices.size(), 2);
  const DeviceSection& timer = description.devices[0];
  EXPECT_EQ(timer.name, "timer");
  EXPECT_EQ(timer.instance_id, 0);
  EXPECT_EQ(timer.version_id, 2);
  EXPECT_EQ(bytes.substr(timer.offset, timer.size), "tick tock");
  EXPECT_EQ(description.devices[1].instance_id, 1);
  EXPECT_EQ(description.devices[1].size, 300);
  EXPECT_EQ(bytes.substr(description.eof_offset, 2), std::string("\0\x06", 2));
}

TEST(Snapshot, NonzeroPagesAreThoseOfTheBitmap) {
  const TempFile temp(BytesOf(SmallContent()));
  const std::unique_ptr<Snapshot> snapshot = Open(temp);
  const PageBitmap nonzero = snapshot->TakeNonzero(0);
  EXPECT_EQ(nonzero.size(), 100);
  EXPECT_EQ(nonzero.Count(), 5);
  EXPECT_EQ(nonzero.FindRun(true, 0, 100), (PageRun{1, 2}));
  EXPECT_EQ(nonzero.FindRun(true, 3, 100), (PageRun{63, 2}));
  EXPECT_EQ(nonzero.FindRun(true, 65, 100), (PageRun{99, 1}));
  EXPECT_EQ(snapshot->TakeNonzero(1).Count(), 3);
  EXPECT_EQ(snapshot->TakeNonzero(0).size(), 0);
}

TEST(Snapshot, PagesAreReadWhole) {
  const TempFile temp(BytesOf(SmallContent()));
  const std::unique_ptr<Snapshot> snapshot = Open(temp);
  std::vector<uint8_t> pages(2048);
  std::vector<uint8_t> expected(2048);
  FillPagePattern(63, absl::MakeSpan(expected).first(1024));
  FillPagePattern(64, absl::MakeSpan(expected).last(1024));
  ASSERT_EQ(snapshot->ReadPages(0, uint64_t{63} * 1024, absl::MakeSpan(pages)), absl::OkStatus());
  EXPECT_EQ(pages, expected);
}

// The example in format.h.
TEST(Snapshot, ExampleOfTheGrammarIsWhatTheWriterWrites) {
  SnapshotContent content;
  content.blocks = {{.idstr = "ram", .used_length = 0x20000, .page_size = 0x1000}};
  content.blocks[0].nonzero = {{2, 1}};
  const std::string bytes = BytesOf(content);
  const auto at = [&](uint64_t offset, size_t length) { return bytes.substr(offset, length); };
  EXPECT_EQ(at(0, 17), std::string("QEVM\0\0\0\3\7\0\0\0\4none", 17));
  EXPECT_EQ(at(0x11, 0x2f), std::string("\x05\x1a"
                                        "configuration/capabilities"
                                        "\0\0\0\1\0\0\0\1\x0amapped-ram",
                                        0x2f));
  EXPECT_EQ(at(0x40, 17), std::string("\1\0\0\0\0\3ram\0\0\0\0\0\0\0\4", 17));
  EXPECT_EQ(at(0x51, 8), BigEndian(0x20004, 8));
  EXPECT_EQ(at(0x59, 12), "\x03ram" + BigEndian(0x20000, 8));
  EXPECT_EQ(at(0x65, 12), BigEndian(1, 4) + BigEndian(0x1000, 8));
  EXPECT_EQ(at(0x71, 16), BigEndian(0x81, 8) + BigEndian(0x100000, 8));
  EXPECT_EQ(at(0x81, 9), std::string("\4\0\0\0\0\0\0\0\0", 9));
  EXPECT_EQ(at(0x101fff, 1), std::string(1, '\0'));
  EXPECT_NE(at(0x102000, 1), std::string(1, '\0'));
  const std::string end = BigEndian(0x10, 8) + "\x7e" + BigEndian(0, 4);
  EXPECT_EQ(at(0x120000, 13), end);
  EXPECT_EQ(at(0x12000d, 18), "\x02" + BigEndian(0, 4) + end);
  EXPECT_EQ(at(0x12001f, 18), "\x03" + BigEndian(0, 4) + end);
  EXPECT_EQ(at(0x120031, 100), std::string("\0\6\0\0\0\x0f", 6) + "{\"devices\": []}");
}

TEST(Snapshot, VmdescIsOptional) {
  SnapshotContent content = SmallContent();
  content.vmdesc = false;
  const SnapshotDescription description = Describe(BytesOf(content));
  EXPECT_EQ(description.complete, absl::OkStatus());
  ASSERT_EQ(description.devices.size(), 2);
  EXPECT_EQ(description.devices[0].size, 9);
  EXPECT_EQ(description.devices[1].size, 300);
}

// Without a vmdesc a section's end is searched for, and what looks like its footer may
// be its content.
TEST(Snapshot, FooterInsideDeviceStateIsNotTakenForItsEnd) {
  SnapshotContent content = SmallContent();
  content.vmdesc = false;
  const std::string footer = absl::StrCat("\x7e", BigEndian(1, 4));  // the first device's
  content.devices[0].payload = absl::StrCat(footer, "?", footer, std::string("\x04\0\0\0\1\0", 6),
                                            footer, "\x02", BigEndian(77, 4), footer, footer, "!");
  const SnapshotDescription description = Describe(BytesOf(content));
  EXPECT_EQ(description.complete, absl::OkStatus());
  ASSERT_EQ(description.devices.size(), 2);
  EXPECT_EQ(description.devices[0].size, content.devices[0].payload.size());
}

TEST(Snapshot, OtherLiveSectionsAndEarlyDevicesAreStrodeOver) {
  SnapshotContent content = SmallContent();
  content.live = {{"dirty-bitmap", 0, 1, std::string(40000, '~')}, {"slirp", 0, 4, ""}};
  content.early_devices = {{"virtio-mem-early", 0, 1, "plugged"}};
  for (const bool vmdesc : {true, false}) {
    content.vmdesc = vmdesc;
    const SnapshotDescription description = Describe(BytesOf(content));
    EXPECT_EQ(description.complete, absl::OkStatus());
    ASSERT_EQ(description.devices.size(), 3);
    EXPECT_EQ(description.devices[0].name, "virtio-mem-early");
    EXPECT_EQ(description.devices[0].size, 7);
  }
}

TEST(Snapshot, KnownCommandsAreStrodeOver) {
  std::string bytes = BytesOf(SmallContent());
  const SnapshotDescription before = Describe(bytes);
  // Where the first device's record begins.
  const uint64_t at = before.devices[0].offset - (1 + 4 + 1 + 5 + 4 + 4);
  bytes.insert(at, absl::StrCat("\x08", BigEndian(11, 2), BigEndian(0, 2), "\x08", BigEndian(2, 2),
                                BigEndian(4, 2), "ping"));
  const SnapshotDescription description = Describe(bytes);
  EXPECT_EQ(description.complete, absl::OkStatus());
  EXPECT_EQ(description.devices[0].offset, before.devices[0].offset + 14);
}

TEST(Snapshot, AllOfTheConfigurationIsUnderstood) {
  SnapshotContent content = SmallContent();
  content.page_bits = 10;
  content.uuid = "0123456789abcdef";
  content.capabilities = {"mapped-ram", "x-ignore-shared"};
  const SnapshotDescription description = Describe(BytesOf(content));
  EXPECT_EQ(description.complete, absl::OkStatus());
  EXPECT_THAT(description.capabilities, ElementsAre("mapped-ram", "x-ignore-shared"));
}

TEST(Snapshot, SharedBlockIsListedButNotInTheFile) {
  SnapshotContent content = SmallContent();
  content.capabilities = {"x-ignore-shared", "mapped-ram"};
  for (const size_t ignored : {0, 1}) {
    content.blocks[0].ignored = ignored == 0;
    content.blocks[1].ignored = ignored == 1;
    const TempFile temp(BytesOf(content));
    const std::unique_ptr<Snapshot> snapshot = Open(temp);
    EXPECT_FALSE(snapshot->blocks()[ignored].in_file());
    EXPECT_TRUE(snapshot->blocks()[1 - ignored].in_file());
    const PageBitmap nonzero = snapshot->TakeNonzero(ignored);
    EXPECT_EQ(nonzero.size(), snapshot->blocks()[ignored].pages());
    EXPECT_EQ(nonzero.Count(), 0);
    std::vector<uint8_t> page(1024);
    EXPECT_THAT(snapshot->ReadPages(ignored, 0, absl::MakeSpan(page)),
                StatusIs(StatusCode::kInvalidArgument, "is not in the file"));
  }
}

TEST(Snapshot, StreamMayBeginAtAnOffset) {
  SnapshotContent content = SmallContent();
  content.stream_offset = 0x5000;
  const std::string bytes = BytesOf(content);
  const SnapshotDescription description = Describe(bytes, 0x5000);
  EXPECT_EQ(description.complete, absl::OkStatus());
  EXPECT_EQ(description.stream_offset, 0x5000);
  EXPECT_GT(description.blocks[0].bitmap_offset, 0x5000);

  const TempFile temp(bytes);
  EXPECT_THAT(
      Snapshot::Describe(temp.Open()).status(),
      StatusIs(StatusCode::kInvalidArgument, ": no QEMU migration stream (\"QEVM\") at offset 0"));
  EXPECT_THAT(Snapshot::Describe(temp.Open(), bytes.size() + 1).status(),
              StatusIs(StatusCode::kInvalidArgument, " lies beyond its end at "));
}

TEST(Snapshot, EveryPageSizeFromOneToSixtyFourKibIsRead) {
  for (unsigned bits = kMinPageBits; bits <= kMaxPageBits; ++bits) {
    SnapshotContent content;
    const uint64_t page_size = uint64_t{1} << bits;
    content.pages_alignment = page_size;
    content.page_bits = bits;
    content.blocks = {{.idstr = "ram", .used_length = 65 * page_size, .page_size = page_size}};
    content.blocks[0].nonzero = {{64, 1}};
    const TempFile temp(BytesOf(content));
    const std::unique_ptr<Snapshot> snapshot = Open(temp);
    std::vector<uint8_t> page(page_size);
    std::vector<uint8_t> expected(page_size);
    FillPagePattern(64, absl::MakeSpan(expected));
    ASSERT_EQ(snapshot->ReadPages(0, 64 * page_size, absl::MakeSpan(page)), absl::OkStatus());
    EXPECT_EQ(page, expected);
  }
}

// --- libvirt's save image ---

// A save image around the stream of SmallContent(), as a host of either byte order writes it.
std::string SaveImage(bool little_endian, const std::string& magic = "LibvirtQemudSave",
                      uint32_t version = 2, uint32_t format = 6) {
  const std::string data = "<domain/>";
  SnapshotContent content = SmallContent();
  content.stream_offset = 92 + data.size();
  std::string bytes = BytesOf(content);
  std::string header = magic;
  for (const uint32_t number : {version, static_cast<uint32_t>(data.size()), 1u, format, 0u}) {
    header += BigEndian(little_endian ? __builtin_bswap32(number) : number, 4);
  }
  header.resize(92);
  Patch(bytes, 0, header + data);
  return bytes;
}

TEST(Snapshot, SparseSaveImageOfEitherByteOrderIsRead) {
  for (const bool little_endian : {true, false}) {
    const SnapshotDescription description = Describe(SaveImage(little_endian));
    EXPECT_EQ(description.complete, absl::OkStatus());
    EXPECT_EQ(description.stream_offset, 101);
  }
}

TEST(Snapshot, UnfinishedSaveImageIsIncomplete) {
  const std::string bytes = SaveImage(true, "LibvirtQemudPart");
  EXPECT_THAT(Describe(bytes).complete,
              StatusIs(StatusCode::kDataLoss, ": libvirt's save was interrupted"));
  const TempFile temp(bytes);
  EXPECT_THAT(Snapshot::Open(temp.Open()).status(),
              StatusIs(StatusCode::kDataLoss, ": libvirt's save was interrupted"));
  temp.Write(bytes.substr(0, 150));
  EXPECT_THAT(Snapshot::Describe(temp.Open()).status(),
              StatusIs(StatusCode::kDataLoss, ": libvirt's save was interrupted"));
}

TEST(Snapshot, OtherSaveImagesAreRefusedInWords) {
  const auto error = [](const std::string& bytes) {
    const TempFile temp(bytes);
    return Snapshot::Describe(temp.Open()).status();
  };
  EXPECT_THAT(error(SaveImage(true, "LibvirtQemudSave", 2, 0)),
              StatusIs(StatusCode::kInvalidArgument,
                       ": libvirt save image of format 0 (raw): only 6 (sparse) is mapped-ram"));
  EXPECT_THAT(error(SaveImage(false, "LibvirtQemudSave", 2, 5)),
              StatusIs(StatusCode::kInvalidArgument, " of format 5 (zstd)"));
  EXPECT_THAT(error(SaveImage(true, "LibvirtQemudSave", 2, 99)),
              StatusIs(StatusCode::kInvalidArgument, " of format 99 (unknown)"));
  EXPECT_THAT(error(SaveImage(true, "LibvirtQemudSave", 3)),
              StatusIs(StatusCode::kInvalidArgument, ": libvirt save image of version 3, not 2"));
  EXPECT_THAT(error(SaveImage(true).substr(0, 101)),
              StatusIs(StatusCode::kDataLoss,
                       ": libvirt save image ends at offset 101, before its "
                       "stream at offset 101"));
  EXPECT_THAT(error(SaveImage(true).substr(0, 30)), StatusIs(StatusCode::kDataLoss, ": ends at"));
}

// --- Files that change, and large ones ---

TEST(Snapshot, TruncationAfterOpeningIsDataLossForEverAfter) {
  const std::string bytes = BytesOf(SmallContent());
  const TempFile temp(bytes);
  const std::unique_ptr<Snapshot> snapshot = Open(temp);
  std::vector<uint8_t> page(1024);
  ASSERT_EQ(truncate(temp.path().c_str(), 3000), 0);
  EXPECT_THAT(snapshot->ReadPages(0, uint64_t{99} * 1024, absl::MakeSpan(page)),
              StatusIs(StatusCode::kDataLoss, "(block \"ram\", page 99 at offset 102400)"));
  // Present still, but not to be trusted any more.
  EXPECT_THAT(snapshot->ReadPages(0, 0, absl::MakeSpan(page)),
              StatusIs(StatusCode::kDataLoss, ": changed since it was opened: its size was"));
}

TEST(Snapshot, ChangeThatIsTakenBackIsNotForgotten) {
  const TempFile temp(BytesOf(SmallContent()));
  const std::unique_ptr<Snapshot> snapshot = Open(temp);
  struct stat info;
  ASSERT_EQ(fstat(snapshot->file().fd(), &info), 0);
  std::vector<uint8_t> page(1024);
  ASSERT_EQ(truncate(temp.path().c_str(), info.st_size + 1), 0);
  EXPECT_FALSE(snapshot->ReadPages(0, 1024, absl::MakeSpan(page)).ok());
  ASSERT_EQ(truncate(temp.path().c_str(), info.st_size), 0);
  const timespec times[] = {info.st_atim, info.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, temp.path().c_str(), times, 0), 0);
  EXPECT_THAT(snapshot->ReadPages(0, 1024, absl::MakeSpan(page)),
              StatusIs(StatusCode::kDataLoss, "it was written to (block \"ram\""));
}

TEST(Snapshot, UnlinkedFileStaysReadable) {
  const TempFile temp(BytesOf(SmallContent()));
  const std::unique_ptr<Snapshot> snapshot = Open(temp);
  unlink(temp.path().c_str());
  std::vector<uint8_t> page(1024);
  EXPECT_EQ(snapshot->ReadPages(0, 1024, absl::MakeSpan(page)), absl::OkStatus());
}

// Its bitmap is 32 MiB; nothing else may cost more than a little.
TEST(Snapshot, SparseTebibyteCostsNoMoreThanItsBitmap) {
  SnapshotContent content;
  constexpr uint64_t kPages = uint64_t{1} << 28;
  content.blocks = {{.idstr = "pc.ram", .used_length = kPages << 12, .page_size = 4096}};
  content.blocks[0].nonzero = {{5, 1}, {kPages - 1, 1}};
  const TempFile temp;
  const absl::Status written = WriteSnapshot(content, temp.path());
  if (!written.ok()) GTEST_SKIP() << "no file of 1 TiB here: " << written;
  const auto peak_kib = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const int64_t before_kib = peak_kib();
  const std::unique_ptr<Snapshot> snapshot = Open(temp);
  EXPECT_LT(peak_kib() - before_kib, (32 + 8) << 10);
  EXPECT_EQ(snapshot->blocks()[0].nonzero_pages, 2);
  std::vector<uint8_t> page(4096);
  std::vector<uint8_t> expected(4096);
  FillPagePattern(kPages - 1, absl::MakeSpan(expected));
  ASSERT_EQ(snapshot->ReadPages(0, (kPages - 1) * 4096, absl::MakeSpan(page)), absl::OkStatus());
  EXPECT_EQ(page, expected);
}

}  // namespace
}  // namespace ramjet
