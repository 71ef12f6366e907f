#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "mappedram/stream.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

using absl::StatusCode;

// `reader` over a file of `bytes`.
#define READER(reader, bytes, position) \
  const TempFile temp(bytes);           \
  const File file = temp.Open();        \
  StreamReader reader(file, position)

TEST(StreamReader, NumbersAreBigEndian) {
  READER(reader, std::string("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x8f"), 0);
  EXPECT_EQ(reader.ReadU8(), 0x01);
  EXPECT_EQ(reader.ReadBe16(), 0x0203);
  EXPECT_EQ(reader.ReadBe32(), 0x04050607);
  EXPECT_EQ(reader.ReadBe64(), 0x08090a0b0c0d0e8f);
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.position(), 15);
  EXPECT_EQ(reader.remaining(), 0);
}

TEST(StreamReader, StringsHaveTheirLengthInFrontOrAreGivenIt) {
  READER(reader,
         "\x03"
         "abcdefgh",
         0);
  EXPECT_EQ(reader.ReadName8(), "abc");
  EXPECT_EQ(reader.ReadName(2), "de");
  EXPECT_EQ(reader.ReadString(3), "fgh");
  EXPECT_EQ(reader.ReadString(0), "");
  EXPECT_TRUE(reader.ok());
}

TEST(StreamReader, ReadBeyondTheEndFailsForGoodAndMovesNothing) {
  READER(reader, "abcdef", 0);
  reader.ReadBe32();
  EXPECT_EQ(reader.ReadBe32(), 0);
  EXPECT_FALSE(reader.ok());
  EXPECT_TRUE(reader.ended());
  EXPECT_EQ(reader.position(), 4);
  EXPECT_THAT(reader.status(),
              StatusIs(StatusCode::kDataLoss, ": ends at offset 6: 4 bytes wanted at offset 4"));
  EXPECT_EQ(reader.ReadU8(), 0);  // though there are two more bytes
  EXPECT_EQ(reader.PeekU8(), std::nullopt);
  reader.Seek(0);
  EXPECT_EQ(reader.position(), 4);
}

TEST(StreamReader, SeekToTheEndIsFineAndBeyondItIsNot) {
  READER(reader, "abcdef", 0);
  reader.Seek(6);
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.PeekU8(), std::nullopt);
  EXPECT_TRUE(reader.ok());
  reader.Seek(2);
  EXPECT_EQ(reader.ReadU8(), 'c');
  reader.Seek(7);
  EXPECT_TRUE(reader.ended());
}

TEST(StreamReader, SkipOfAbsurdLengthDoesNotWrapAround) {
  READER(reader, "abcdef", 3);
  reader.Skip(~uint64_t{0} - 1);
  EXPECT_TRUE(reader.ended());
  EXPECT_EQ(reader.position(), 3);
}

TEST(StreamReader, StartBeyondTheEndFails) {
  READER(reader, "abc", 4);
  EXPECT_TRUE(reader.ended());
}

TEST(StreamReader, NamesArePrintableAndNeitherEmptyNorLong) {
  const auto status_of = [](const std::string& bytes, size_t length) {
    READER(reader, bytes, 0);
    reader.ReadName(length);
    return reader.status();
  };
  EXPECT_EQ(status_of("az ~", 4), absl::OkStatus());
  EXPECT_EQ(status_of(std::string(255, 'a'), 255), absl::OkStatus());
  EXPECT_THAT(status_of("abc", 0), StatusIs(StatusCode::kDataLoss,
                                            ": name of 0 bytes at offset 0 is not 1 to 255 "
                                            "printable ASCII characters"));
  EXPECT_FALSE(status_of("a\x1f", 2).ok());
  EXPECT_FALSE(status_of("a\x7f", 2).ok());
  EXPECT_FALSE(status_of("a\xc3\xa4", 3).ok());
  EXPECT_FALSE(status_of(std::string(256, 'a'), 256).ok());
}

TEST(StreamReader, FirstErrorIsKept) {
  READER(reader, "abc", 0);
  reader.Fail("one ", 1);
  reader.Fail("two ", 2);
  EXPECT_THAT(reader.status(), StatusIs(StatusCode::kDataLoss, ": one 1"));
  EXPECT_FALSE(reader.ended());
  reader.FailEnded("three");
  EXPECT_FALSE(reader.ended());
}

