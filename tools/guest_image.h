// A guest's memory, and what comes with it, in any of the forms that VMMs leave behind.
#ifndef RAMJET_TOOLS_GUEST_IMAGE_H_
#define RAMJET_TOOLS_GUEST_IMAGE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mappedram/file.h"
#include "mappedram/firecracker_state.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/stream_parts.h"

namespace ramjet {

enum class ImageFormat {
  kMappedRam,        // QEMU's, or ours; as an input also behind libvirt's header
  kLibvirt,          // the same behind libvirt's header: a "sparse" save image
  kRaw,              // plain bytes
  kFirecracker,      // the same, but a hole may mean "as in the base"
  kCloudHypervisor,  // a directory: memory-ranges, state.json, config.json
};

// "mapped-ram", "libvirt", ...; the words of --from and --to, in the order of the enum.
std::vector<std::string> ImageFormatNames();
absl::string_view NameOf(ImageFormat format);
std::optional<ImageFormat> FormatOf(absl::string_view name);

// In a mapped-ram file, what other VMMs' snapshots have beside the memory is in sections of these
// names, as it is.
constexpr char kFirecrackerState[] = "firecracker/vmstate";
constexpr char kCloudHypervisorState[] = "cloud-hypervisor/state.json";
constexpr char kCloudHypervisorConfig[] = "cloud-hypervisor/config.json";

// The name of the block that has a range of Cloud Hypervisor's: "ram@0x100000000".
std::string RangeBlockName(uint64_t address);

struct GuestImage {
  struct Block {
    std::string idstr = {};
    uint64_t length = 0;
    const RamSource* source = nullptr;  // null: shared with whoever loads it, and not here
    uint64_t address = 0;               // of such a one
  };

  ImageFormat format = ImageFormat::kMappedRam;
  uint64_t page_size = 0;
  std::vector<Block> blocks;             // in the order of the file
  std::vector<SectionContent> sections;  // of a VMM that is not QEMU
  // Null if it is no mapped-ram file. Then the sections are its, and not above.
  std::shared_ptr<const Snapshot> snapshot;
  // What the blocks point to.
  std::vector<std::unique_ptr<const File>> files;
  std::vector<std::unique_ptr<const RamSource>> sources;
};

struct GuestImageOptions {
  std::string path = {};
  std::optional<ImageFormat> format = {};  // none: by what is there
  std::optional<uint64_t> stream_offset = {};
  // Of raw and Firecracker's, which do not tell: what the blocks are, one behind the other,
  // "NAME:BYTES", of which the last may be a "NAME" alone. None: one block.
  std::vector<std::string> blocks = {};
  uint64_t page_size = 4096;
  // Of Firecracker's, and looked at for no other:
  std::vector<std::string> bases = {};  // the layers below, the next one first
  std::string vmstate = {};             // its other file, or none
  bool full = false;                    // holes of the lowest layer are zeros
};

// InvalidArgument: it is not told, or not what it is said to be. DataLoss: it is damaged.
absl::StatusOr<GuestImage> OpenGuestImage(const GuestImageOptions& options);

// A mapped-ram file, behind libvirt's header or not.
absl::StatusOr<std::shared_ptr<const Snapshot>> OpenSnapshot(
    const std::string& path, std::optional<uint64_t> stream_offset = std::nullopt);

// Fails if `lowest`, a memory file of Firecracker's below which there is no other, has holes: of a
// diff they are what its base has there. Nothing in the file tells a diff from a full snapshot some
// of whose memory is unplugged, or that was copied sparsely, so the caller asks this unless the
// user has said that it is full. `state` is of the same snapshot; null: it is not at hand.
absl::Status CheckHasNoHoles(const File& lowest, const FirecrackerState* state);

// The payload of the section of that name; NotFound if there is none.
absl::StatusOr<std::string> ReadSection(const Snapshot& snapshot, absl::string_view name);

// As ParseFirecrackerState(), of what is at `where`, which errors name. Also InvalidArgument if the
// memory of that guest has not `memory_bytes`, as far as the state tells; `memory` has them.
absl::StatusOr<FirecrackerState> CheckFirecrackerState(absl::string_view where,
                                                       absl::string_view bytes,
                                                       absl::string_view memory,
                                                       uint64_t memory_bytes);

// All of a file that is not memory. DataLoss if it is larger than anything such can be.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_GUEST_IMAGE_H_
