// The commands verify, checksum and diff, on files made for the purpose.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/snapshot.h"
#include "nlohmann/json.hpp"
#include "tests/mappedram_testing.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

struct Result {
  int status = -1;
  std::string out;
  std::string err;
};

Result Ramjet(const std::string& args) {
  const TempFile err;
  Result result;
  FILE* const pipe = popen(absl::StrCat("tools/ramjet ", args, " 2>", err.path()).c_str(), "r");
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
    result.out.append(buffer, got);
  }
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  result.err = err.Read();
  return result;
}

// Changes a byte of a page of block "ram".
void Damage(const TempFile& file, uint64_t page) {
  std::string bytes = file.Read();
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(file.Open());
  bytes[description->blocks[0].pages_offset + page * 1024] ^= 1;
  file.Write(bytes);
}

TEST(Verify, WholeFileIsGood) {
  const TempFile file(BytesOf(SmallContent()));
  const Result text = Ramjet("verify " + file.path());
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("all of its 8 nonzero pages can be read\n"));
  const Result json = Ramjet("verify --json " + file.path());
  EXPECT_EQ(Json::parse(json.out),
            Json::parse(R"({"schema":"ramjet.verify/1","ok":true,"nonzero_pages":8,)"
                        R"("nonzero_bytes":8192,"checksums":null,"bad_pages":0,"bad":[]})"));
}

TEST(Verify, DamagedPagesAreToldByTheirChecksums) {
  const TempFile file(BytesOf(SmallContent()));
  const TempFile sums;
  const Result made = Ramjet(absl::StrCat("checksum ", file.path(), " ", sums.path()));
  EXPECT_EQ(made.status, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr(": 5 checksums of "));
  const std::string verify = absl::StrCat("verify --checksums ", sums.path(), " ", file.path());
  const Result good = Ramjet(verify);
  EXPECT_EQ(good.status, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("and are what 5 checksums say"));

  Damage(file, 2);
  Damage(file, 99);
  EXPECT_EQ(Ramjet("verify " + file.path()).status, 0);
  const Result bad = Ramjet(verify);
  EXPECT_EQ(bad.status, 1);
  EXPECT_THAT(bad.out, HasSubstr("ram: pages 0 to 15\nram: pages 96 to 99\n"));
  EXPECT_THAT(bad.err, testing::MatchesRegex("ramjet: [^\n]*pages 0 to 15 of block \"ram\" is not "
                                             "what was saved[^\n]*\n"));
  const Json json = Json::parse(Ramjet(verify + " --json").out);
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["bad_pages"], 20);
  EXPECT_EQ(json["bad"][1]["page"], 96);
  EXPECT_EQ(json["bad"][1]["count"], 4);
}

TEST(Verify, WhatIsIncompleteOrOfAnotherSnapshotIsRefusedInOneLine) {
  SnapshotContent content = SmallContent();
  const TempFile sums;
  {
    const TempFile file(BytesOf(content));
    ASSERT_EQ(Ramjet(absl::StrCat("checksum ", file.path(), " ", sums.path())).status, 0);
  }
  content.devices[0].payload = "tock tick";
  const TempFile other(BytesOf(content));
  const Result mismatch =
      Ramjet(absl::StrCat("verify ", other.path(), " --checksums ", sums.path()));
  EXPECT_EQ(mismatch.status, 1);
  EXPECT_EQ(mismatch.err, absl::StrCat("ramjet: ", sums.path(), ": the checksums are of another ",
                                       "snapshot than ", other.path(), "\n"));
  content.interrupted = true;
  const TempFile cut(BytesOf(content));
  for (const char* const command : {"verify ", "checksum "}) {
    const Result refused = Ramjet(command + cut.path());
    EXPECT_EQ(refused.status, 1);
    EXPECT_EQ(refused.out, "");
    EXPECT_THAT(refused.err, testing::MatchesRegex("ramjet: [^\n]*: ends at offset [^\n]*\n"));
  }
  EXPECT_NE(access((cut.path() + ".crc").c_str(), F_OK), 0);
  EXPECT_EQ(Ramjet("verify --bogus x").status, 2);
}

TEST(Verify, ChecksumsThatCannotBeWrittenAreOneLine) {
  const TempFile file(BytesOf(SmallContent()));
  const std::string nowhere = testing::TempDir() + "/nowhere/sums";
  const Result failed = Ramjet(absl::StrCat("checksum ", file.path(), " ", nowhere));
  EXPECT_EQ(failed.status, 1);
  EXPECT_EQ(failed.out, "");
  EXPECT_EQ(failed.err,
            absl::StrCat("ramjet: ", nowhere, ": cannot be created: No such file or directory\n"));
}

