// `ramjet convert` between the forms of other VMMs and mapped-ram: there and back to the same
// bytes, and nothing left of what does not come to its end. Its word with a real QEMU is
// qemu_convert_test.
#include "tools/convert.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/checksums.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "tests/firecracker_files.h"
#include "tests/snapshot_content.h"
#include "tools/guest_image.h"

namespace ramjet {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kPage = 4096;

// A raw image by pages: absent is a hole, '\0' zeros that are written.
class ImageFile {
 public:
  ImageFile(std::string path, uint64_t pages) : path_(std::move(path)), bytes_(pages * kPage, 0) {
    std::ofstream(path_).flush();
    std::filesystem::resize_file(path_, bytes_.size());
  }

  // Pages [first, first + count) are full of `fill`, or random for '?'.
  ImageFile& Put(uint64_t first, uint64_t count, char fill) {
    static std::mt19937 random(20250601);
    std::string content(count * kPage, fill);
    if (fill == '?') {
      for (char& byte : content) byte = static_cast<char>(random());
    }
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(first * kPage)) << content;
    bytes_.replace(first * kPage, content.size(), content);
    return *this;
  }

  const std::string& path() const { return path_; }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string path_;
  std::string bytes_;
};

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream all;
  all << file.rdbuf();
  return all.str();
}

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

uint64_t AllocatedBytes(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return 512 * static_cast<uint64_t>(status.st_blocks);
}

class Convert : public testing::Test {
 protected:
  Convert() {
    directory_ = testing::TempDir() + "/convert.XXXXXX";
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
  }
  ~Convert() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  std::set<std::string> Names() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      names.insert(entry.path().filename());
    }
    return names;
  }

  struct Result {
    int exit_status = 0;
    std::string out;
    std::string err;
  };

  static Result Run(const ConvertOptions& options) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    Result result;
    result.exit_status = RunConvert(options);
    result.out = testing::internal::GetCapturedStdout();
    result.err = testing::internal::GetCapturedStderr();
    return result;
  }

  // As Run(), which must succeed. Returns what was said on stderr.
  static std::string Must(const ConvertOptions& options) {
    const Result result = Run(options);
    EXPECT_EQ(result.exit_status, 0) << result.err;
    return result.err;
  }

  // One line on stderr with `words` in it, and the directory is as it was.
  void ExpectRefusal(const ConvertOptions& options, const std::string& words,
                     int exit_status = 1) const {
    SCOPED_TRACE(words);
    const std::set<std::string> before = Names();
    const Result result = Run(options);
    EXPECT_EQ(result.exit_status, exit_status);
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_EQ(Names(), before);
  }

  static GuestImageOptions From(ImageFormat format, const std::string& path) {
    GuestImageOptions in;
    in.path = path;
    in.format = format;
    return in;
  }

  static std::shared_ptr<const Snapshot> Open(const std::string& path) {
    absl::StatusOr<std::shared_ptr<const Snapshot>> snapshot = OpenSnapshot(path);
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    return snapshot.value_or(nullptr);
  }

  // A directory as Cloud Hypervisor leaves it: two ranges, the higher one first.
  std::string MakeCloudHypervisorSnapshot(uint64_t high_pages = 32, uint64_t low_pages = 16) const {
    std::string directory = Path("ch");
    std::filesystem::create_directory(directory);
    Write(directory + "/config.json", R"({"cpus":{"boot_vcpus":1}})");
    Write(directory + "/state.json",
          absl::StrCat(R"({"snapshots":{"cpu-manager":{"snapshots":{},"snapshot_data":null},)",
                       R"("memory-manager":{"snapshots":{},"snapshot_data":{"state":")",
                       R"({\"memory_ranges\":{\"data\":[{\"gpa\":4294967296,\"length\":)",
                       high_pages * kPage, R"(},{\"gpa\":0,\"length\":)", low_pages * kPage,
                       R"(}]},\"boot_ram\":)", (high_pages + low_pages) * kPage, R"(}"}}}})"));
    ImageFile memory(directory + "/memory-ranges", high_pages + low_pages);
    memory.Put(0, 3, '?').Put(30, 7, '?').Put(40, 2, '\0');
    return directory;
  }

  std::string directory_;
};

