#include "loader/touch_record.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

absl::StatusOr<std::unique_ptr<TouchRecord>> TouchRecord::Create(uint64_t pages) {
  const size_t room = std::max<uint64_t>(1, pages);
  void* const memory = mmap(nullptr, room * sizeof(Touch), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no room to record the touches of ", pages, " pages: ", std::strerror(errno)));
  }
  return std::unique_ptr<TouchRecord>(new TouchRecord(static_cast<Touch*>(memory), room));
}

TouchRecord::~TouchRecord() { munmap(touches_, room_ * sizeof(Touch)); }

WorkingSet ToWorkingSet(absl::Span<const TouchRecord::Touch> touches,
                        absl::Span<const SnapshotBlock> blocks,
                        absl::Span<const uint64_t> page_bytes, uint64_t snapshot_digest) {
  WorkingSet set{.snapshot_digest = snapshot_digest, .blocks = {}, .runs = {}};
  struct Seen {
    size_t index;  // in set.blocks
    PageBitmap pages;
  };
  std::vector<std::optional<Seen>> seen(blocks.size());
  for (const TouchRecord::Touch& touch : touches) {
    const SnapshotBlock& block = blocks[touch.block()];
    std::optional<Seen>& known = seen[touch.block()];
    if (!known) {
      known.emplace(Seen{set.blocks.size(), PageBitmap(block.pages())});
      set.blocks.push_back({block.idstr, block.page_size, block.pages()});
    }
    const uint64_t bytes = page_bytes[touch.block()];
    const uint64_t end = std::min((touch.page() + 1) * bytes, block.used_length);
    const uint64_t last = (end - 1) / block.page_size;
    for (uint64_t page = touch.page() * bytes / block.page_size; page <= last; ++page) {
      if (!known->pages.TestAndSet(page)) set.Append(known->index, {page, 1});
    }
  }
  return set;
}

}  // namespace ramjet
