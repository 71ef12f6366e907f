// The C face's saving of a machine.
#include <cerrno>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "loader/c_abi.h"
#include "loader/safe_copy.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"

namespace ramjet {
namespace {

constexpr uint64_t kSavePageBytes = 4096;  // QEMU's TARGET_PAGE_SIZE of x86

// A block's memory, some of which may be poisoned.
class SafeMemory : public RamSource {
 public:
  explicit SafeMemory(const ramjet_save_block& block) : block_(block) {}

  absl::StatusOr<std::optional<Extent>> NextExtent(uint64_t offset, uint64_t limit) const override {
    return Extent{offset, limit - offset};
  }
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> buffer) const override {
    const auto* const from = static_cast<const uint8_t*>(block_.host) + offset;
    const int error = CopySafely(buffer.data(), from, buffer.size());
    if (error == 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("block \"", block_.idstr,
                                               "\" cannot be read between bytes ", offset, " and ",
                                               offset + buffer.size(), ": ", std::strerror(error)));
  }

 private:
  const ramjet_save_block block_;
};

}  // namespace
}  // namespace ramjet

using ramjet::c_abi::Fail;
using ramjet::c_abi::Result;

int ramjet_save(const char* path, const ramjet_save_block* blocks, uint64_t block_count,
                const ramjet_save_device* devices, uint64_t device_count) {
  if (path == nullptr || (blocks == nullptr && block_count > 0) ||
      (devices == nullptr && device_count > 0)) {
    return Fail(EINVAL, "path, blocks or devices is NULL");
  }
  if (block_count == 0) return Fail(EINVAL, "there is no block to save");
  if (const int denied = ramjet::c_abi::CheckCopying(); denied < 0) return denied;
  std::deque<ramjet::SafeMemory> memory;
  std::vector<ramjet::NewBlock> new_blocks;
  ramjet::StreamContent content;
  for (uint64_t i = 0; i < block_count; ++i) {
    const ramjet_save_block& block = blocks[i];
    if (block.idstr == nullptr || *block.idstr == '\0' || std::strlen(block.idstr) > 255) {
      return Fail(EINVAL, absl::StrCat("block ", i, ": idstr is not 1 to 255 bytes long"));
    }
    for (uint64_t other = 0; other < i; ++other) {
      if (std::strcmp(blocks[other].idstr, block.idstr) == 0) {
        return Fail(EINVAL, absl::StrCat("two blocks are called \"", block.idstr, "\""));
      }
    }
    if (block.host == nullptr || block.length == 0 || block.length % ramjet::kSavePageBytes != 0) {
      return Fail(EINVAL, absl::StrCat("block \"", block.idstr, "\": its length of ", block.length,
                                       " bytes is no multiple of ", ramjet::kSavePageBytes));
    }
    new_blocks.push_back({.idstr = block.idstr,
                          .used_length = block.length,
                          .page_size = ramjet::kSavePageBytes,
                          .source = &memory.emplace_back(block)});
  }
  for (uint64_t i = 0; i < device_count; ++i) {
    const ramjet_save_device& device = devices[i];
    if (device.name == nullptr || *device.name == '\0' || std::strlen(device.name) > 255) {
      return Fail(EINVAL, absl::StrCat("device ", i, ": name is not 1 to 255 bytes long"));
    }
    if (device.state == nullptr && device.length > 0) {
      return Fail(EINVAL, absl::StrCat("device \"", device.name, "\": state is NULL"));
    }
    for (uint64_t other = 0; other < i; ++other) {
      if (std::strcmp(devices[other].name, device.name) == 0 &&
          devices[other].instance_id == device.instance_id) {
        return Fail(EINVAL, absl::StrCat("two devices are called \"", device.name, "\", instance ",
                                         device.instance_id));
      }
    }
    content.devices.push_back(
        {.name = device.name,
         .instance_id = device.instance_id,
         .version_id = device.version_id,
         .payload = std::string(static_cast<const char*>(device.state), device.length)});
  }
  absl::StatusOr<ramjet::StreamParts> stream = ramjet::EncodeStream(content);
  if (!stream.ok()) return Result(stream.status());
  ramjet::SnapshotWriter writer(*std::move(stream), std::move(new_blocks), {});
  return Result(writer.Write(path));
}
