#include "tests/mappedram_testing.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <utility>

#include "gtest/gtest.h"

namespace ramjet {

TempFile::TempFile(absl::string_view bytes) : path_(testing::TempDir() + "/ramjet_XXXXXX") {
  const int fd = mkstemp(path_.data());
  EXPECT_GE(fd, 0) << path_;
  close(fd);
  Write(bytes);
}

TempFile::~TempFile() { unlink(path_.c_str()); }

std::string TempFile::Read() const {
  std::stringstream bytes;
  bytes << std::ifstream(path_, std::ios::binary).rdbuf();
  return bytes.str();
}

void TempFile::Write(absl::string_view bytes) const {
  std::ofstream out(path_, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(out.flush().good()) << path_;
}

File TempFile::Open() const {
  absl::StatusOr<File> file = File::Open(path_);
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

SnapshotContent SmallContent() {
  SnapshotContent content;
  content.pages_alignment = 1024;
  content.blocks = {{.idstr = "ram", .used_length = 100 << 10, .page_size = 1024},
                    {.idstr = "rom", .used_length = 3 << 10, .page_size = 1024}};
  content.blocks[0].nonzero = {{1, 2}, {63, 2}, {99, 1}};
  content.blocks[1].nonzero = {{0, 3}};
  content.devices = {{"timer", 0, 2, "tick tock"}, {"cpu", 1, 12, std::string(300, 'x')}};
  return content;
}

std::string BytesOf(const SnapshotContent& content) {
  const TempFile file;
  const absl::Status written = WriteSnapshot(content, file.path());
  EXPECT_TRUE(written.ok()) << written;
  return file.Read();
}

std::string Noise(uint64_t length) {
  std::string noise(length, '\0');
  uint32_t state = 1;
  for (char& byte : noise) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return noise;
}

std::string BigEndian(uint64_t value, int bytes) {
  std::string text;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    text.push_back(static_cast<char>(value >> shift));
  }
  return text;
}

void Patch(std::string& bytes, uint64_t offset, absl::string_view replacement) {
  ASSERT_LE(offset + replacement.size(), bytes.size());
  bytes.replace(offset, replacement.size(), replacement.data(), replacement.size());
}

}  // namespace ramjet