TEST_F(Convert, FirecrackersFilesComeBackByteForByte) {
  ImageFile memory(Path("vm.mem"), 1024);
  memory.Put(0, 10, '?').Put(10, 5, '\0').Put(700, 300, '?');
  Write(Path("vm.state"), MakeFirecrackerState(FirecrackerForm::k1_15, 4));
  ConvertOptions there = {.in = From(ImageFormat::kFirecracker, memory.path()),
                          .out = Path("vm.mr")};
  there.in.vmstate = Path("vm.state");
  there.in.full = true;
  EXPECT_THAT(Must(there), IsEmpty());

  const auto snapshot = Open(Path("vm.mr"));
  ASSERT_NE(snapshot, nullptr);
  ASSERT_EQ(snapshot->blocks().size(), 1u);
  EXPECT_EQ(snapshot->blocks()[0].idstr, "ram");
  EXPECT_EQ(snapshot->blocks()[0].nonzero_pages, 310u);

  ConvertOptions back = {.in = {.path = Path("vm.mr"), .vmstate = Path("back.state")},
                         .out = Path("back.mem"),
                         .to = ImageFormat::kFirecracker};
  EXPECT_THAT(Must(back), IsEmpty());
  EXPECT_EQ(Content(Path("back.mem")), memory.bytes());
  EXPECT_EQ(Content(Path("back.state")), Content(Path("vm.state")));
  EXPECT_LT(AllocatedBytes(Path("back.mem")), 320 * kPage);
}

TEST_F(Convert, HoleOfADiffIsWhatItsBasesHaveThere) {
  ImageFile base(Path("base"), 512);
  base.Put(0, 300, '?');
  ImageFile older(Path("older"), 512);
  older.Put(10, 20, '?').Put(40, 10, '\0').Put(310, 5, '?');
  ImageFile newer(Path("newer"), 512);
  newer.Put(15, 1, '?').Put(45, 10, '?').Put(311, 1, '\0');
  std::string merged = base.bytes();
  const auto overlay = [&](const ImageFile& layer, uint64_t first, uint64_t count) {
    merged.replace(first * kPage, count * kPage, layer.bytes(), first * kPage, count * kPage);
  };
  overlay(older, 10, 20), overlay(older, 40, 10), overlay(older, 310, 5);
  overlay(newer, 15, 1), overlay(newer, 45, 10), overlay(newer, 311, 1);

  ConvertOptions there = {.in = From(ImageFormat::kFirecracker, newer.path()),
                          .out = Path("vm.mr")};
  there.in.bases = {older.path(), base.path()};
  there.in.full = true;
  Must(there);
  Must({.in = {.path = Path("vm.mr")}, .out = Path("full"), .to = ImageFormat::kRaw});
  EXPECT_TRUE(Content(Path("full")) == merged);

  // Back to a diff, which has no more than what differs, and is the same over its base.
  ConvertOptions back = {
      .in = {.path = Path("vm.mr")}, .out = Path("diff"), .to = ImageFormat::kFirecracker};
  back.in.bases = {base.path()};
  back.in.full = true;
  Must(back);
  EXPECT_LE(AllocatedBytes(Path("diff")), 50 * kPage);
  ConvertOptions again = {.in = From(ImageFormat::kFirecracker, Path("diff")),
                          .out = Path("again"),
                          .to = ImageFormat::kRaw};
  again.in.bases = {base.path()};
  again.in.full = true;
  Must(again);
  EXPECT_TRUE(Content(Path("again")) == merged);
}

TEST_F(Convert, WhatCannotBeADiffIsRefused) {
  const ImageFile base(Path("base"), 16);
  ImageFile full(Path("full"), 16);
  full.Put(0, 16, '?');
  const ImageFile other(Path("other"), 17);
  ConvertOptions options = {.in = From(ImageFormat::kFirecracker, full.path()), .out = Path("out")};
  options.in.bases = {base.path()};
  ExpectRefusal(options, "full: is said to be a diff, but has no holes");
  options.in.path = other.path();
  ExpectRefusal(options, "base: has 65536 bytes, but");
}

