#include "tools/workingset.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "loader/replace_file.h"
#include "loader/working_set.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_digest.h"
#include "tools/error_line.h"
#include "tools/foreign_snapshot.h"

namespace ramjet {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kSampleRuns = 16;

int Fail(const absl::Status& status) {
  PrintError(status.message());
  return 1;
}

int Print(const std::string& text) {
  if (fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0) return 0;
  return Fail(absl::ErrnoToStatus(errno, "stdout"));
}

absl::StatusOr<uint64_t> DigestFile(const std::string& path,
                                    std::optional<uint64_t> stream_offset) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return NameForeignSnapshot(path, file.status());
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot =
      Snapshot::Open(*std::move(file), stream_offset);
  if (!snapshot.ok()) return NameForeignSnapshot(path, snapshot.status(), stream_offset);
  return DigestSnapshot(**snapshot);
}

std::vector<uint64_t> PagesByBlock(const WorkingSet& set) {
  std::vector<uint64_t> pages(set.blocks.size());
  for (const WorkingSet::Run& run : set.runs) pages[run.block] += run.pages.count;
  return pages;
}

absl::Span<const WorkingSet::Run> Sample(const WorkingSet& set) {
  return absl::MakeSpan(set.runs).first(std::min(set.runs.size(), kSampleRuns));
}

std::string Mebibytes(uint64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string AsJson(const WorkingSet& set, std::optional<bool> matches) {
  const std::vector<uint64_t> touched = PagesByBlock(set);
  Json blocks = Json::array();
  for (size_t i = 0; i < set.blocks.size(); ++i) {
    blocks.push_back({{"idstr", set.blocks[i].idstr},
                      {"page_size", set.blocks[i].page_size},
                      {"pages", set.blocks[i].pages},
                      {"touched", touched[i]}});
  }
  Json first = Json::array();
  for (const WorkingSet::Run& run : Sample(set)) {
    first.push_back({{"block", set.blocks[run.block].idstr},
                     {"page", run.pages.first},
                     {"count", run.pages.count}});
  }
  const Json object = {{"schema", "ramjet.workingset/1"},
                       {"snapshot_digest", absl::StrFormat("%016x", set.snapshot_digest)},
                       {"matches", matches ? Json(*matches) : Json()},
                       {"pages", set.pages()},
                       {"bytes", set.bytes()},
                       {"runs", set.runs.size()},
                       {"blocks", std::move(blocks)},
                       {"first", std::move(first)}};
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string AsText(const std::string& path, const WorkingSet& set, std::optional<bool> matches) {
  std::string text = absl::StrFormat(
      "%s: working set, %d pages (%s) in %d runs\nof the snapshot %016x%s\n\n", path, set.pages(),
      Mebibytes(set.bytes()), set.runs.size(), set.snapshot_digest,
      !matches   ? ""
      : *matches ? ", which is the one given"
                 : ", WHICH IS NOT THE ONE GIVEN");
  size_t width = 5;
  for (const WorkingSet::Block& block : set.blocks) width = std::max(width, block.idstr.size());
  const int name_width = static_cast<int>(width);
  absl::StrAppendFormat(&text, "%-*s %9s %12s %12s\n", name_width, "block", "page size", "pages",
                        "touched");
  const std::vector<uint64_t> touched = PagesByBlock(set);
  for (size_t i = 0; i < set.blocks.size(); ++i) {
    absl::StrAppendFormat(&text, "%-*s %9d %12d %12d\n", name_width, set.blocks[i].idstr,
                          set.blocks[i].page_size, set.blocks[i].pages, touched[i]);
  }
  absl::StrAppendFormat(&text, "\n%-*s %12s %12s\n", name_width, "first", "page", "count");
  for (const WorkingSet::Run& run : Sample(set)) {
    absl::StrAppendFormat(&text, "%-*s %12d %12d\n", name_width, set.blocks[run.block].idstr,
                          run.pages.first, run.pages.count);
  }
  if (set.runs.size() > kSampleRuns) {
    absl::StrAppendFormat(&text, "and %d more\n", set.runs.size() - kSampleRuns);
  }
  return text;
}

absl::StatusOr<WorkingSet> ReadDisjoint(const std::string& path) {
  absl::StatusOr<WorkingSet> set = ReadWorkingSet(path);
  if (!set.ok()) return set;
  const absl::Status disjoint = CheckDisjoint(*set);
  if (disjoint.ok()) return set;
  return absl::Status(disjoint.code(), absl::StrCat(path, ": ", disjoint.message()));
}

}  // namespace

int ShowWorkingSet(const std::string& path, const std::string& snapshot,
                   std::optional<uint64_t> stream_offset, bool json) {
  const absl::StatusOr<WorkingSet> set = ReadDisjoint(path);
  if (!set.ok()) return Fail(set.status());
  std::optional<bool> matches;
  if (!snapshot.empty()) {
    const absl::StatusOr<uint64_t> digest = DigestFile(snapshot, stream_offset);
    if (!digest.ok()) return Fail(digest.status());
    matches = *digest == set->snapshot_digest;
  }
  const int status = Print(json ? AsJson(*set, matches) : AsText(path, *set, matches));
  if (status != 0 || matches.value_or(true)) return status;
  return Fail(absl::FailedPreconditionError(
      absl::StrCat(path, ": is of another snapshot than ", snapshot)));
}

int MergeWorkingSetFiles(const std::vector<std::string>& paths, const std::string& out) {
  std::vector<WorkingSet> sets;
  for (const std::string& path : paths) {
    absl::StatusOr<WorkingSet> set = ReadDisjoint(path);
    if (!set.ok()) return Fail(set.status());
    sets.push_back(*std::move(set));
    if (sets.back().snapshot_digest != sets.front().snapshot_digest) {
      return Fail(absl::InvalidArgumentError(
          absl::StrCat(path, ": is of another snapshot than ", paths.front())));
    }
  }
  const absl::StatusOr<WorkingSet> merged = MergeWorkingSets(sets);
  if (!merged.ok()) return Fail(merged.status());
  const absl::Status written = ReplaceFile(out, EncodeWorkingSet(*merged));
  if (!written.ok()) return Fail(written);
  return Print(absl::StrFormat("%s: %d pages (%s) in %d runs, of %d working sets\n", out,
                               merged->pages(), Mebibytes(merged->bytes()), merged->runs.size(),
                               sets.size()));
}

}  // namespace ramjet
