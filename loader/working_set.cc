#include "loader/working_set.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mappedram/coding.h"

namespace ramjet {
namespace {

constexpr absl::string_view kMagic = "ramjetWS";
constexpr uint32_t kVersion = 1;
constexpr absl::string_view kWhat = "a working set";
constexpr uint64_t kMaxFileBytes = 1 << 30;
// Far beyond any machine, and small enough that offsets do not overflow.
constexpr uint64_t kMaxBlockBytes = uint64_t{1} << 52;

uint64_t Zigzag(int64_t number) {
  return static_cast<uint64_t>(number) << 1 ^ static_cast<uint64_t>(number >> 63);
}
int64_t Unzigzag(uint64_t number) {
  return static_cast<int64_t>(number >> 1 ^ (~(number & 1) + 1));
}

absl::Status DecodeBlocks(CodedReader& reader, WorkingSet& set) {
  const uint64_t count = reader.TakeVarint();
  for (uint64_t i = 0; i < count && reader.ok(); ++i) {
    WorkingSet::Block block;
    block.idstr = std::string(reader.Take(reader.TakeVarint()));
    block.page_size = reader.TakeVarint();
    block.pages = reader.TakeVarint();
    if (!reader.ok()) break;
    if (!std::has_single_bit(block.page_size) || block.pages == 0 ||
        block.pages > kMaxBlockBytes / block.page_size) {
      return Damaged(
          absl::StrCat("block ", i, " has ", block.pages, " pages of ", block.page_size, " bytes"));
    }
    set.blocks.push_back(std::move(block));
  }
  return absl::OkStatus();
}

absl::Status DecodeRuns(CodedReader& reader, WorkingSet& set) {
  const uint64_t count = reader.TakeVarint();
  std::vector<uint64_t> expected(set.blocks.size());
  size_t at = 0;
  for (uint64_t i = 0; i < count && reader.ok(); ++i) {
    const uint64_t head = reader.TakeVarint();
    const uint64_t block = head % 2 == 1 ? reader.TakeVarint() : at;
    const uint64_t distance = reader.TakeVarint();
    if (!reader.ok()) break;
    if (block >= set.blocks.size()) {
      return Damaged(absl::StrCat("run ", i, " is of block ", block, " of ", set.blocks.size()));
    }
    at = block;
    // Wraps around where the number is nonsense, which then lies outside the block.
    const PageRun pages{expected[at] + static_cast<uint64_t>(Unzigzag(distance)), head / 2};
    const uint64_t limit = set.blocks[at].pages;
    if (pages.count == 0 || pages.first >= limit || pages.count > limit - pages.first) {
      return Damaged(absl::StrCat("run ", i, " of ", pages.count, " pages at ", pages.first,
                                  " does not lie in its block of ", limit));
    }
    expected[at] = pages.end();
    set.runs.push_back({at, pages});
  }
  return absl::OkStatus();
}

absl::Status CheckDisjoint(const WorkingSet& set) {
  std::vector<WorkingSet::Run> sorted = set.runs;
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return std::pair(a.block, a.pages.first) < std::pair(b.block, b.pages.first);
  });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].block == sorted[i - 1].block &&
        sorted[i].pages.first < sorted[i - 1].pages.end()) {
      return Damaged(absl::StrCat("page ", sorted[i].pages.first, " of block ", sorted[i].block,
                                  " is there twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void WorkingSet::Append(size_t block, PageRun pages) {
  if (!runs.empty() && runs.back().block == block && runs.back().pages.end() == pages.first) {
    runs.back().pages.count += pages.count;
  } else {
    runs.push_back({block, pages});
  }
}

uint64_t WorkingSet::pages() const {
  uint64_t sum = 0;
  for (const Run& run : runs) sum += run.pages.count;
  return sum;
}

uint64_t WorkingSet::bytes() const {
  uint64_t sum = 0;
  for (const Run& run : runs) sum += run.pages.count * blocks[run.block].page_size;
  return sum;
}

std::string EncodeWorkingSet(const WorkingSet& set) {
  std::string bytes{kMagic};
  AppendNumber(bytes, kVersion);
  AppendNumber(bytes, set.snapshot_digest);
  AppendVarint(bytes, set.blocks.size());
  for (const WorkingSet::Block& block : set.blocks) {
    AppendVarint(bytes, block.idstr.size());
    bytes += block.idstr;
    AppendVarint(bytes, block.page_size);
    AppendVarint(bytes, block.pages);
  }
  AppendVarint(bytes, set.runs.size());
  std::vector<uint64_t> expected(set.blocks.size());
  size_t at = 0;
  for (const WorkingSet::Run& run : set.runs) {
    const bool other = run.block != at;
    at = run.block;
    AppendVarint(bytes, run.pages.count << 1 | (other ? 1 : 0));
    if (other) AppendVarint(bytes, at);
    AppendVarint(bytes, Zigzag(static_cast<int64_t>(run.pages.first - expected[at])));
    expected[at] = run.pages.end();
  }
  AppendCrc(bytes);
  return bytes;
}

absl::StatusOr<WorkingSet> DecodeWorkingSet(absl::string_view bytes) {
  absl::StatusOr<CodedReader> content = OpenCoded(bytes, kMagic, kVersion, kWhat);
  if (!content.ok()) return content.status();
  // From here on nothing is wrong but by intent, and still nothing is believed.
  CodedReader& reader = *content;
  WorkingSet set;
  set.snapshot_digest = reader.TakeNumber<uint64_t>();
  absl::Status status = DecodeBlocks(reader, set);
  if (status.ok()) status = DecodeRuns(reader, set);
  if (!status.ok()) return status;
  if (!reader.ok()) return Damaged("it ends early, or a number in it is too large");
  if (!reader.at_end()) return Damaged(absl::StrCat(reader.left(), " bytes follow its end"));
  status = CheckDisjoint(set);
  if (!status.ok()) return status;
  return set;
}

absl::StatusOr<WorkingSet> ReadWorkingSet(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadSmallFile(path, kMaxFileBytes, kWhat);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<WorkingSet> set = DecodeWorkingSet(*bytes);
  if (set.ok()) return set;
  return absl::Status(set.status().code(), absl::StrCat(path, ": ", set.status().message()));
}

absl::StatusOr<WorkingSet> MergeWorkingSets(absl::Span<const WorkingSet> sets) {
  if (sets.empty()) return absl::InvalidArgumentError("there is nothing to merge");
  WorkingSet merged{.snapshot_digest = sets[0].snapshot_digest, .blocks = {}, .runs = {}};
  // Pages that are in the same sets, and beside each other in each of them.
  struct Piece {
    size_t block;
    PageRun pages;
    uint64_t ranks;     // of its first page in the sets that have it: their sum
    uint64_t sets = 1;  // how many these are
  };
  std::vector<Piece> runs;
  std::vector<std::pair<size_t, uint64_t>> edges;  // (block, page)
  for (const WorkingSet& set : sets) {
    if (set.snapshot_digest != merged.snapshot_digest) {
      return absl::InvalidArgumentError("they are of different snapshots");
    }
    std::vector<size_t> blocks;  // of this set -> of the merged one
    for (const WorkingSet::Block& block : set.blocks) {
      const auto found = std::find(merged.blocks.begin(), merged.blocks.end(), block);
      blocks.push_back(static_cast<size_t>(found - merged.blocks.begin()));
      if (found == merged.blocks.end()) merged.blocks.push_back(block);
    }
    uint64_t rank = 0;
    for (const WorkingSet::Run& run : set.runs) {
      const size_t block = blocks[run.block];
      runs.push_back({block, run.pages, rank});
      edges.emplace_back(block, run.pages.first);
      edges.emplace_back(block, run.pages.end());
      rank += run.pages.count;
    }
  }

  std::sort(edges.begin(), edges.end());
  std::vector<Piece> pieces;
  for (Piece run : runs) {
    auto edge = std::upper_bound(edges.begin(), edges.end(), std::pair(run.block, run.pages.first));
    for (; run.pages.count > 0; ++edge) {
      const uint64_t count = edge->second - run.pages.first;
      if (count == 0) continue;
      pieces.push_back({run.block, {run.pages.first, count}, run.ranks});
      run.pages = {edge->second, run.pages.count - count};
      run.ranks += count;
    }
  }
  const auto place = [](const Piece& piece) { return std::pair(piece.block, piece.pages.first); };
  std::sort(pieces.begin(), pieces.end(),
            [&](const Piece& a, const Piece& b) { return place(a) < place(b); });
  size_t distinct = 0;
  for (const Piece& piece : pieces) {
    if (distinct > 0 && place(pieces[distinct - 1]) == place(piece)) {
      pieces[distinct - 1].ranks += piece.ranks;
      ++pieces[distinct - 1].sets;
    } else {
      pieces[distinct++] = piece;
    }
  }
  pieces.resize(distinct);
  // Stable: what is equal otherwise stays in the order of places.
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    if (a.sets != b.sets) return a.sets > b.sets;
    return a.ranks < b.ranks;  // as their means, for they are of equally many sets
  });
  for (const Piece& piece : pieces) merged.Append(piece.block, piece.pages);
  return merged;
}

}  // namespace ramjet
