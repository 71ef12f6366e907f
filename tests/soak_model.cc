#include "tests/soak_model.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loader/load_stats.h"
#include "loader/replace_file.h"
#include "loader/working_set.h"
#include "mappedram/file.h"
#include "mappedram/snapshot_digest.h"
#include "tests/snapshot_content.h"

namespace ramjet::soak {
void Die(const std::string& why) {
  std::fprintf(stderr, "soak: %s\n", why.c_str());
  std::fflush(stderr);
  std::_Exit(1);
}

void CheckOk(const absl::Status& status, const char* what) {
  if (!status.ok()) Die(absl::StrCat(what, ": ", status.ToString()));
}

Layout::Layout(uint64_t memory_mib, uint64_t seed) : salt(seed) {
  Random random(seed);
  const uint64_t pages = std::max<uint64_t>(memory_mib << 20, 4 << 20) / HostPageBytes();
  const uint64_t huge = kHugeBytes / HostPageBytes();
  const auto add = [&](uint64_t count, uint64_t longest_run, uint64_t longest_gap) {
    Block block{.pages = count, .nonzero = {}, .has = std::vector<bool>(count)};
    for (uint64_t at = random.Below(longest_gap); at < count && longest_run > 0;) {
      const uint64_t run = std::min(random.Between(1, longest_run), count - at);
      block.nonzero.push_back({at, run});
      std::fill_n(block.has.begin() + static_cast<int64_t>(at), run, true);
      at += run + random.Between(1, longest_gap);
    }
    blocks.push_back(std::move(block));
  };
  add(std::max(pages * 5 / 8 / huge, uint64_t{1}) * huge, 3 * huge, 40);  // dense, whole huge pages
  add(pages / 4 | 1, 60, 60);
  add(pages / 12 | 1, 4, 200);  // sparse
  add(1, 1, 1);
  add(random.Between(2, 9), 9, 2);
  add(random.Between(500, 700), 700, 5);
  add(33, 0, 2);  // nothing in the file

  SnapshotContent content;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto fill = [this, i](uint64_t page, absl::Span<uint8_t> to) {
      const PageWords words(salt, i, page);
      for (size_t w = 0; w < WordsPerPage(); ++w) {
        const Word word = words.At(w, kOriginal);
        std::memcpy(to.data() + w * sizeof(Word), &word, sizeof(Word));
      }
    };
    content.blocks.push_back({.idstr = absl::StrCat("block", i),
                              .used_length = blocks[i].pages * HostPageBytes(),
                              .page_size = HostPageBytes(),
                              .nonzero = blocks[i].nonzero,
                              .fill = fill});
  }
  const char* const directory = std::getenv("TEST_TMPDIR");
  std::string path = absl::StrCat(directory != nullptr ? directory : "/tmp", "/soak.XXXXXX");
  const int created = mkstemp(path.data());
  if (created < 0) Die("cannot create a snapshot in " + path);
  close(created);
  const absl::Status written = WriteSnapshot(content, path);
  fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  unlink(path.c_str());
  CheckOk(written, "snapshot");
  working_set = path + ".ws";
  WriteWorkingSet(random);
}

Layout::~Layout() {
  close(fd);
  unlink(working_set.c_str());
}

void Layout::WriteWorkingSet(Random& random) const {
  const absl::StatusOr<uint64_t> digest = DigestSnapshot(*Open());
  CheckOk(digest.status(), "digest");
  WorkingSet set{.snapshot_digest = *digest, .blocks = {}, .runs = {}};
  for (size_t i = 0; i < blocks.size(); ++i) {
    set.blocks.push_back({absl::StrCat("block", i), HostPageBytes(), blocks[i].pages});
    for (uint64_t page = 0; page < blocks[i].pages; ++page) {
      if (blocks[i].has[page] && random.Percent(33)) set.runs.push_back({i, {page, 1}});
    }
  }
  for (size_t i = set.runs.size(); i > 1; --i) {
    std::swap(set.runs[i - 1], set.runs[random.Below(i)]);
  }
  CheckOk(ReplaceFile(working_set, EncodeWorkingSet(set)), "working set");
}

