#include "tools/bench/vm_load.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "loader/ramjet.h"
#include "mappedram/file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot.h"
#include "tools/bench/one_page_loader.h"

namespace ramjet::bench {
namespace {

absl::StatusOr<std::unique_ptr<Snapshot>> OpenSnapshot(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  return Snapshot::Open(*std::move(file));
}

struct Closer {
  void operator()(ramjet_load* load) const {
    ramjet_abandon(load);  // unless it is complete
    ramjet_close(load);
  }
};
using Load = std::unique_ptr<ramjet_load, Closer>;

absl::Status Answer(int result, const char* function) {
  if (result >= 0) return absl::OkStatus();
  return absl::ErrnoToStatus(-result, absl::StrCat(function, ": ", ramjet_error()));
}

absl::StatusOr<Load> OpenLoad(const std::string& path, const ramjet_options& options) {
  ramjet_load* load = nullptr;
  const absl::Status opened = Answer(ramjet_open(path.c_str(), &options, &load), "ramjet_open");
  if (!opened.ok()) return opened;
  return Load(load);
}

class FullRead : public VmLoad {
 public:
  explicit FullRead(const VmSource& source) : source_(source) {}

  absl::Status Begin() override {
    ramjet_options options = RAMJET_OPTIONS_INIT;
    options.flags = RAMJET_NOT_LAZY;
    const absl::StatusOr<Load> load = OpenLoad(source_.path, options);
    if (!load.ok()) return load.status();
    return Answer(ramjet_read_block(load->get(), source_.idstr.c_str(), source_.memory.data(),
                                    source_.memory.size()),
                  "ramjet_read_block");
  }
  absl::StatusOr<bool> WaitResident() override { return true; }

 private:
  const VmSource& source_;
};

// Long runs of zero pages stay anonymous. Short ones are mapped with the rest, for the number of
// mappings of a process is limited; nobody touches them here.
class MapPrivate : public VmLoad {
 public:
  explicit MapPrivate(const VmSource& source) : source_(source) {}

  absl::Status Begin() override {
    absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = OpenSnapshot(source_.path);
    if (!snapshot.ok()) return snapshot.status();
    const SnapshotBlock& block = (*snapshot)->blocks()[source_.block];
    const PageBitmap& nonzero = (*snapshot)->nonzero(source_.block);
    const uint64_t page_size = block.page_size;
    const uint64_t pages = block.pages();
    for (uint64_t page = 0; page < pages;) {
      std::optional<PageRun> content = nonzero.FindRun(true, page, pages);
      if (!content) break;
      while (const std::optional<PageRun> next = nonzero.FindRun(true, content->end(), pages)) {
        if ((next->first - content->end()) * page_size >= kLeastZeroBytes) break;
        content->count = next->end() - content->first;
      }
      const uint64_t offset = content->first * page_size;
      void* const mapped =
          mmap(source_.memory.data() + offset, content->count * page_size, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_FIXED, (*snapshot)->file().fd(),
               static_cast<off_t>(block.pages_offset + offset));
      if (mapped == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of the snapshot");
      page = content->end();
    }
    return absl::OkStatus();
  }
  absl::StatusOr<bool> WaitResident() override { return false; }

 private:
  static constexpr uint64_t kLeastZeroBytes = 2 << 20;

  const VmSource& source_;
};

class OnePage : public VmLoad {
 public:
  OnePage(const VmSource& source, bool prefault) : source_(source), prefault_(prefault) {}

  absl::Status Begin() override {
    absl::StatusOr<std::unique_ptr<Snapshot>> snapshot = OpenSnapshot(source_.path);
    if (!snapshot.ok()) return snapshot.status();
    snapshot_ = *std::move(snapshot);
    auto loader =
        OnePageLoader::Start(snapshot_->file().fd(), snapshot_->blocks()[source_.block],
                             snapshot_->nonzero(source_.block), source_.memory, prefault_);
    if (!loader.ok()) return loader.status();
    loader_ = *std::move(loader);
    return absl::OkStatus();
  }
  absl::StatusOr<bool> WaitResident() override {
    if (prefault_) loader_->Wait();
    return prefault_;
  }
  std::optional<uint64_t> FaultedPages() const override { return loader_->faulted_pages(); }

 private:
  const VmSource& source_;
  const bool prefault_;
  std::unique_ptr<Snapshot> snapshot_;
  std::unique_ptr<OnePageLoader> loader_;
};

class Lazy : public VmLoad {
 public:
  struct How {
    bool eager = true;
    bool working_set = false;
    bool single_pages = false;
  };
  Lazy(const VmSource& source, How how) : source_(source), how_(how) {}

  absl::Status Begin() override {
    ramjet_options options = RAMJET_OPTIONS_INIT;
    if (!source_.record.empty()) options.flags |= RAMJET_RECORD;
    if (how_.single_pages) options.flags |= RAMJET_SINGLE_PAGES;
    if (how_.working_set) options.working_set = source_.working_set.c_str();
    absl::StatusOr<Load> load = OpenLoad(source_.path, options);
    if (!load.ok()) return load.status();
    load_ = *std::move(load);
    ramjet_block block = RAMJET_BLOCK_INIT;
    block.idstr = source_.idstr.c_str();
    block.host = source_.memory.data();
    block.length = source_.memory.size();
    absl::Status attached = Answer(ramjet_attach(load_.get(), &block), "ramjet_attach");
    if (!attached.ok() || !how_.eager) return attached;
    return Answer(ramjet_start_eager(load_.get()), "ramjet_start_eager");
  }
  absl::StatusOr<bool> WaitResident() override {
    if (!how_.eager) return false;
    absl::Status loaded = Answer(ramjet_wait(load_.get(), -1), "ramjet_wait");
    if (loaded.ok()) loaded = Answer(ramjet_detach(load_.get()), "ramjet_detach");
    if (!loaded.ok()) return loaded;
    return true;
  }
  absl::Status End() override {
    if (source_.record.empty()) return absl::OkStatus();
    return Answer(ramjet_save_working_set(load_.get(), source_.record.c_str()),
                  "ramjet_save_working_set");
  }
  std::optional<uint64_t> FaultedPages() const override {
    ramjet_stats stats = RAMJET_STATS_INIT;
    ramjet_get_stats(load_.get(), &stats);
    return stats.faulted_pages;
  }

 private:
  const VmSource& source_;
  const How how_;
  Load load_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VmLoad>> MakeVmLoad(const std::string& contestant,
                                                   const VmSource& source) {
  if (contestant == "full-read") return std::make_unique<FullRead>(source);
  if (contestant == "map-private") return std::make_unique<MapPrivate>(source);
  if (contestant == "one-page") return std::make_unique<OnePage>(source, /*prefault=*/true);
  if (contestant == "fault-loop") return std::make_unique<OnePage>(source, /*prefault=*/false);
  if (contestant == "ramjet") return std::make_unique<Lazy>(source, Lazy::How{});
  if (contestant == "ramjet-demand") {
    return std::make_unique<Lazy>(source, Lazy::How{.eager = false});
  }
  if (contestant == "ramjet-pages") {
    return std::make_unique<Lazy>(source, Lazy::How{.single_pages = true});
  }
  if (contestant == "ramjet-ws") {
    const bool loads = source.record.empty();
    return std::make_unique<Lazy>(source, Lazy::How{.eager = loads, .working_set = loads});
  }
  return absl::InvalidArgumentError(absl::StrCat("there is no contestant \"", contestant, "\""));
}

}  // namespace ramjet::bench