// A diff whose base was forgotten, or whose predecessor in a chain was, became a snapshot with
// zeros for all that it left out.
TEST_F(Convert, HolesThatNobodyVouchesForAreRefused) {
  ImageFile dense(Path("dense"), 1024);
  dense.Put(0, 1024, '?');
  ImageFile diff(Path("diff"), 1024);
  diff.Put(10, 20, '?').Put(800, 3, '\0');
  ImageFile newer(Path("newer"), 1024);
  newer.Put(10, 5, '?').Put(900, 5, '?');
  ConvertOptions options = {.in = From(ImageFormat::kFirecracker, diff.path()),
                            .out = Path("vm.mr")};
  const std::string advice =
      ": if it is a diff, --base names the snapshot before it; if it is a full one, --full says "
      "that they are zeros";
  ExpectRefusal(options, "diff: has holes, 3.9 MiB of 4.0 MiB" + advice);
  options.in.path = newer.path();
  options.in.bases = {diff.path()};
  ExpectRefusal(options, "diff: has holes, 3.9 MiB of 4.0 MiB" + advice);
  options.in.bases = {diff.path(), dense.path()};
  EXPECT_THAT(Must(options), HasSubstr("note: left out: Firecracker's state file"));

  // To a diff, over what only looks like a base.
  ConvertOptions back = {
      .in = {.path = Path("vm.mr")}, .out = Path("out"), .to = ImageFormat::kFirecracker};
  back.in.bases = {diff.path()};
  ExpectRefusal(back, "diff: has holes, 3.9 MiB of 4.0 MiB" + advice);
  back.in.bases = {dense.path()};
  Must(back);
  back.in.bases = {};
  back.in.full = true;
  ExpectRefusal(back, "--full is for Firecracker's files, as IN or --base", 2);
}

TEST_F(Convert, WhatCanBeToldOfHolesIsSaid) {
  ImageFile memory(Path("memory"), 1024);
  memory.Put(0, 512, '?');
  ConvertOptions options = {.in = From(ImageFormat::kFirecracker, memory.path()),
                            .out = Path("vm.mr")};
  options.in.vmstate = Path("state");
  Write(Path("state"), MakeFirecrackerState(FirecrackerForm::k1_15, 4));
  ExpectRefusal(options, "(its guest has no memory to unplug, so it is a diff or a sparse copy)");
  // 2 MiB more were hotplugged.
  Write(Path("state"), MakeFirecrackerState(FirecrackerForm::k1_15, 2));
  ExpectRefusal(options, "(all are at its end, as in a full snapshot with unplugged memory)");
  options.in.full = true;
  EXPECT_THAT(Must(options), IsEmpty());
}

// Any file was taken for the state, and carried along.
TEST_F(Convert, StateThatIsNoneIsRefused) {
  ImageFile memory(Path("memory"), 1024);
  memory.Put(0, 1024, '?');
  const std::string state = MakeFirecrackerState(FirecrackerForm::k1_15, 4);
  ConvertOptions options = {.in = From(ImageFormat::kFirecracker, memory.path()),
                            .out = Path("vm.mr")};
  options.in.vmstate = memory.path();
  ExpectRefusal(options, "memory: is no state file of Firecracker");
  options.in.vmstate = Path("state");
  Write(Path("state"), state.substr(0, state.size() - 1));
  ExpectRefusal(options, "state: is a state file of Firecracker, but damaged or incomplete");
  // Of other memory: too much; or too little, before there was memory that can be unplugged.
  Write(Path("state"), MakeFirecrackerState(FirecrackerForm::k1_15, 5));
  ExpectRefusal(options, "memory: has 4194304 bytes, but the guest of " + Path("state") +
                             " has 5242880: they are not of one snapshot");
  Write(Path("state"), MakeFirecrackerState(FirecrackerForm::k0_23, 2));
  ExpectRefusal(options, "has 2097152: they are not of one snapshot");
  Write(Path("state"), state);
  EXPECT_THAT(Must(options), IsEmpty());

  // Of a snapshot in which it was damaged, and of half of the memory.
  ConvertOptions back = {.in = {.path = Path("vm.mr"), .vmstate = Path("back.state")},
                         .out = Path("back.mem"),
                         .to = ImageFormat::kFirecracker};
  EXPECT_THAT(Must(back), IsEmpty());
  EXPECT_EQ(Content(Path("back.state")), state);
  std::string damaged = Content(Path("vm.mr"));
  damaged[damaged.find(state) + 40] ^= 1;
  Write(Path("vm.mr"), damaged);
  back.in.vmstate = Path("again.state");
  back.out = Path("again.mem");
  ExpectRefusal(back, "the state in " + Path("vm.mr") + ": is a state file of Firecracker, but");
}