TEST(Verify, ConvertMakesChecksumsInTheSameGo) {
  const TempFile file(BytesOf(SmallContent()));
  const TempFile out;
  const TempFile sums;
  const std::string convert = absl::StrCat("convert ", file.path(), " ", out.path());
  for (const auto& [flag, sidecar] :
       {std::pair(std::string("--checksums"), out.path() + ".crc"),
        std::pair(absl::StrCat("--checksums=", sums.path()), sums.path())}) {
    const Result made = Ramjet(absl::StrCat(convert, " ", flag));
    EXPECT_EQ(made.status, 0) << made.err;
    const Result good = Ramjet(absl::StrCat("verify ", out.path(), " --checksums ", sidecar));
    EXPECT_EQ(good.status, 0) << good.err;
    EXPECT_THAT(good.out, HasSubstr("and are what 5 checksums say"));
  }
  EXPECT_EQ(unlink((out.path() + ".crc").c_str()), 0);
}

TEST(Verify, ChecksumsReplaceNoSnapshot) {
  const TempFile file(BytesOf(SmallContent()));
  for (const std::string& command :
       {absl::StrCat("checksum ", file.path(), " ", file.path()),
        absl::StrCat("convert ", file.path(), " other.mr --checksums=", file.path()),
        absl::StrCat("convert ", file.path(), " other.mr --checksums=./other.mr"),
        std::string("save --qmp socket other.mr --checksums=./other.mr")}) {
    const Result refused = Ramjet(command);
    EXPECT_EQ(refused.status, 2) << command;
    EXPECT_THAT(refused.err, HasSubstr(" would replace "));
  }
  EXPECT_EQ(file.Read(), BytesOf(SmallContent()));
}

// -1 was the largest of all rates, and a record for "nan" seconds never ended.
TEST(Run, NumbersThatMeanNothingAreRefused) {
  const TempFile record;
  for (const std::string& options :
       {std::string("--eager-rate -1"), std::string("--eager-rate 99999999999999999999"),
        absl::StrCat("--record ", record.path(), " --record-for nan")}) {
    EXPECT_EQ(Ramjet(absl::StrCat("run ", options, " -- /bin/true")).status, 2) << options;
  }
}

// As `ramjet convert` never replaces what it reads; before QEMU, which is not there, is started.
TEST(Run, OutputsReplaceNothingThatIsRead) {
  const TempFile file(BytesOf(SmallContent()));
  const TempFile other;
  const std::string incoming = absl::StrCat("run --incoming ", file.path());
  for (const std::string& options :
       {absl::StrCat(incoming, " --stats ", file.path()),
        absl::StrCat(incoming, " --record ", file.path()),
        absl::StrCat(incoming, " --stats ", other.path(), " --checksums ", other.path()),
        absl::StrCat(incoming, " --stats ", other.path(), " --working-set ", other.path()),
        absl::StrCat(incoming, " --stats ", other.path(), " --record ", other.path())}) {
    const Result refused = Ramjet(options + " -- /none");
    EXPECT_EQ(refused.status, 2) << options;
    EXPECT_THAT(refused.err, HasSubstr(" would replace "));
  }
  EXPECT_EQ(file.Read(), BytesOf(SmallContent()));
}

class ForeignSnapshot : public testing::Test {
 protected:
  ForeignSnapshot() { EXPECT_NE(mkdtemp(directory_), nullptr); }
  ~ForeignSnapshot() override { std::filesystem::remove_all(directory_); }

