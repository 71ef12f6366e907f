// Diffs over their bases: a hole, or what is behind a layer's end, is what the layers below have.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mappedram/file.h"
#include "mappedram/layered_source.h"
#include "tests/mappedram_testing.h"

namespace ramjet {
namespace {

constexpr uint64_t kPage = 4096;  // holes are multiples of it on any file system that tests run on

using Bytes = std::vector<uint8_t>;

// Layers as they are made, the topmost first, and what they are together.
class Layers {
 public:
  // All a hole, below those that are there.
  Layers& Add(uint64_t length) {
    temp_.emplace_back();
    lengths_.push_back(length);
    written_.emplace_back((length + kPage - 1) / kPage);
    std::filesystem::resize_file(temp_.back().path(), length);
    return *this;
  }
  // Pages [first, first + count) of the lowest are full of `fill`, up to its end.
  Layers& Put(uint64_t first, uint64_t count, char fill) {
    const uint64_t end = std::min((first + count) * kPage, lengths_.back());
    std::fstream file(temp_.back().path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(first * kPage))
        << std::string(end - first * kPage, fill);
    for (uint64_t page = first; page < first + count; ++page) written_.back()[page] = fill;
    return *this;
  }

  LayeredSource Source(uint64_t begin = 0) {
    files_.clear();
    std::vector<const File*> layers;
    for (const TempFile& temp : temp_) layers.push_back(&files_.emplace_back(temp.Open()));
    return LayeredSource(layers, begin);
  }

  Bytes Expected(uint64_t length) const {
    Bytes bytes(length);
    for (uint64_t at = 0; at < length; ++at) {
      for (size_t layer = 0; layer < lengths_.size() && at < length; ++layer) {
        const auto& fill = written_[layer];
        if (at >= lengths_[layer] || !fill[at / kPage].has_value()) continue;
        bytes[at] = static_cast<uint8_t>(*fill[at / kPage]);
        break;
      }
    }
    return bytes;
  }

  const std::string& path(size_t layer) const { return temp_[layer].path(); }