// A state that Firecracker wrote.
TEST_F(Convert, RealStateComesBackByteForByte) {
  const ImageFile memory(Path("memory"), 32768);
  ConvertOptions there = {.in = From(ImageFormat::kFirecracker, memory.path()),
                          .out = Path("vm.mr")};
  there.in.vmstate = "tests/corpus/firecracker.state";
  there.in.full = true;
  Must(there);
  Must({.in = {.path = Path("vm.mr"), .vmstate = Path("state")},
        .out = Path("back"),
        .to = ImageFormat::kFirecracker});
  EXPECT_TRUE(Content(Path("state")) == Content("tests/corpus/firecracker.state"));
}

// OUT may replace a file, but none that this conversion reads, or writes.
TEST_F(Convert, NoInputIsReplaced) {
  ImageFile memory(Path("memory"), 1024);
  memory.Put(0, 1024, '?');
  ImageFile diff(Path("diff"), 1024);
  diff.Put(10, 20, '?');
  Write(Path("state"), MakeFirecrackerState(FirecrackerForm::k1_15, 4));
  std::filesystem::create_hard_link(memory.path(), Path("hard"));
  std::filesystem::create_symlink("memory", Path("soft"));
  std::filesystem::create_symlink(".", Path("directory"));
  ConvertOptions options = {.in = From(ImageFormat::kFirecracker, diff.path())};
  options.in.bases = {memory.path()};
  options.in.vmstate = Path("state");
  for (const char* const out : {"diff", "directory/diff", "memory", "hard", "soft", "state"}) {
    options.out = Path(out);
    const std::string read = std::string(out).find("diff") != std::string::npos ? "IN "
                             : std::string(out) == "state"                      ? "--vmstate "
                                                                                : "--base ";
    ExpectRefusal(options, "OUT " + Path(out) + " would replace " + read, 2);
  }
  options.out = Path("vm.mr");
  options.checksums = Path("hard");
  ExpectRefusal(options, "--checksums " + Path("hard") + " would replace --base ", 2);
  options.checksums = Path("directory/vm.mr");
  ExpectRefusal(options, "would replace OUT ", 2);
  options.checksums = Path("state");
  ExpectRefusal(options, "would replace --vmstate ", 2);
  options.checksums = {};
  Must(options);

  options.in = From(ImageFormat::kRaw, memory.path());
  options.like = options.out;
  ExpectRefusal(options, "OUT " + Path("vm.mr") + " would replace --like ", 2);
  ConvertOptions back = {
      .in = {.path = Path("vm.mr")}, .out = Path("vm.mr"), .to = ImageFormat::kFirecracker};
  ExpectRefusal(back, "would replace IN ", 2);
  back.out = Path("back");
  for (const char* const state : {"vm.mr", "back", "directory/back"}) {
    back.in.vmstate = Path(state);
    ExpectRefusal(back, "--vmstate " + Path(state) + " would replace ", 2);
  }
  back.in.vmstate = {};
  back.in.bases = {memory.path()};
  back.out = Path("hard");
  ExpectRefusal(back, "OUT " + Path("hard") + " would replace --base ", 2);

  const std::string directory = MakeCloudHypervisorSnapshot();
  for (const char* const name : {"", "/", "/memory-ranges", "/state.json", "/config.json"}) {
    ExpectRefusal({.in = {.path = directory}, .out = directory + name}, " would replace IN", 2);
  }
}

TEST_F(Convert, CloudHypervisorsDirectoryComesBackByteForByte) {
  const std::string directory = MakeCloudHypervisorSnapshot();
  EXPECT_THAT(Must({.in = {.path = directory}, .out = Path("vm.mr")}), IsEmpty());
  const auto snapshot = Open(Path("vm.mr"));
  ASSERT_NE(snapshot, nullptr);
  ASSERT_EQ(snapshot->blocks().size(), 2u);
  EXPECT_EQ(snapshot->blocks()[0].idstr, "ram@0x100000000");
  EXPECT_EQ(snapshot->blocks()[0].nonzero_pages, 5u);  // 0..2, and 30, 31
  EXPECT_EQ(snapshot->blocks()[1].idstr, "ram@0");
  EXPECT_EQ(snapshot->blocks()[1].nonzero_pages, 5u);

  const ConvertOptions back = {
      .in = {.path = Path("vm.mr")}, .out = Path("back"), .to = ImageFormat::kCloudHypervisor};
  EXPECT_THAT(Must(back), IsEmpty());
  for (const char* name : {"/config.json", "/state.json", "/memory-ranges"}) {
    EXPECT_EQ(Content(Path("back") + name), Content(directory + name)) << name;
  }
  ExpectRefusal(back, "back: is there already");
}