  std::string Make(const std::string& name, const std::string& bytes) const {
    std::string path = absl::StrCat(directory_, "/", name);
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  // Every command that reads snapshots says so, in one line.
  void ExpectNamed(const std::string& path, const std::string& words) const {
    SCOPED_TRACE(path);
    for (const std::string& command :
         {std::string("inspect "), std::string("verify "), std::string("checksum "),
          absl::StrCat("diff ", snapshot_.path(), " "), std::string("convert ")}) {
      const bool converts = absl::StartsWith(command, "convert");
      const Result result =
          Ramjet(absl::StrCat(command, path, converts ? absl::StrCat(" ", path, ".mr") : ""));
      EXPECT_EQ(result.status, 1) << command;
      EXPECT_EQ(result.out, "");
      EXPECT_EQ(result.err, absl::StrCat("ramjet: ", path, ": ", words, "\n")) << command;
    }
  }

  char directory_[32] = "/tmp/ramjet_foreign.XXXXXX";
  const TempFile snapshot_{BytesOf(SmallContent())};
};

// Of which only "no QEMU migration stream at offset 0" was said.
TEST_F(ForeignSnapshot, IsNamedWithTheCommandThatConvertsIt) {
  std::ifstream real("tests/corpus/firecracker.state", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(real), {}};
  const std::string state = Make("vm.state", bytes);
  ExpectNamed(state, absl::StrCat("is Firecracker's state file (version 11.0.0), not its memory: "
                                  "ramjet convert --from firecracker --vmstate ",
                                  state, " MEMORY vm.mr"));
  const std::string damaged = Make("damaged.state", bytes.substr(0, 4096));
  ExpectNamed(damaged, absl::StrCat("is Firecracker's state file (damaged), not its memory: "
                                    "ramjet convert --from firecracker --vmstate ",
                                    damaged, " MEMORY vm.mr"));
  const std::string memory = Make("vm.mem", std::string(8192, 'm'));
  ExpectNamed(memory, absl::StrCat("is no mapped-ram file, but can be a guest's plain memory; of "
                                   "Firecracker: ramjet convert --from firecracker [--base FULL] "
                                   "--vmstate STATE ",
                                   memory, " vm.mr; of others: --from raw"));
  // The user knows better.
  EXPECT_THAT(Ramjet(absl::StrCat("inspect --offset 4096 ", memory)).err,
              HasSubstr("no QEMU migration stream (\"QEVM\") at offset 4096"));
}

TEST_F(ForeignSnapshot, DirectoriesOfCloudHypervisorAreKnownByTheirFiles) {
  Make("state.json", "{}");
  const std::string config = Make("migration_config.json", "{}");
  const std::string memory = Make("memory-0", std::string(4096, 'm'));
  const std::string offload = absl::StrCat(
      "a directory of Cloud Hypervisor's offload daemon, which ramjet does not "
      "convert: take a snapshot (ch-remote snapshot), or convert the memory alone: "
      "ramjet convert --from raw ",
      memory, " vm.mr");
  ExpectNamed(directory_, "is " + offload);
  ExpectNamed(memory, "belongs to " + offload);
  ExpectNamed(config, "belongs to " + offload);

  Make("config.json", "{}");
  const std::string ranges = Make("memory-ranges", std::string(4096, 'm'));
  const std::string snapshot = absl::StrCat(
      "a snapshot directory of Cloud Hypervisor: ramjet convert ", directory_, " vm.mr");
  ExpectNamed(ranges, "belongs to " + snapshot);
  const Result inspected = Ramjet(absl::StrCat("inspect ", directory_));
  EXPECT_EQ(inspected.err, absl::StrCat("ramjet: ", directory_, ": is ", snapshot, "\n"));
}

TEST(Diff, PagesThatDifferAreNamedByBlock) {
  SnapshotContent content = SmallContent();
  const TempFile a(BytesOf(content));
  EXPECT_EQ(Ramjet(absl::StrCat("diff ", a.path(), " ", a.path())).status, 0);
  // In b, page 63 is zero, 70 to 72 are not, 99 has other bytes, and stale ones do not count.
  content.blocks[0].nonzero = {{1, 2}, {64, 1}, {70, 3}, {99, 1}};
  std::swap(content.blocks[0], content.blocks[1]);
  content.devices[0].payload = "tock tick";
  const TempFile b(BytesOf(content));
  std::string bytes = b.Read();
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(b.Open());
  bytes[description->blocks[1].pages_offset + (99 << 10) + 5] ^= 1;
  bytes[description->blocks[1].pages_offset + (40 << 10)] = 'x';
  b.Write(bytes);
  for (const auto& [one, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    const Result text = Ramjet(absl::StrCat("diff ", one->path(), " ", other->path()));
    EXPECT_EQ(text.status, 1);
    EXPECT_EQ(text.out, "ram: page 63\nram: pages 70 to 72\nram: page 99\n");
    EXPECT_THAT(text.err, testing::MatchesRegex("ramjet: [^\n]* differs, in 5 pages[^\n]*\n"));
  }
  const Json json = Json::parse(Ramjet(absl::StrCat("diff --json ", a.path(), " ", b.path())).out);
  EXPECT_EQ(json["same"], false);
  EXPECT_EQ(json["differing_pages"], 5);
  EXPECT_EQ(json["runs"][1], Json::parse(R"({"block":"ram","page":70,"count":3})"));
}

// The second walk's pages: where only b has any, in a stretch of pages that a has none of.
TEST(Diff, PagesThatOnlyOneHasAndBlocksThatDifferAreFound) {
  SnapshotContent content = SmallContent();
  content.blocks[0].used_length = 5000 << 10;
  const TempFile a(BytesOf(content));
  content.blocks[0].nonzero.push_back({4000, 2});
  content.blocks[1].idstr = "flash";
  const TempFile b(BytesOf(content));
  content.blocks[0].used_length = 6000 << 10;
  content.blocks[0].nonzero.push_back({5500, 1});
  const TempFile c(BytesOf(content));
  const Result ab = Ramjet(absl::StrCat("diff ", a.path(), " ", b.path()));
  EXPECT_EQ(ab.out, absl::StrCat("rom: only in ", a.path(), "\nflash: only in ", b.path(),
                                 "\nram: pages 4000 to 4001\n"));
  EXPECT_EQ(ab.status, 1);
  const Result cb = Ramjet(absl::StrCat("diff ", c.path(), " ", b.path()));
  EXPECT_EQ(cb.out, "ram: 6144000 bytes, and 5120000\n");
  EXPECT_EQ(cb.status, 1);
}

}  // namespace
}  // namespace ramjet
