// Snapshot files for tests and benchmarks: content by description, and such as no save leaves.
#ifndef RAMJET_TESTS_SNAPSHOT_CONTENT_H_
#define RAMJET_TESTS_SNAPSHOT_CONTENT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "mappedram/format.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/stream_parts.h"

namespace ramjet {

// Fills `page_content` with bytes that depend on `page` and their place, none of them zero.
void FillPagePattern(uint64_t page, absl::Span<uint8_t> page_content);

struct BlockContent {
  std::string idstr = {};
  uint64_t used_length = 0;
  uint64_t page_size = 0;
  // Pages that are in the file, in ascending order, and what fills each of them.
  std::vector<PageRun> nonzero = {};
  std::function<void(uint64_t page, absl::Span<uint8_t> page_content)> fill = FillPagePattern;
  bool ignored =
      false;  // shared with the one who loads it: not in the file. Needs "x-ignore-shared".
};

struct SnapshotContent {
  std::string machine = "none";
  std::vector<std::string> capabilities = {"mapped-ram"};
  std::optional<uint32_t> page_bits;
  std::string uuid;  // 16 bytes, or none
  std::vector<BlockContent> blocks;
  std::vector<SectionContent> early_devices;  // in front of the RAM, as virtio-mem is
  std::vector<SectionContent> live;           // beside the RAM, as dirty-bitmap is
  std::vector<SectionContent> devices;
  bool vmdesc = true;
  bool interrupted =
      false;  // stop as a save does that is killed: bitmaps empty, the file ends in the first PART
  uint64_t stream_offset = 0;
  uint64_t pages_alignment =
      kPagesAlignment;  // of every pages_offset; QEMU reads any that is a multiple of the page size
};

// Creates `path`, or replaces its content. Holes stay holes: what is written is the headers, the
// bits set and their pages, so that a guest of 1 TiB costs nothing but its pages.
absl::Status WriteSnapshot(const SnapshotContent& content, const std::string& path);

}  // namespace ramjet

#endif  // RAMJET_TESTS_SNAPSHOT_CONTENT_H_