TEST_F(Convert, DamagedCloudHypervisorDirectoryIsRefused) {
  const std::string directory = MakeCloudHypervisorSnapshot();
  std::filesystem::resize_file(directory + "/memory-ranges", 47 * kPage);
  const ConvertOptions options = {.in = {.path = directory}, .out = Path("vm.mr")};
  ExpectRefusal(options, "has 192512 bytes, but the ranges in state.json have 196608");
  Write(directory + "/state.json", "{}");
  ExpectRefusal(options, "state.json: no state of Cloud Hypervisor");
  Write(directory + "/config.json", "{\"cpus\":");
  ExpectRefusal(options, "config.json: no configuration of Cloud Hypervisor");
  std::filesystem::remove(directory + "/config.json");
  ExpectRefusal(options, "config.json");
}

TEST_F(Convert, RawImageHasItsBlocksInTheOrderTold) {
  ImageFile image(Path("image"), 64);
  image.Put(0, 1, '?').Put(20, 30, '?');
  EXPECT_THAT(Run({.in = {.path = image.path()}, .out = Path("vm.mr")}).err,
              HasSubstr("of Firecracker: ramjet convert --from firecracker"));
  ConvertOptions there = {.in = From(ImageFormat::kRaw, image.path()), .out = Path("vm.mr")};
  there.in.blocks = {"low:98304", "high"};
  Must(there);
  Must({.in = {.path = Path("vm.mr")}, .out = Path("back"), .to = ImageFormat::kRaw});
  EXPECT_TRUE(Content(Path("back")) == image.bytes());

  ConvertOptions high = {
      .in = {.path = Path("vm.mr")}, .out = Path("high"), .to = ImageFormat::kRaw};
  high.in.blocks = {"high"};
  Must(high);
  EXPECT_TRUE(Content(Path("high")) == image.bytes().substr(98304));

  there.in.blocks = {"low:98305", "high"};
  ExpectRefusal(there, "block \"low:98305\" of 98305 bytes");
  there.in.blocks = {"low:98304"};
  ExpectRefusal(there, "bytes more than its blocks");
}

class ConvertSnapshot : public Convert {
 protected:
  // Of which pages 8..15 of "ram" are zero, and yet in the file.
  void WriteSource() {
    SnapshotContent content;
    content.machine = "machine";
    content.blocks = {
        {.idstr = "ram",
         .used_length = 64 * kPage,
         .page_size = kPage,
         .nonzero = {{4, 16}},
         .fill =
             [](uint64_t page, absl::Span<uint8_t> bytes) {
               FillPagePattern(page, bytes);
               if (page >= 8 && page < 16) {
                 std::fill(bytes.begin(), bytes.end(), uint8_t{0});
               }
             }},
        {.idstr = "rom", .used_length = 3 * kPage, .page_size = kPage, .nonzero = {{1, 1}}}};
    content.devices = {{.name = "timer", .instance_id = 3, .version_id = 2, .payload = "ticks"}};
    const absl::Status written = WriteSnapshot(content, Path("source.mr"));
    ASSERT_TRUE(written.ok()) << written;
  }

  std::string Raw(const std::string& name) const {
    Must({.in = {.path = Path(name), .blocks = {"ram", "rom"}},
          .out = Path(name + ".raw"),
          .to = ImageFormat::kRaw});
    return Content(Path(name + ".raw"));
  }
};

TEST_F(ConvertSnapshot, ZerosBecomeHolesAndBlocksChangeTheirOrder) {
  ASSERT_NO_FATAL_FAILURE(WriteSource());
  ConvertOptions options = {.in = {.path = Path("source.mr")}, .out = Path("out.mr")};
  options.in.blocks = {"rom"};
  EXPECT_THAT(Must(options), IsEmpty());
  const auto snapshot = Open(Path("out.mr"));
  ASSERT_NE(snapshot, nullptr);
  const SnapshotDescription& description = snapshot->description();
  EXPECT_EQ(description.machine, "machine");
  EXPECT_EQ(description.blocks[0].idstr, "rom");
  EXPECT_EQ(description.blocks[1].idstr, "ram");
  EXPECT_EQ(description.blocks[1].nonzero_pages, 8u);
  ASSERT_EQ(description.devices.size(), 1u);
  EXPECT_EQ(description.devices[0].instance_id, 3u);
  EXPECT_EQ(ReadSection(*snapshot, "timer").value_or(""), "ticks");
  EXPECT_TRUE(Raw("out.mr") == Raw("source.mr"));

  options.in.blocks = {"none"};
  ExpectRefusal(options, "there is no block \"none\"");
  options.in.blocks = {};
  options.out = options.in.path;
  ExpectRefusal(options, "would replace IN ", 2);
}