TEST(StreamReader, FileCutOffAfterOpeningIsDamagedNotEnded) {
  READER(reader, std::string(100, 'a'), 0);
  ASSERT_EQ(truncate(temp.path().c_str(), 10), 0);
  reader.ReadU8();
  EXPECT_FALSE(reader.ok());
  EXPECT_FALSE(reader.ended());
}

TEST(StreamReader, ManySmallReadsAcrossBuffersGiveTheFile) {
  std::string bytes;
  for (int i = 0; i < 100000; ++i) bytes.push_back(static_cast<char>(i * 7));
  READER(reader, bytes, 0);
  std::string read;
  for (size_t length = 1; reader.remaining() >= length; length = length % 13 + 1) {
    read += reader.ReadString(length);
  }
  EXPECT_EQ(read, bytes.substr(0, read.size()));
  EXPECT_GT(read.size(), bytes.size() - 13);
  EXPECT_TRUE(reader.ok());
}

TEST(StreamReader, FindForwardFindsEveryPlaceAcrossBuffers) {
  // Around the buffer's 16 KiB and the half of it which is kept.
  for (const size_t at : {0, 1, 4094, 8187, 8190, 8192, 16379, 16380, 16383, 16384, 24571, 40000}) {
    std::string bytes(50000, 'x');
    bytes.replace(at, 5, "NEEDL");
    READER(reader, bytes, 0);
    ASSERT_TRUE(reader.FindForward("NEEDL", bytes.size())) << at;
    EXPECT_EQ(reader.position(), at);
    reader.Skip(1);
    EXPECT_FALSE(reader.FindForward("NEEDL", bytes.size())) << at;
    EXPECT_EQ(reader.position(), at + 1);
    EXPECT_TRUE(reader.ok());
  }
}

TEST(StreamReader, FindForwardRespectsItsLimitAndTheEnd) {
  READER(reader, "....abc..ab", 0);
  EXPECT_FALSE(reader.FindForward("abc", 4));
  EXPECT_TRUE(reader.FindForward("abc", 5));
  EXPECT_EQ(reader.position(), 4);
  reader.Seek(5);
  EXPECT_FALSE(reader.FindForward("abc", 1000));
  EXPECT_FALSE(reader.FindForward("a longer text", 1000));
  EXPECT_TRUE(reader.ok());
}

TEST(StreamReader, FindBackwardFindsEveryPlaceAcrossBuffers) {
  for (const size_t at : {0, 1, 848, 849, 16383, 16384, 17231, 17232, 17233, 33616, 49999}) {
    std::string bytes(50000, 'x');
    bytes[at] = '\0';
    READER(reader, bytes, bytes.size());
    ASSERT_TRUE(reader.FindBackward('\0', at)) << at;
    EXPECT_EQ(reader.position(), at);
    EXPECT_FALSE(reader.FindBackward('\0', 0)) << at;
    EXPECT_EQ(reader.position(), at);
    EXPECT_EQ(reader.ReadU8(), 0);
    EXPECT_FALSE(reader.FindBackward('\0', at + 1)) << at;
    EXPECT_TRUE(reader.FindBackward('\0', 0)) << at;
    EXPECT_TRUE(reader.ok());
  }
}

TEST(StreamReader, FindBackwardFindsTheLast) {
  READER(reader, "a.a.a", 4);
  EXPECT_TRUE(reader.FindBackward('a', 0));
  EXPECT_EQ(reader.position(), 2);
}

TEST(StreamReader, PiecesAddUpToTheLimit) {
  std::string bytes;
  for (int i = 0; i < 50000; ++i) bytes.push_back(static_cast<char>(i / 7));
  READER(reader, bytes, 3);
  for (const size_t limit : {3, 10, 16387, 16388, 49999, 50000}) {
    const uint64_t start = reader.position();
    std::string read;
    for (absl::string_view piece; !(piece = reader.ReadPiece(limit)).empty();) {
      read.append(piece.data(), piece.size());
    }
    EXPECT_EQ(read, bytes.substr(start, limit - start)) << limit;
    EXPECT_EQ(reader.position(), limit);
  }
  EXPECT_TRUE(reader.ok());
}

}  // namespace
}  // namespace ramjet
