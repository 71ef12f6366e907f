#include "tools/verify.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "mappedram/checksums.h"
#include "mappedram/file.h"
#include "mappedram/new_file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/page_source.h"
#include "mappedram/page_walk.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"
#include "tools/error_line.h"
#include "tools/foreign_snapshot.h"

namespace ramjet {
namespace {

using Json = nlohmann::ordered_json;

// Of what is bad or differs; the rest is counted.
constexpr size_t kMaxShown = 1000;
constexpr size_t kMaxShownText = 16;

int Fail(const absl::Status& status) {
  PrintError(status.message());
  return 1;
}

int Print(const std::string& text) {
  if (fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0) return 0;
  return Fail(absl::ErrnoToStatus(errno, "stdout"));
}

int Print(const Json& object) {
  return Print(object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

absl::StatusOr<std::unique_ptr<Snapshot>> OpenSnapshot(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return NameForeignSnapshot(path, file.status());
  file->WatchForWrites();
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  if (!snapshot.ok()) return NameForeignSnapshot(path, snapshot.status());
  (void)(*snapshot)->OpenBulk(DirectReads::kAuto);  // nobody else has it
  return snapshot;
}

// Pages of a block, and what is the matter with them.
struct Found {
  size_t block = 0;
  PageRun pages = {};
  std::string why = {};
};

// Joins what belongs together.
std::vector<Found> Sorted(std::vector<Found> found) {
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::tie(a.block, a.pages.first) < std::tie(b.block, b.pages.first);
  });
  std::vector<Found> joined;
  for (Found& next : found) {
    if (!joined.empty() && joined.back().block == next.block &&
        joined.back().pages.end() == next.pages.first && joined.back().why == next.why) {
      joined.back().pages.count += next.pages.count;
    } else {
      joined.push_back(std::move(next));
    }
  }
  return joined;
}

// Several threads add to it.
class FoundList {
 public:
  void Add(Found found) {
    const absl::MutexLock lock(&mu_);
    pages_ += found.pages.count;
    found_.push_back(std::move(found));
  }
  std::vector<Found> Take() {
    const absl::MutexLock lock(&mu_);
    return Sorted(std::move(found_));
  }
  uint64_t pages() const {
    const absl::MutexLock lock(&mu_);
    return pages_;
  }

 private:
  mutable absl::Mutex mu_;
  std::vector<Found> found_ ABSL_GUARDED_BY(mu_);
  uint64_t pages_ ABSL_GUARDED_BY(mu_) = 0;
};

std::string Describe(const Snapshot& snapshot, const Found& found) {
  const std::string& idstr = snapshot.blocks()[found.block].idstr;
  return found.pages.count == 1 ? absl::StrFormat("%s: page %d", idstr, found.pages.first)
                                : absl::StrFormat("%s: pages %d to %d", idstr, found.pages.first,
                                                  found.pages.end() - 1);
}

Json AsJson(const Snapshot& snapshot, const std::vector<Found>& found) {
  Json list = Json::array();
  for (const Found& each : found) {
    if (list.size() == kMaxShown) break;
    Json& entry = list.emplace_back(Json{{"block", snapshot.blocks()[each.block].idstr},
                                         {"page", each.pages.first},
                                         {"count", each.pages.count}});
    if (!each.why.empty()) entry["error"] = each.why;
  }
  return list;
}

// What a step's reading fails with is looked for in ever smaller parts of it, down to what has one
// checksum.
void FindBad(const Snapshot& snapshot, const PageSource& source, const WalkStep& step,
             absl::Span<uint8_t> buffer, FoundList& bad) {
  const absl::Status read = ReadStep(snapshot, source, step, buffer);
  if (read.ok()) return;
  if (step.pages.count <= Checksums::kPagesPerRun) {
    return bad.Add({step.block, step.pages, std::string(read.message())});
  }
  const uint64_t page_size = snapshot.blocks()[step.block].page_size;
  for (uint64_t at = 0; at < step.pages.count; at += Checksums::kPagesPerRun) {
    const uint64_t count = std::min(Checksums::kPagesPerRun, step.pages.count - at);
    FindBad(snapshot, source, {step.block, {step.pages.first + at, count}},
            buffer.subspan(at * page_size, count * page_size), bad);
  }
}

struct Difference {
  std::vector<std::string> only_in_a = {};
  std::vector<std::string> only_in_b = {};
  // Block, bytes in a and in b.
  std::vector<std::tuple<std::string, uint64_t, uint64_t>> resized = {};
  std::vector<Found> pages = {};  // of a's blocks, within what both have of them
  uint64_t page_count = 0;

