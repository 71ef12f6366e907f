#include "tools/bench/vm_load.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mappedram/file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/snapshot.h"
#include "tools/bench/c_face.h"
#include "tools/bench/one_page_loader.h"

namespace ramjet::bench {
namespace {

absl::StatusOr<std::unique_ptr<Snapshot>> OpenSnapshot(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  return Snapshot::Open(*std::move(file));
}

class FullRead : public VmLoad {
 public:
  explicit FullRead(const VmSource& source) : source_(source) {}

  absl::Status Begin() override {
    const auto load = c_face::Load::Open(source_.path, {.lazy = false});
    if (!load.ok()) return load.status();
    return (*load)->ReadBlock(source_.idstr, source_.memory);
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
    c_face::LoadOptions options = {.record = !source_.record.empty(),
                                   .single_pages = how_.single_pages};
    if (how_.working_set) options.working_set = source_.working_set;
    auto load = c_face::Load::Open(source_.path, options);
    if (!load.ok()) return load.status();
    load_ = *std::move(load);
    absl::Status attached = load_->Attach(source_.idstr, source_.memory);
    if (!attached.ok() || !how_.eager) return attached;
    return load_->StartEager();
  }
  absl::StatusOr<bool> WaitResident() override {
    if (!how_.eager) return false;
    const absl::Status complete = load_->Wait();
    if (!complete.ok()) return complete;
    return true;
  }
  absl::Status End() override {
    return source_.record.empty() ? absl::OkStatus() : load_->SaveWorkingSet(source_.record);
  }
  std::optional<uint64_t> FaultedPages() const override { return load_->FaultedPages(); }

 private:
  const VmSource& source_;
  const How how_;
  std::unique_ptr<c_face::Load> load_;
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