 private:
  std::deque<TempFile> temp_;
  std::deque<File> files_;
  std::vector<uint64_t> lengths_;
  std::vector<std::vector<std::optional<char>>> written_;
};

Bytes ReadFrom(const RamSource& source, uint64_t offset, uint64_t length) {
  Bytes bytes(length, 0xee);
  EXPECT_EQ(source.Read(offset, absl::MakeSpan(bytes)), absl::OkStatus());
  return bytes;
}

// All extents of [0, length), as "begin+length ...".
std::string Extents(const RamSource& source, uint64_t length) {
  std::string text;
  for (uint64_t at = 0; at < length;) {
    const auto extent = source.NextExtent(at, length);
    EXPECT_TRUE(extent.ok()) << extent.status();
    if (!extent.ok() || !extent->has_value()) break;
    EXPECT_GE((*extent)->offset, at);
    EXPECT_GT((*extent)->length, 0u);
    absl::StrAppend(&text, (*extent)->offset, "+", (*extent)->length, " ");
    at = (*extent)->end();
  }
  return text;
}

TEST(LayeredSource, HoleIsWhatTheBaseHasThere) {
  Layers layers;
  layers.Add(8 * kPage).Put(1, 2, 'd').Put(6, 1, '\0');
  layers.Add(8 * kPage).Put(0, 2, 'b').Put(6, 2, 'b');
  const LayeredSource source = layers.Source();
  const Bytes bytes = ReadFrom(source, 0, 8 * kPage);
  for (const auto& [page, expected] :
       {std::pair(0, 'b'), {1, 'd'}, {2, 'd'}, {3, '\0'}, {6, '\0'}, {7, 'b'}}) {
    EXPECT_EQ(bytes[static_cast<uint64_t>(page) * kPage + 7], expected) << page;
  }
  EXPECT_EQ(bytes, layers.Expected(8 * kPage));
}

// Every page another combination of the three that have it.
TEST(LayeredSource, ChainOfThreeGivesTheTopmostThatHasThePage) {
  Layers layers;
  for (const uint64_t layer : {0u, 1u, 2u}) {
    layers.Add(8 * kPage);
    for (uint64_t page = 0; page < 8; ++page) {
      if ((page >> layer & 1) != 0) layers.Put(page, 1, static_cast<char>('t' + layer));
    }
  }
  const LayeredSource source = layers.Source();
  const Bytes bytes = ReadFrom(source, 0, 8 * kPage);
  std::string tops;
  for (uint64_t page = 0; page < 8; ++page) tops += static_cast<char>(bytes[page * kPage + 4095]);
  EXPECT_EQ(tops, std::string(1, '\0') + "tutvtut");
  EXPECT_EQ(bytes, layers.Expected(8 * kPage));
  // Page 0 is nobody's.
  const auto first = source.NextExtent(0, 8 * kPage);
  ASSERT_TRUE(first.ok() && first->has_value());
  EXPECT_EQ((*first)->offset, kPage);
  EXPECT_EQ(source.NextExtent(0, kPage)->has_value(), false);
}

TEST(LayeredSource, BehindALayersEndIsWhatTheNextHas) {
  for (const auto& [top, middle, base] :
       {std::tuple(2, 4, 8), {8, 4, 2}, {4, 8, 2}, {1, 0, 8}, {8, 8, 1}}) {
    SCOPED_TRACE(absl::StrCat(top, ", ", middle, ", ", base, " pages"));
    Layers layers;
    char fill = 'a';
    for (const int pages : {top, middle, base}) {
      layers.Add(static_cast<uint64_t>(pages) * kPage);
      for (int page = 0; page < pages; page += 2) {
        layers.Put(static_cast<uint64_t>(page), 1, fill);
      }
      ++fill;
    }
    const LayeredSource source = layers.Source();
    EXPECT_EQ(ReadFrom(source, 0, 10 * kPage), layers.Expected(10 * kPage));
    EXPECT_EQ(ReadFrom(source, 9 * kPage, kPage), Bytes(kPage)) << "behind all ends are zeros";
    EXPECT_FALSE(source.NextExtent(8 * kPage, 10 * kPage)->has_value());
  }
}

TEST(LayeredSource, LayerThatEndsWithinAPageHasItsBytesAndTheNextTheRest) {
  Layers layers;
  layers.Add(2 * kPage + 100).Put(1, 2, 't');
  layers.Add(3 * kPage + 1).Put(2, 2, 'm');
  layers.Add(5 * kPage).Put(0, 5, 'b');
  const LayeredSource source = layers.Source();
  const Bytes bytes = ReadFrom(source, 0, 5 * kPage);
  EXPECT_EQ(bytes, layers.Expected(5 * kPage));
  EXPECT_EQ(bytes[2 * kPage + 99], 't');
  EXPECT_EQ(bytes[2 * kPage + 100], 'm');
  EXPECT_EQ(bytes[3 * kPage], 'm');
  EXPECT_EQ(bytes[3 * kPage + 1], 'b');
  // A read that begins, or ends, just there.
  EXPECT_EQ(ReadFrom(source, 2 * kPage + 100, 10), Bytes(10, 'm'));
  EXPECT_EQ(ReadFrom(source, 2 * kPage + 90, 10), Bytes(10, 't'));
}

TEST(LayeredSource, ExtentsAreThoseOfAllLayersUpToTheLimit) {
  Layers layers;
  layers.Add(16 * kPage).Put(4, 2, 't');
  layers.Add(16 * kPage).Put(10, 2, 'm').Put(5, 3, 'm');
  const LayeredSource source = layers.Source();
  EXPECT_EQ(Extents(source, 16 * kPage),
            absl::StrCat(4 * kPage, "+", 2 * kPage, " ", 6 * kPage, "+", 2 * kPage, " ", 10 * kPage,
                         "+", 2 * kPage, " "));
  EXPECT_EQ(Extents(source, 4 * kPage + 10), absl::StrCat(4 * kPage, "+10 "));
  EXPECT_EQ(Extents(source, 4 * kPage), "");
}

TEST(LayeredSource, BlockBeginsInAllLayersAtTheSameOffset) {
  Layers layers;
  layers.Add(8 * kPage).Put(4, 1, 't');
  layers.Add(8 * kPage).Put(0, 8, 'b');
  const LayeredSource source = layers.Source(3 * kPage);
  Bytes expected = layers.Expected(8 * kPage);
  expected.erase(expected.begin(), expected.begin() + 3 * kPage);
  EXPECT_EQ(ReadFrom(source, 0, 5 * kPage), expected);
  EXPECT_EQ((*source.NextExtent(0, kPage))->offset, 0u);
}

// Any offsets and lengths, also odd ones, over any layers.
TEST(LayeredSource, ReadsThatCrossLayersAreAsByteByByte) {
  std::mt19937 random(5);
  const auto below = [&](uint64_t limit) { return random() % limit; };
  for (int round = 0; round < 20; ++round) {
    Layers layers;
    const uint64_t depth = 1 + below(4);
    for (uint64_t layer = 0; layer < depth; ++layer) {
      const uint64_t length = 1 + below(64 * kPage);
      layers.Add(length);
      for (uint64_t page = below(8); page * kPage < length; page += 1 + below(8)) {
        layers.Put(page, 1, static_cast<char>(below(4) == 0 ? 0 : 'a' + layer));
      }
    }
    const uint64_t whole = 66 * kPage;
    const Bytes expected = layers.Expected(whole);
    const LayeredSource source = layers.Source();
    for (int read = 0; read < 50; ++read) {
      const uint64_t offset = below(whole);
      const uint64_t length = 1 + below(whole - offset);
      const auto first = expected.begin() + static_cast<ptrdiff_t>(offset);
      ASSERT_EQ(ReadFrom(source, offset, length),
                Bytes(first, first + static_cast<ptrdiff_t>(length)))
          << "round " << round << ": " << length << " bytes at " << offset;
    }
    // What is in no extent is zero.
    Bytes rest = expected;
    for (uint64_t at = 0; at < whole;) {
      const auto extent = source.NextExtent(at, whole);
      ASSERT_TRUE(extent.ok()) << extent.status();
      if (!extent->has_value()) break;
      at = (*extent)->end();
      std::fill_n(rest.begin() + static_cast<ptrdiff_t>((*extent)->offset), (*extent)->length,
                  uint8_t{0});
    }
    EXPECT_EQ(rest, Bytes(whole)) << "round " << round;
  }
}

// What was cut off was taken for a hole, and so for zeros.
TEST(LayeredSource, BaseThatIsCutMeanwhileIsNamed) {
  Layers layers;
  layers.Add(8 * kPage).Put(0, 2, 't');
  layers.Add(8 * kPage).Put(0, 8, 'b');
  const LayeredSource source = layers.Source();
  std::filesystem::resize_file(layers.path(1), kPage);
  Bytes bytes(8 * kPage);
  EXPECT_THAT(std::string(source.Read(0, absl::MakeSpan(bytes)).message()),
              testing::HasSubstr(layers.path(1) + ": changed since it was opened"));
  EXPECT_FALSE(source.NextExtent(4 * kPage, 8 * kPage).ok());
}

}  // namespace
}  // namespace ramjet