TEST_F(ConvertSnapshot, MemoryIsReplacedAndAllElseStays) {
  ASSERT_NO_FATAL_FAILURE(WriteSource());
  ImageFile image(Path("image"), 64);
  image.Put(60, 4, '?');
  ConvertOptions options = {.in = From(ImageFormat::kRaw, image.path()),
                            .out = Path("new.mr"),
                            .like = Path("source.mr")};
  Must(options);
  const auto snapshot = Open(Path("new.mr"));
  ASSERT_NE(snapshot, nullptr);
  EXPECT_EQ(ReadSection(*snapshot, "timer").value_or(""), "ticks");
  EXPECT_TRUE(Raw("new.mr") == image.bytes() + Raw("source.mr").substr(64 * kPage));
  options.in.blocks = {"other"};
  ExpectRefusal(options, "not all of its blocks (other) are in");
  const ImageFile odd(Path("odd"), 5);
  options.in = From(ImageFormat::kRaw, odd.path());
  ExpectRefusal(options, "has not just one block of 20480 bytes");
}

TEST_F(ConvertSnapshot, LibvirtsHeaderGoesAlongOrIsNamed) {
  ASSERT_NO_FATAL_FAILURE(WriteSource());
  // Of version 2 and format 6, with 8 bytes behind it; little-endian.
  std::string header = "LibvirtQemudSave";
  for (const char* number : {"\2", "\x08", "\1", "\6", ""}) {
    header += std::string(number);
    header.resize(header.size() + 4 - std::string(number).size());
  }
  header.resize(92);
  header += "<domain>";
  SnapshotContent content;
  content.blocks = {{.idstr = "ram", .used_length = kPage, .page_size = kPage}};
  content.stream_offset = header.size();
  ASSERT_TRUE(WriteSnapshot(content, Path("vm.save")).ok());
  std::fstream(Path("vm.save"), std::ios::in | std::ios::out | std::ios::binary) << header;

  ConvertOptions options = {
      .in = {.path = Path("vm.save")}, .out = Path("out.save"), .to = ImageFormat::kLibvirt};
  EXPECT_THAT(Must(options), IsEmpty());
  EXPECT_EQ(Content(Path("out.save")).substr(0, header.size()), header);
  const auto snapshot = Open(Path("out.save"));
  ASSERT_NE(snapshot, nullptr);
  EXPECT_EQ(snapshot->description().stream_offset, header.size());

  options.to = ImageFormat::kMappedRam;
  EXPECT_THAT(Must(options), HasSubstr("left out: libvirt's header"));
  options.to = ImageFormat::kLibvirt;
  options.in.path = Path("source.mr");
  ExpectRefusal(options, "has no header of libvirt's");
}

TEST_F(ConvertSnapshot, DeviceStateWithoutAPlaceIsNamed) {
  ASSERT_NO_FATAL_FAILURE(WriteSource());
  EXPECT_EQ(Must({.in = {.path = Path("source.mr")}, .out = Path("raw"), .to = ImageFormat::kRaw}),
            "ramjet: note: left out: the device state, of 1 sections\n");
  ExpectRefusal(
      {.in = {.path = Path("source.mr")}, .out = Path("ch"), .to = ImageFormat::kCloudHypervisor},
      "has no section \"cloud-hypervisor/state.json\"");
}

TEST_F(ConvertSnapshot, ChecksumsAreThoseOfTheFileOrThereIsNeither) {
  ASSERT_NO_FATAL_FAILURE(WriteSource());
  ConvertOptions options = {
      .in = {.path = Path("source.mr")}, .out = Path("out.mr"), .checksums = Path("none/out.crc")};
  ExpectRefusal(options, "none/out.crc: cannot be created");
  options.checksums = Path("out.crc");
  options.json = true;
  const Result result = Run(options);
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("\"checksums\":\"" + Path("out.crc") + "\""));
  const absl::StatusOr<Checksums> sums = ReadChecksums(Path("out.crc"));
  ASSERT_TRUE(sums.ok()) << sums.status();
  EXPECT_EQ(*sums, *ComputeChecksums(*Open(Path("out.mr"))));

  options.to = ImageFormat::kRaw;
  const Result usage = Run(options);
  EXPECT_EQ(usage.exit_status, 2);
  EXPECT_THAT(usage.err, HasSubstr("--checksums is for mapped-ram and libvirt"));
}