  bool same() const {
    return only_in_a.empty() && only_in_b.empty() && resized.empty() && page_count == 0;
  }
};

// The block of `in` that is called as that, and is in its file.
std::optional<size_t> FindBlock(const Snapshot& in, const std::string& idstr) {
  for (size_t i = 0; i < in.blocks().size(); ++i) {
    if (in.blocks()[i].idstr == idstr && in.blocks()[i].in_file()) return i;
  }
  return std::nullopt;
}

std::vector<std::string> OnlyIn(const Snapshot& a, const Snapshot& b) {
  std::vector<std::string> only;
  for (const SnapshotBlock& block : a.blocks()) {
    if (block.in_file() && !FindBlock(b, block.idstr)) only.push_back(block.idstr);
  }
  return only;
}

// Adds the pages of `step`, in blocks `in_a` and `in_b`, that differ.
absl::Status CompareStep(const Snapshot& a, size_t in_a, const Snapshot& b, size_t in_b,
                         PageRun step, FoundList& list) {
  static thread_local std::vector<uint8_t> bytes_a;
  static thread_local std::vector<uint8_t> bytes_b;
  const uint64_t page_size = a.blocks()[in_a].page_size;
  bytes_a.resize(step.count * page_size);
  bytes_b.resize(step.count * page_size);
  absl::Status read = SnapshotSource(a, in_a).Read(step.first * page_size, absl::MakeSpan(bytes_a));
  if (read.ok()) {
    read = SnapshotSource(b, in_b).Read(step.first * page_size, absl::MakeSpan(bytes_b));
  }
  if (!read.ok()) return read;
  PageRun run;
  for (uint64_t page = 0; page < step.count; ++page) {
    const uint64_t at = page * page_size;
    if (std::memcmp(bytes_a.data() + at, bytes_b.data() + at, page_size) == 0) continue;
    if (run.count > 0 && run.end() != step.first + page) list.Add({in_a, std::exchange(run, {})});
    if (run.count == 0) run.first = step.first + page;
    ++run.count;
  }
  if (run.count > 0) list.Add({in_a, run});
  return absl::OkStatus();
}

absl::StatusOr<Difference> Compare(const Snapshot& a, const Snapshot& b) {
  Difference difference{.only_in_a = OnlyIn(a, b), .only_in_b = OnlyIn(b, a)};
  for (const SnapshotBlock& block : a.blocks()) {
    const std::optional<size_t> in_b = FindBlock(b, block.idstr);
    if (!block.in_file() || !in_b) continue;
    const SnapshotBlock& other = b.blocks()[*in_b];
    if (block.page_size != other.page_size) {
      return InvalidArgumentError(a.file(), "block \"", block.idstr, "\" has pages of ",
                                  block.page_size, " bytes, but of ", other.page_size, " in ",
                                  b.file().name(), ": they cannot be compared");
    }
    if (block.used_length != other.used_length) {
      difference.resized.emplace_back(block.idstr, block.used_length, other.used_length);
    }
  }
  FoundList list;
  // Where a has pages, and then where only b has.
  const auto compare = [&](const Snapshot& walked, const Snapshot& other, bool walks_a) {
    return WalkPages(walked, 0, [&](const WalkStep& step, absl::Span<uint8_t>) {
      const std::optional<size_t> found = FindBlock(other, walked.blocks()[step.block].idstr);
      if (!found.has_value()) return absl::OkStatus();
      const uint64_t limit = std::min(step.pages.end(), other.blocks()[*found].pages());
      if (limit <= step.pages.first) return absl::OkStatus();
      const PageRun pages = {step.pages.first, limit - step.pages.first};
      if (walks_a) return CompareStep(a, step.block, b, *found, pages, list);
      if (other.nonzero(*found).FindRun(true, pages.first, pages.end())) return absl::OkStatus();
      return CompareStep(a, *found, b, step.block, pages, list);
    });
  };
  absl::Status compared = compare(a, b, true);
  if (compared.ok()) compared = compare(b, a, false);
  if (!compared.ok()) return compared;
  difference.page_count = list.pages();
  difference.pages = list.Take();
  return difference;
}

}  // namespace

int VerifySnapshot(const std::string& path, const std::string& checksums, bool json) {
  const absl::StatusOr<std::unique_ptr<Snapshot>> opened = OpenSnapshot(path);
  if (!opened.ok()) return Fail(opened.status());
  const Snapshot& snapshot = **opened;
  std::optional<BoundChecksums> bound;
  std::optional<CheckedSource> checked;
  if (!checksums.empty()) {
    absl::StatusOr<BoundChecksums> read = BoundChecksums::Read(checksums, snapshot);
    if (!read.ok()) return Fail(read.status());
    bound.emplace(*std::move(read));
    checked.emplace(snapshot.bulk(), *bound);
  }
  const PageSource& source = checked.has_value() ? *checked : snapshot.bulk();

  FoundList list;
  const absl::Status walked =
      WalkPages(snapshot, 0, [&](const WalkStep& step, absl::Span<uint8_t> buffer) {
        FindBad(snapshot, source, step, buffer, list);
        return absl::OkStatus();
      });
  if (!walked.ok()) return Fail(walked);
  const std::vector<Found> bad = list.Take();

  uint64_t pages = 0;
  uint64_t bytes = 0;
  for (const SnapshotBlock& block : snapshot.blocks()) {
    pages += block.nonzero_pages;
    bytes += block.nonzero_pages * block.page_size;
  }
  const uint64_t sums = bound.has_value() ? bound->checksums().runs() : 0;
  int status = 0;
  if (json) {
    status = Print(Json{{"schema", "ramjet.verify/1"},
                        {"ok", bad.empty()},
                        {"nonzero_pages", pages},
                        {"nonzero_bytes", bytes},
                        {"checksums", bound.has_value() ? Json(sums) : Json()},
                        {"bad_pages", list.pages()},
                        {"bad", AsJson(snapshot, bad)}});
  } else if (bad.empty()) {
    status = Print(absl::StrFormat(
        "%s: complete, all of its %d nonzero pages can be read%s\n", path, pages,
        bound.has_value() ? absl::StrFormat(", and are what %d checksums say", sums) : ""));
  } else {
    std::string text = absl::StrFormat("%s: complete, but not all of it is good:\n", path);
    for (const Found& each : absl::MakeSpan(bad).first(std::min(bad.size(), kMaxShownText))) {
      absl::StrAppend(&text, Describe(snapshot, each), "\n");
    }
    if (bad.size() > kMaxShownText) {
      absl::StrAppend(&text, "and ", bad.size() - kMaxShownText, " more\n");
    }
    status = Print(text);
  }
  if (status != 0 || bad.empty()) return status;
  return Fail(absl::DataLossError(bad[0].why));
}

int ChecksumSnapshot(const std::string& path, const std::string& out) {
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = OpenSnapshot(path);
  if (!snapshot.ok()) return Fail(snapshot.status());
  absl::StatusOr<NewFile> file = NewFile::Create(out, {});
  if (!file.ok()) return Fail(file.status());
  const absl::StatusOr<Checksums> checksums = ComputeChecksums(**snapshot);
  if (!checksums.ok()) return Fail(checksums.status());
  absl::Status written = StageChecksums(*checksums, *file);
  if (written.ok()) written = file->Publish();
  if (!written.ok()) return Fail(written);
  return Print(absl::StrFormat("%s: %d checksums of %s\n", out, checksums->runs(), path));
}

int DiffSnapshots(const std::string& path_a, const std::string& path_b, bool json) {
  const absl::StatusOr<std::unique_ptr<Snapshot>> opened_a = OpenSnapshot(path_a);
  if (!opened_a.ok()) return Fail(opened_a.status());
  const absl::StatusOr<std::unique_ptr<Snapshot>> opened_b = OpenSnapshot(path_b);
  if (!opened_b.ok()) return Fail(opened_b.status());
  const Snapshot& a = **opened_a;
  const Snapshot& b = **opened_b;
  absl::StatusOr<Difference> difference = Compare(a, b);
  if (!difference.ok()) return Fail(difference.status());
  const std::vector<Found>& pages = difference->pages;

  int status = 0;
  if (json) {
    Json resized = Json::array();
    for (const auto& [idstr, bytes_a, bytes_b] : difference->resized) {
      resized.push_back({{"idstr", idstr}, {"bytes_a", bytes_a}, {"bytes_b", bytes_b}});
    }
    status = Print(Json{{"schema", "ramjet.diff/1"},
                        {"same", difference->same()},
                        {"only_in_a", difference->only_in_a},
                        {"only_in_b", difference->only_in_b},
                        {"resized", std::move(resized)},
                        {"differing_pages", difference->page_count},
                        {"runs", AsJson(a, pages)}});
  } else {
    std::string text;
    for (const std::string& idstr : difference->only_in_a) {
      absl::StrAppend(&text, idstr, ": only in ", path_a, "\n");
    }
    for (const std::string& idstr : difference->only_in_b) {
      absl::StrAppend(&text, idstr, ": only in ", path_b, "\n");
    }
    for (const auto& [idstr, bytes_a, bytes_b] : difference->resized) {
      absl::StrAppend(&text, idstr, ": ", bytes_a, " bytes, and ", bytes_b, "\n");
    }
    for (const Found& each : absl::MakeSpan(pages).first(std::min(pages.size(), kMaxShown))) {
      absl::StrAppend(&text, Describe(a, each), "\n");
    }
    if (pages.size() > kMaxShown) {
      absl::StrAppend(&text, "and ", pages.size() - kMaxShown, " more\n");
    }
    status = Print(text);
  }
  if (status != 0 || difference->same()) return status;
  return Fail(absl::FailedPreconditionError(absl::StrCat("the RAM of ", path_a, " and ", path_b,
                                                         " differs, in ", difference->page_count,
                                                         " pages of the blocks that both have")));
}

}  // namespace ramjet