std::shared_ptr<Snapshot> Layout::Open() const {
  absl::StatusOr<File> file = File::Open(absl::StrCat("/proc/self/fd/", fd));
  CheckOk(file.status(), "snapshot");
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = Snapshot::Open(*std::move(file));
  CheckOk(snapshot.status(), "snapshot");
  return *std::move(snapshot);
}

Storage::Storage(const Layout& layout, const Snapshot& snapshot, uint64_t seed, bool may_poison)
    : snapshot_(snapshot), seed_(seed), made_ns_(MonotonicNs()) {
  Random random(seed);
  for (uint64_t i = random.Percent(40) ? random.Between(1, 4) : 0; i > 0; --i) {
    blips_.push_back({random.Below(400'000'000), random.Between(1'000'000, 300'000'000)});
  }
  if (random.Percent(30)) no_memory_per_10000_ = random.Between(1, 300);
  if (random.Percent(40)) stalls_per_10000_ = random.Between(1, 60);
  const uint64_t flaky = random.Percent(50) ? random.Between(1, 30) : 0;
  const uint64_t shaky = may_poison && random.Percent(30) ? random.Between(1, 10) : 0;
  const uint64_t broken = may_poison && random.Percent(40) ? random.Between(1, 20) : 0;
  for (const Layout::Block& block : layout.blocks) {
    pages_.emplace_back(block.pages);
    failing_.emplace_back();
    for (uint64_t i = 0; i < block.pages; ++i) {
      const uint64_t draw = random.Below(5000);
      if (!block.has[i] || draw >= flaky + shaky + broken) continue;
      Page& page = pages_.back()[i];
      failing_.back().push_back(i);
      if (draw < flaky) {
        page.failures = static_cast<uint8_t>(random.Between(1, 2));
      } else if (draw < flaky + shaky) {
        page.fate = Fate::kShaky;
        page.data_loss = random.Percent(30);
        page.failures = static_cast<uint8_t>(page.data_loss ? 1 : random.Between(3, 8));
      } else {
        page.fate = Fate::kBroken;
        page.data_loss = random.Percent(95);  // a guest waits for the others for seconds
        page.failures = kForEver;
      }
    }
  }
}

bool Storage::IsGone() const {
  const uint64_t age_ns = MonotonicNs() - made_ns_;
  return std::any_of(blips_.begin(), blips_.end(), [&](const Blip& blip) {
    return age_ns >= blip.from_ns && age_ns - blip.from_ns < blip.length_ns;
  });
}

absl::Status Storage::Inject(size_t block, PageRun run) const {
  if (IsGone()) return absl::UnavailableError("soak: the disk is gone for a moment");
  if (Mix(seed_ ^ 2, reads_.load()) % 10000 < no_memory_per_10000_) {
    reads_.fetch_add(1);
    return absl::ResourceExhaustedError("");
  }
  if (Mix(seed_, reads_.fetch_add(1)) % 10000 < stalls_per_10000_ && !settled_.load()) {
    absl::SleepFor(absl::Microseconds(Mix(seed_, ~reads_.load()) % 50'000));
  }
  const std::vector<uint64_t>& failing = failing_[block];
  for (auto at = std::lower_bound(failing.begin(), failing.end(), run.first);
       at != failing.end() && *at < run.end(); ++at) {
    const Page& page = pages_[block][*at];
    uint8_t failures = page.failures.load();
    while (failures != 0 && failures != kForEver &&
           !page.failures.compare_exchange_weak(failures, static_cast<uint8_t>(failures - 1))) {
    }
    if (failures == 0) continue;
    const std::string what = absl::StrCat("soak: block ", block, ", page ", *at);
    return page.data_loss ? absl::DataLossError(what) : absl::UnavailableError(what);
  }
  return absl::OkStatus();
}

}  // namespace ramjet::soak
