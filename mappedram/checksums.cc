#include "mappedram/checksums.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "mappedram/coding.h"
#include "mappedram/crc32c.h"
#include "mappedram/file.h"
#include "mappedram/format.h"
#include "mappedram/new_file.h"
#include "mappedram/page_walk.h"
#include "mappedram/snapshot_description.h"
#include "mappedram/snapshot_digest.h"

namespace ramjet {
namespace {

constexpr absl::string_view kMagic = "ramjetCS";
constexpr uint32_t kVersion = 1;
constexpr absl::string_view kWhat = "a file of checksums";
constexpr uint64_t kMaxFileBytes = 4ull << 30;

static_assert(kWalkPages % Checksums::kPagesPerRun == 0, "a step of a walk cuts no run");

uint64_t RunCount(uint64_t pages, uint64_t pages_per_run) {
  return (pages + pages_per_run - 1) / pages_per_run;
}

// Calls `use` with each maximal run of set bits within run number `run`.
template <typename Use>
void ForEachNonzero(const PageBitmap& nonzero, uint64_t run, uint64_t pages_per_run, Use use) {
  const uint64_t limit = std::min((run + 1) * pages_per_run, nonzero.size());
  for (auto found = nonzero.FindRun(true, run * pages_per_run, limit); found.has_value();
       found = nonzero.FindRun(true, found->end(), limit)) {
    use(*found);
  }
}

bool HasNonzero(const PageBitmap& nonzero, uint64_t run, uint64_t pages_per_run) {
  const uint64_t limit = std::min((run + 1) * pages_per_run, nonzero.size());
  return nonzero.FindRun(true, run * pages_per_run, limit).has_value();
}

absl::Status DecodeBlock(CodedReader& reader, uint64_t pages_per_run, Checksums::Block& block) {
  block.idstr = std::string(reader.Take(reader.TakeVarint()));
  block.page_size = reader.TakeVarint();
  block.pages = reader.TakeVarint();
  const uint64_t stretches = reader.TakeVarint();
  if (!reader.ok()) return absl::OkStatus();
  if (!std::has_single_bit(block.page_size) || block.page_size > uint64_t{1} << kMaxPageBits ||
      block.pages > kMaxRamBytes / block.page_size) {
    return Damaged(absl::StrCat("block \"", absl::CHexEscape(block.idstr), "\" has ", block.pages,
                                " pages of ", block.page_size, " bytes"));
  }
  const uint64_t runs = RunCount(block.pages, pages_per_run);
  uint64_t at = 0;
  for (uint64_t i = 0; i < stretches && reader.ok(); ++i) {
    const uint64_t skipped = reader.TakeVarint();
    const uint64_t count = reader.TakeVarint();
    if (!reader.ok()) break;
    if (skipped > runs - at || count > runs - at - skipped || count == 0 ||
        (skipped == 0 && i > 0)) {
      return Damaged(absl::StrCat("stretch ", i, " of ", count, " runs behind ", skipped,
                                  " does not fit into its block"));
    }
    Checksums::Stretch stretch{.first = at + skipped};
    if (count > reader.left() / sizeof(uint32_t)) return Damaged("it ends in a stretch");
    stretch.crcs.reserve(count);
    for (uint64_t run = 0; run < count; ++run) {
      stretch.crcs.push_back(reader.TakeNumber<uint32_t>());
    }
    at = stretch.end();
    block.stretches.push_back(std::move(stretch));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<uint32_t> Checksums::Block::Find(uint64_t run) const {
  auto stretch =
      std::upper_bound(stretches.begin(), stretches.end(), run,
                       [](uint64_t at, const Stretch& other) { return at < other.first; });
  if (stretch == stretches.begin() || run >= (--stretch)->end()) return std::nullopt;
  return stretch->crcs[run - stretch->first];
}

uint64_t Checksums::runs() const {
  uint64_t sum = 0;
  for (const Block& block : blocks) {
    for (const Stretch& stretch : block.stretches) sum += stretch.crcs.size();
  }
  return sum;
}

std::string EncodeChecksums(const Checksums& checksums) {
  std::string bytes{kMagic};
  AppendNumber(bytes, kVersion);
  AppendNumber(bytes, checksums.snapshot_digest);
  AppendVarint(bytes, checksums.pages_per_run);
  AppendVarint(bytes, checksums.blocks.size());
  for (const Checksums::Block& block : checksums.blocks) {
    AppendVarint(bytes, block.idstr.size());
    bytes += block.idstr;
    AppendVarint(bytes, block.page_size);
    AppendVarint(bytes, block.pages);
    AppendVarint(bytes, block.stretches.size());
    uint64_t at = 0;
    for (const Checksums::Stretch& stretch : block.stretches) {
      AppendVarint(bytes, stretch.first - at);
      AppendVarint(bytes, stretch.crcs.size());
      for (const uint32_t crc : stretch.crcs) AppendNumber(bytes, crc);
      at = stretch.end();
    }
  }
  AppendCrc(bytes);
  return bytes;
}

absl::StatusOr<Checksums> DecodeChecksums(absl::string_view bytes) {
  absl::StatusOr<CodedReader> content = OpenCoded(bytes, kMagic, kVersion, kWhat);
  if (!content.ok()) return content.status();
  CodedReader& reader = *content;
  Checksums checksums;
  checksums.snapshot_digest = reader.TakeNumber<uint64_t>();
  checksums.pages_per_run = reader.TakeVarint();
  const uint64_t blocks = reader.TakeVarint();
  if (reader.ok() &&
      (checksums.pages_per_run == 0 || checksums.pages_per_run > Checksums::kMaxPagesPerRun)) {
    return Damaged(absl::StrCat("it has ", checksums.pages_per_run, " pages a run"));
  }
  for (uint64_t i = 0; i < blocks && reader.ok(); ++i) {
    // 4 bytes at least are gone for each, so this is bounded.
    Checksums::Block& block = checksums.blocks.emplace_back();
    absl::Status decoded = DecodeBlock(reader, checksums.pages_per_run, block);
    if (!decoded.ok()) return decoded;
  }
  if (!reader.ok()) return Damaged("it ends early, or a number in it is too large");
  if (!reader.at_end()) return Damaged(absl::StrCat(reader.left(), " bytes follow its end"));
  return checksums;
}

absl::StatusOr<Checksums> ReadChecksums(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadSmallFile(path, kMaxFileBytes, kWhat);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<Checksums> checksums = DecodeChecksums(*bytes);
  if (checksums.ok()) return checksums;
  return absl::Status(checksums.status().code(),
                      absl::StrCat(path, ": ", checksums.status().message()));
}

absl::Status StageChecksums(const Checksums& checksums, const NewFile& file) {
  const std::string bytes = EncodeChecksums(checksums);
  absl::Status status =
      file.WriteAt(0, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  return status.ok() ? file.Sync() : status;
}

absl::StatusOr<Checksums> ComputeChecksums(const Snapshot& snapshot, unsigned threads,
                                           const std::function<bool()>& cancelled) {
  std::vector<std::vector<uint32_t>> crcs;
  for (const SnapshotBlock& block : snapshot.blocks()) {
    crcs.emplace_back(RunCount(block.pages(), Checksums::kPagesPerRun));
  }
  absl::Status walked = WalkPages(
      snapshot, threads, [&](const WalkStep& step, absl::Span<uint8_t> buffer) -> absl::Status {
        if (cancelled != nullptr && cancelled()) return absl::CancelledError("cancelled");
        absl::Status read = ReadStep(snapshot, snapshot, step, buffer);
        if (!read.ok()) return read;
        const uint64_t page_size = snapshot.blocks()[step.block].page_size;
        const uint64_t first_run = step.pages.first / Checksums::kPagesPerRun;
        const uint64_t runs = RunCount(step.pages.count, Checksums::kPagesPerRun);
        for (uint64_t run = first_run; run < first_run + runs; ++run) {
          uint32_t& crc = crcs[step.block][run];  // nobody else's
          ForEachNonzero(snapshot.nonzero(step.block), run, Checksums::kPagesPerRun,
                         [&](PageRun pages) {
                           crc = Crc32c(buffer.subspan((pages.first - step.pages.first) * page_size,
                                                       pages.count * page_size),
                                        crc);
                         });
        }
        return absl::OkStatus();
      });
  if (!walked.ok()) return walked;
  return AssembleChecksums(snapshot, crcs);
}

absl::StatusOr<Checksums> AssembleChecksums(const Snapshot& snapshot,
                                            absl::Span<const std::vector<uint32_t>> crcs) {
  const absl::StatusOr<uint64_t> digest = DigestSnapshot(snapshot);
  if (!digest.ok()) return digest.status();
  Checksums checksums{.snapshot_digest = *digest};
  for (size_t i = 0; i < snapshot.blocks().size(); ++i) {
    const SnapshotBlock& block = snapshot.blocks()[i];
    Checksums::Block& sums = checksums.blocks.emplace_back(
        Checksums::Block{block.idstr, block.page_size, block.pages(), {}});
    const PageBitmap& nonzero = snapshot.nonzero(i);
    for (auto found = nonzero.FindRun(true, 0, nonzero.size()); found.has_value();) {
      const uint64_t run = found->first / Checksums::kPagesPerRun;
      if (sums.stretches.empty() || sums.stretches.back().end() != run) {
        sums.stretches.push_back({.first = run});
      }
      sums.stretches.back().crcs.push_back(crcs[i][run]);
      const uint64_t next = (run + 1) * Checksums::kPagesPerRun;
      if (next >= nonzero.size()) break;
      found = nonzero.FindRun(true, next, nonzero.size());
    }
  }
  return checksums;
}

absl::StatusOr<BoundChecksums> BoundChecksums::Bind(Checksums checksums, const Snapshot& snapshot) {
  const absl::StatusOr<uint64_t> digest = DigestSnapshot(snapshot);
  if (!digest.ok()) return digest.status();
  bool fits =
      *digest == checksums.snapshot_digest && checksums.blocks.size() == snapshot.blocks().size();
  // Equal digests make all of this so, unless somebody wanted otherwise.
  for (size_t i = 0; fits && i < checksums.blocks.size(); ++i) {
    const Checksums::Block& sums = checksums.blocks[i];
    const SnapshotBlock& block = snapshot.blocks()[i];
    fits = sums.idstr == block.idstr && sums.page_size == block.page_size &&
           sums.pages == block.pages();
  }
  if (!fits) {
    return absl::FailedPreconditionError(
        absl::StrCat("the checksums are of another snapshot than ", snapshot.file().name()));
  }
  return BoundChecksums(std::move(checksums), snapshot);
}

absl::StatusOr<BoundChecksums> BoundChecksums::Read(const std::string& path,
                                                    const Snapshot& snapshot) {
  absl::StatusOr<Checksums> checksums = ReadChecksums(path);
  if (!checksums.ok()) return checksums.status();
  absl::StatusOr<BoundChecksums> bound = Bind(*std::move(checksums), snapshot);
  if (bound.ok()) return bound;
  return absl::Status(bound.status().code(), absl::StrCat(path, ": ", bound.status().message()));
}

BoundChecksums::BoundChecksums(Checksums checksums, const Snapshot& snapshot)
    : checksums_(std::move(checksums)), name_(snapshot.file().name()) {
  for (size_t i = 0; i < snapshot.blocks().size(); ++i) {
    const PageBitmap& from = snapshot.nonzero(i);
    PageBitmap& to = nonzero_.emplace_back(from.size());
    for (auto run = from.FindRun(true, 0, from.size()); run.has_value();
         run = from.FindRun(true, run->end(), from.size())) {
      to.SetRun(*run);
    }
  }
}

absl::Status BoundChecksums::Check(const PageSource& source, size_t block, uint64_t offset,
                                   absl::Span<const uint8_t> buffer) const {
  const uint64_t run_bytes = checksums_.pages_per_run * checksums_.blocks[block].page_size;
  for (uint64_t run = offset / run_bytes; run * run_bytes < offset + buffer.size(); ++run) {
    if (!HasNonzero(nonzero_[block], run, checksums_.pages_per_run)) continue;
    absl::Status status = CheckRun(source, block, run, offset, buffer);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status BoundChecksums::CheckRun(const PageSource& source, size_t block, uint64_t run,
                                      uint64_t offset, absl::Span<const uint8_t> buffer) const {
  static thread_local std::vector<uint8_t> rest;
  const uint64_t page_size = checksums_.blocks[block].page_size;
  const uint64_t end = offset + buffer.size();
  uint32_t crc = 0;
  absl::Status status;
  // Bytes [from, to), none of which are in the buffer.
  const auto add_rest = [&](uint64_t from, uint64_t to) {
    if (from >= to || !status.ok()) return;
    rest.resize(std::max<size_t>(rest.size(), to - from));
    const auto part = absl::MakeSpan(rest).first(to - from);
    status = source.ReadPages(block, from, part);
    crc = Crc32c(part, crc);
  };
  ForEachNonzero(nonzero_[block], run, checksums_.pages_per_run, [&](PageRun pages) {
    const uint64_t first = pages.first * page_size;
    const uint64_t last = pages.end() * page_size;
    add_rest(first, std::min(last, offset));
    const uint64_t inside = std::max(first, offset);
    if (inside < std::min(last, end)) {
      crc = Crc32c(buffer.subspan(inside - offset, std::min(last, end) - inside), crc);
    }
    add_rest(std::max(first, end), last);
  });
  if (!status.ok()) return status;
  const std::optional<uint32_t> expected = checksums_.blocks[block].Find(run);
  if (expected == crc) return absl::OkStatus();
  const uint64_t first = run * checksums_.pages_per_run;
  return absl::DataLossError(absl::StrFormat(
      "%s: the content of pages %d to %d of block \"%s\" is not what was saved: its checksum is "
      "%08x, and %s was written down",
      name_, first, std::min(first + checksums_.pages_per_run, nonzero_[block].size()) - 1,
      checksums_.blocks[block].idstr, crc,
      expected.has_value() ? absl::StrFormat("%08x", *expected) : "none"));
}

absl::Status CheckedSource::ReadPages(size_t block, uint64_t offset,
                                      absl::Span<uint8_t> buffer) const {
  if (absl::Status read = source_.ReadPages(block, offset, buffer); !read.ok()) return read;
  return checksums_.Check(source_, block, offset, buffer);
}

absl::Status CheckedSource::EndRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                                    absl::Span<uint8_t> buffer) const {
  absl::Status read = source_.EndRead(queue, slot, block, offset, buffer);
  return read.ok() ? checksums_.Check(source_, block, offset, buffer) : read;
}

absl::Status CheckedSource::ReadCached(size_t block, uint64_t offset,
                                       absl::Span<uint8_t> buffer) const {
  if (absl::Status read = source_.ReadCached(block, offset, buffer); !read.ok()) return read;
  return checksums_.Check(source_, block, offset, buffer);
}

}  // namespace ramjet