// What goes wrong while it is written: a limit on the size of files stands for a full disk.
TEST_F(ConvertSnapshot, FullDiskLeavesNothing) {
  ASSERT_NO_FATAL_FAILURE(WriteSource());
  const std::string directory = MakeCloudHypervisorSnapshot();
  Must({.in = {.path = directory}, .out = Path("ch.mr")});
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {20000, before.rlim_max};
  signal(SIGXFSZ, SIG_IGN);  // of ftruncate()
  for (const ImageFormat to : {ImageFormat::kMappedRam, ImageFormat::kRaw,
                               ImageFormat::kFirecracker, ImageFormat::kCloudHypervisor}) {
    SCOPED_TRACE(NameOf(to));
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    ConvertOptions options = {.in = {.path = Path("ch.mr")}, .out = Path("out"), .to = to};
    if (to == ImageFormat::kMappedRam) options.checksums = Path("out.crc");
    ExpectRefusal(options, "File too large");
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  }
  signal(SIGXFSZ, SIG_DFL);
}

// A file of sysfs says that it has a page, and gives less: a read that fails in the middle.
TEST_F(Convert, FailingReadLeavesNothing) {
  const std::string path = "/sys/kernel/mm/transparent_hugepage/enabled";
  std::error_code error;
  if (std::filesystem::file_size(path, error) != kPage) GTEST_SKIP() << "there is no " << path;
  for (const ImageFormat to : {ImageFormat::kMappedRam, ImageFormat::kRaw}) {
    ExpectRefusal({.in = From(ImageFormat::kRaw, path), .out = Path("out"), .to = to}, path);
  }
}

TEST_F(Convert, CtrlCLeavesNothing) {
  ImageFile image(Path("image"), 64);
  image.Put(0, 64, '?');
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &interrupt, &before);
  kill(getpid(), SIGINT);
  for (const ImageFormat to : {ImageFormat::kMappedRam, ImageFormat::kRaw}) {
    ConvertOptions options = {
        .in = From(ImageFormat::kRaw, image.path()), .out = Path("out"), .to = to};
    if (to == ImageFormat::kMappedRam) options.checksums = Path("out.crc");
    ExpectRefusal(options, "out: its writing was cancelled");
  }
  int received = 0;
  EXPECT_EQ(sigwait(&interrupt, &received), 0);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Killed at any moment, by a timer: what then has a name is whole.
class KilledConvert : public Convert, public testing::WithParamInterface<ImageFormat> {
 protected:
  static constexpr int kKills = 200;
  static constexpr uint64_t kPages = 2048;

  KilledConvert() {
    const std::string directory = MakeCloudHypervisorSnapshot(kPages / 2, kPages / 2);
    memory_ = ImageFile(directory + "/memory-ranges", kPages).Put(0, kPages, '?').bytes();
    Write(Path("vm.state"), MakeFirecrackerState(FirecrackerForm::k1_15, kPages * kPage >> 20));
    ConvertOptions options = {.in = {.path = directory}, .out = Path("vm.mr")};
    if (GetParam() == ImageFormat::kFirecracker) {
      options.in = From(GetParam(), directory + "/memory-ranges");
      options.in.vmstate = Path("vm.state");
    }
    Must(options);
  }

