#include "tools/bench/c_face.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "loader/ramjet.h"

namespace c_face {
namespace {

absl::Status Answer(int result, const char* what) {
  if (result >= 0) return absl::OkStatus();
  return absl::ErrnoToStatus(-result, absl::StrCat(what, ": ", ramjet_error()));
}

class OpenLoad : public Load {
 public:
  explicit OpenLoad(ramjet* load) : load_(load) {}
  ~OpenLoad() override {
    ramjet_abandon(load_);
    ramjet_close(load_);
  }
  OpenLoad(const OpenLoad&) = delete;
  OpenLoad& operator=(const OpenLoad&) = delete;

  absl::Status ReadBlock(const std::string& idstr, absl::Span<uint8_t> memory) override {
    return Answer(ramjet_read_block(load_, idstr.c_str(), memory.data(), memory.size()),
                  "ramjet_read_block");
  }

  absl::Status Attach(const std::string& idstr, absl::Span<uint8_t> memory) override {
    ramjet_block block = RAMJET_BLOCK_INIT;
    block.idstr = idstr.c_str();
    block.host = memory.data();
    block.length = memory.size();
    return Answer(ramjet_attach(load_, &block), "ramjet_attach");
  }

  absl::Status StartEager() override {
    return Answer(ramjet_start_eager(load_), "ramjet_start_eager");
  }

  absl::Status Wait() override {
    const absl::Status complete = Answer(ramjet_wait(load_, -1), "ramjet_wait");
    return complete.ok() ? Answer(ramjet_detach(load_), "ramjet_detach") : complete;
  }

  absl::Status SaveWorkingSet(const std::string& path) override {
    return Answer(ramjet_save_working_set(load_, path.c_str()), "ramjet_save_working_set");
  }

  uint64_t FaultedPages() const override {
    ramjet_stats stats = RAMJET_STATS_INIT;
    ramjet_get_stats(load_, &stats);
    return stats.faulted_pages;
  }

 private:
  ramjet* const load_;
};

}  // namespace

std::string Version() { return ramjet_version(); }

absl::StatusOr<std::unique_ptr<Load>> Load::Open(const std::string& path,
                                                 const LoadOptions& options) {
  ramjet_options with = RAMJET_OPTIONS_INIT;
  if (!options.lazy) with.flags |= RAMJET_NOT_LAZY;
  if (options.record) with.flags |= RAMJET_RECORD;
  if (options.single_pages) with.flags |= RAMJET_SINGLE_PAGES;
  if (!options.working_set.empty()) with.working_set = options.working_set.c_str();
  ramjet* load = nullptr;
  const absl::Status opened = Answer(ramjet_open(path.c_str(), &with, &load), "ramjet_open");
  if (!opened.ok()) return opened;
  return std::make_unique<OpenLoad>(load);
}

}  // namespace c_face
