#include "mappedram/ram_section.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "mappedram/format.h"

namespace ramjet {
namespace {

// Of a bitmap of 64-bit words.
uint64_t BitmapBytes(const SnapshotBlock& block) {
  const uint64_t words =
      (block.pages() + PageBitmap::kPagesPerWord - 1) / PageBitmap::kPagesPerWord;
  return words * sizeof(uint64_t);
}

std::string Named(const SnapshotBlock& block) {
  return absl::StrCat("block \"", block.idstr, "\": ");
}

bool CheckPageSize(StreamReader& reader, const SnapshotBlock& block,
                   const Configuration& configuration) {
  const uint64_t page_size = block.page_size;
  if ((page_size & (page_size - 1)) != 0 || page_size < (1 << kMinPageBits) ||
      page_size > (1 << kMaxPageBits)) {
    return reader.Fail(Named(block), "page_size ", page_size, " is not a power of two from ",
                       1 << kMinPageBits, " to ", 1 << kMaxPageBits);
  }
  if (configuration.page_bits.has_value() && page_size != uint64_t{1} << *configuration.page_bits) {
    return reader.Fail(Named(block), "page_size ", page_size, " differs from target-page-bits ",
                       *configuration.page_bits);
  }
  if (block.used_length % page_size != 0) {
    return reader.Fail(Named(block), "used_length ", block.used_length,
                       " is not a multiple of its page size ", page_size);
  }
  return true;
}

// `header_end` is where the block's header ends, which nothing of it may precede. Since the next
// header is looked for behind the pages, no two blocks can overlap then, nor a block and the
// stream.
bool CheckOffsets(StreamReader& reader, const SnapshotBlock& block, uint64_t header_end) {
  if (block.pages_offset % block.page_size != 0) {
    return reader.Fail(Named(block), "pages_offset ", block.pages_offset,
                       " is not a multiple of its page size ", block.page_size);
  }
  if (block.bitmap_offset < header_end) {
    return reader.Fail(Named(block), "bitmap_offset ", block.bitmap_offset,
                       " lies before the end of the block's header at ", header_end);
  }
  // used_length is bounded already: only the offsets can be absurd.
  constexpr uint64_t kMaxOffset = std::numeric_limits<int64_t>::max();
  if (block.pages_offset > kMaxOffset - block.used_length) {
    return reader.Fail(Named(block), "pages_offset ", block.pages_offset,
                       " is beyond what a file can hold");
  }
  if (block.bitmap_offset > block.pages_offset ||
      block.pages_offset - block.bitmap_offset < BitmapBytes(block)) {
    return reader.Fail(Named(block), "bitmap of ", BitmapBytes(block), " bytes at bitmap_offset ",
                       block.bitmap_offset, " does not end before pages_offset ",
                       block.pages_offset);
  }
  return true;
}

// `left`: of the total, for this block and all that follow.
SnapshotBlock ReadBlock(StreamReader& reader, const Configuration& configuration, uint64_t left) {
  const bool ignore_shared = configuration.HasCapability(kIgnoreSharedCapability);
  SnapshotBlock block;
  block.idstr = reader.ReadName8();
  block.used_length = reader.ReadBe64();
  if (block.used_length == 0 || block.used_length > left) {
    reader.Fail(Named(block), "used_length ", block.used_length, " is not within the ", left,
                " bytes left of the total");
  }
  if (ignore_shared) block.address = reader.ReadBe64();
  const uint32_t version = reader.ReadBe32();
  if (version != kBlockHeaderVersion) {
    reader.Fail(Named(block), "header version ", version, " is not ", kBlockHeaderVersion);
  }
  block.page_size = reader.ReadBe64();
  block.bitmap_offset = reader.ReadBe64();
  block.pages_offset = reader.ReadBe64();
  if (!reader.ok() || !CheckPageSize(reader, block, configuration)) return block;
  const bool ignored = block.bitmap_offset == 0 && block.pages_offset == 0;
  if (!ignored || !ignore_shared) CheckOffsets(reader, block, reader.position());
  return block;
}

void CheckUnique(StreamReader& reader, const std::vector<SnapshotBlock>& blocks) {
  std::vector<absl::string_view> names;
  names.reserve(blocks.size());
  for (const SnapshotBlock& block : blocks) names.push_back(block.idstr);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) reader.Fail("block \"", *twice, "\": there are two of that idstr");
}

}  // namespace

std::vector<SnapshotBlock> ReadBlocks(StreamReader& reader, const Configuration& configuration) {
  std::vector<SnapshotBlock> blocks;
  const uint64_t word = reader.ReadBe64();
  const uint64_t total = word & ~kRamFlagsMask;
  if ((word & kRamFlagsMask) != kRamFlagMemSize) {
    reader.Fail("ram section: flags ", word & kRamFlagsMask, " instead of ", kRamFlagMemSize,
                " with the total");
  }
  if (total == 0 || total > kMaxRamBytes) {
    reader.Fail("ram section: total ", total, " is not between 1 and ", kMaxRamBytes, " bytes");
  }
  for (uint64_t left = total; reader.ok() && left > 0;) {
    if (blocks.size() == kMaxBlocks) {
      reader.Fail("ram section: more than ", kMaxBlocks, " blocks, and ", left,
                  " bytes of the total left");
      break;
    }
    // Here and not before: the last block's pages may lie beyond the end of an incomplete file.
    if (!blocks.empty() && blocks.back().in_file()) reader.Seek(blocks.back().pages_end());
    SnapshotBlock block = ReadBlock(reader, configuration, left);
    if (!reader.ok()) break;
    if (!blocks.empty() && block.page_size != blocks.front().page_size) {
      reader.Fail(Named(block), "page_size ", block.page_size, " differs from that of block \"",
                  blocks.front().idstr, "\", ", blocks.front().page_size);
    }
    left -= block.used_length;
    blocks.push_back(std::move(block));
  }
  CheckUnique(reader, blocks);
  return blocks;
}

absl::StatusOr<PageBitmap> ReadBitmap(const File& file, SnapshotBlock& block) {
  if (!block.in_file()) return PageBitmap(block.pages());
  const uint64_t bytes = BitmapBytes(block);
  if (block.bitmap_offset > file.size() || bytes > file.size() - block.bitmap_offset) {
    return PageBitmap();
  }
  PageBitmap nonzero(block.pages());
  nonzero.ExpectToBeFilled();
  auto* const words = reinterpret_cast<uint8_t*>(nonzero.words());
  const absl::Status read = file.ReadAt(block.bitmap_offset, absl::MakeSpan(words, bytes));
  if (!read.ok()) return read;
  const uint64_t beyond = block.pages() % PageBitmap::kPagesPerWord;
  if (beyond != 0 && nonzero.words()[nonzero.word_count() - 1].load() >> beyond != 0) {
    return DataLossError(file, Named(block), "its bitmap has bits set beyond the last of ",
                         block.pages(), " pages");
  }
  block.nonzero_pages = nonzero.Count();
  return nonzero;
}

}  // namespace ramjet