  // Into a directory of its own. Returns how the process that did it has ended, and in *took_us_
  // how long it took for that, if it was not killed: to end takes a process under a sanitizer as
  // long again, and who is killed then has converted everything.
  int ConvertAndKillAfter(int64_t us) {
    std::filesystem::remove_all(Path("target"));
    std::filesystem::create_directory(Path("target"));
    const absl::Time begun = absl::Now();
    const pid_t child = fork();
    if (child == 0) {
      const itimerval timer = {{0, 0}, {us / 1000000, us % 1000000}};
      setitimer(ITIMER_REAL, &timer, nullptr);
      const int null = open("/dev/null", O_WRONLY);
      dup2(null, STDOUT_FILENO);
      dup2(null, STDERR_FILENO);
      ConvertOptions options = {
          .in = {.path = Path("vm.mr")}, .out = Path("target/out"), .to = GetParam()};
      if (GetParam() == ImageFormat::kMappedRam) options.checksums = Path("target/out.crc");
      if (GetParam() == ImageFormat::kFirecracker) options.in.vmstate = Path("target/out.state");
      const int converted = RunConvert(options);
      *took_us_ = absl::ToDoubleMicroseconds(absl::Now() - begun);
      _exit(converted);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status;
  }

  void ExpectWholeSnapshot(const std::string& path) const {
    const auto snapshot = Open(path);
    ASSERT_NE(snapshot, nullptr);
    std::string bytes;
    for (size_t i = 0; i < snapshot->blocks().size(); ++i) {
      std::vector<uint8_t> block(snapshot->blocks()[i].used_length);
      ASSERT_TRUE(SnapshotSource(*snapshot, i).Read(0, absl::MakeSpan(block)).ok());
      bytes.append(block.begin(), block.end());
    }
    EXPECT_TRUE(bytes == memory_);
    if (!std::filesystem::exists(Path("target/out.crc"))) return;
    const absl::Status bound = BoundChecksums::Read(Path("target/out.crc"), *snapshot).status();
    EXPECT_TRUE(bound.ok()) << bound;
  }

  // Under whatever name, also such as a file has for a moment before its own.
  void ExpectNoLie() const {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(Path("target"))) {
      const std::string path = entry.path();
      const std::string name = entry.path().filename();
      SCOPED_TRACE(path);
      if (entry.is_directory()) continue;
      if (name.find(".crc") != std::string::npos) {
        EXPECT_TRUE(ReadChecksums(path).ok());
      } else if (const size_t end = name.find(".json"); end != std::string::npos) {
        EXPECT_EQ(Content(path), Content(Path("ch/") + name.substr(0, end) + ".json"));
      } else if (name.find(".state") != std::string::npos) {
        EXPECT_EQ(Content(path), Content(Path("vm.state")));
      } else if (GetParam() == ImageFormat::kMappedRam) {
        ExpectWholeSnapshot(path);
      } else {
        EXPECT_TRUE(Content(path) == memory_);
      }
    }
    const std::string out = Path("target/out");
    if (GetParam() == ImageFormat::kCloudHypervisor && std::filesystem::exists(out)) {
      for (const char* name : {"/config.json", "/state.json", "/memory-ranges"}) {
        EXPECT_TRUE(std::filesystem::exists(out + name)) << name;
      }
    }
    for (const char* const beside : {".crc", ".state"}) {
      EXPECT_TRUE(std::filesystem::exists(out) || !std::filesystem::exists(out + beside));
    }
  }

  std::string memory_;
  double* const took_us_ =  // which a child writes to
      static_cast<double*>(
          mmap(nullptr, sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
};

TEST_P(KilledConvert, LeavesNothingThatLacksAnything) {
  // How long it takes at best: were that too long, the later kills would all come at the very end.
  double whole_us = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(ConvertAndKillAfter(0), 0);  // 0: never
    whole_us = std::min(whole_us, *took_us_);
  }
  ExpectNoLie();
  EXPECT_TRUE(std::filesystem::exists(Path("target/out")));
  std::mt19937 random(7);
  std::uniform_real_distribution<double> part(0, 1);
  int without = 0;
  for (int killed = 0; killed < kKills && !HasFailure();) {
    const double at = (killed + part(random)) / kKills;  // all of the time has its share
    SCOPED_TRACE(at);
    if (!WIFSIGNALED(ConvertAndKillAfter(1 + static_cast<int64_t>(at * whole_us)))) {
      EXPECT_TRUE(std::filesystem::exists(Path("target/out")));
      whole_us = std::min(0.99 * whole_us, *took_us_);  // it ended before
    } else {
      ++killed;
      without += std::filesystem::exists(Path("target/out")) ? 0 : 1;
    }
    ExpectNoLie();
  }
  EXPECT_GT(without, kKills / 2);
}

INSTANTIATE_TEST_SUITE_P(Formats, KilledConvert,
                         testing::Values(ImageFormat::kMappedRam, ImageFormat::kRaw,
                                         ImageFormat::kFirecracker, ImageFormat::kCloudHypervisor),
                         [](const auto& test) {
                           std::string name(NameOf(test.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace ramjet
