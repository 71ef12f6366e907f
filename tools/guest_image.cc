#include "tools/guest_image.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"
#include "mappedram/cloud_hypervisor.h"
#include "mappedram/format.h"
#include "mappedram/layered_source.h"
#include "tools/foreign_snapshot.h"

namespace ramjet {
namespace {

constexpr const char* kNames[] = {"mapped-ram", "libvirt", "raw", "firecracker",
                                  "cloud-hypervisor"};
// What Firecracker and Cloud Hypervisor write beside the memory has some hundred KiB.
constexpr uint64_t kMaxSmallFileBytes = 256 << 20;
constexpr char kDefaultBlock[] = "ram";

// mapped-ram, if the file begins as such a one; else it is not told.
absl::StatusOr<ImageFormat> Recognise(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return ImageFormat::kCloudHypervisor;
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  std::string head(std::min<uint64_t>(file->size(), kSaveImageMagic.size()), '\0');
  absl::Status read =
      file->ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(head.data()), head.size()));
  if (!read.ok()) return read;
  const bool wrapped = head == kSaveImageMagic || head == kSaveImagePartMagic;
  if (wrapped || head.substr(0, 4) == "QEVM") return ImageFormat::kMappedRam;
  return NameForeignSnapshot(
      path, InvalidArgumentError(*file,
                                 "is no mapped-ram file, and of others nothing in the file says "
                                 "what it is: --from raw, or --from firecracker"));
}

const File& KeepFile(GuestImage& image, File file) {
  return *image.files.emplace_back(std::make_unique<const File>(std::move(file)));
}

template <typename Source, typename... Arguments>
const RamSource* Keep(GuestImage& image, Arguments&&... arguments) {
  image.sources.push_back(std::make_unique<const Source>(std::forward<Arguments>(arguments)...));
  return image.sources.back().get();
}

// Brings the blocks named into that order, in front of the others.
absl::Status Reorder(const std::vector<std::string>& names, GuestImage& image) {
  auto next = image.blocks.begin();
  for (const std::string& name : names) {
    const auto found = std::find_if(next, image.blocks.end(), [&](const GuestImage::Block& block) {
      return block.idstr == name;
    });
    if (found == image.blocks.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no block \"", name, "\", or it was named twice"));
    }
    std::rotate(next, found, found + 1);
    ++next;
  }
  return absl::OkStatus();
}

absl::StatusOr<GuestImage> OpenMappedRam(const GuestImageOptions& options) {
  absl::StatusOr<std::shared_ptr<const Snapshot>> snapshot =
      OpenSnapshot(options.path, options.stream_offset);
  if (!snapshot.ok()) return snapshot.status();
  GuestImage image;
  const std::vector<SnapshotBlock>& blocks = (*snapshot)->blocks();
  for (size_t i = 0; i < blocks.size(); ++i) {
    image.blocks.push_back(
        {.idstr = blocks[i].idstr,
         .length = blocks[i].used_length,
         .source = blocks[i].in_file() ? Keep<SnapshotSource>(image, **snapshot, i) : nullptr,
         .address = blocks[i].address});
  }
  if (!blocks.empty()) image.page_size = blocks[0].page_size;
  image.snapshot = *std::move(snapshot);
  const absl::Status ordered = Reorder(options.blocks, image);
  if (ordered.ok()) return image;
  return absl::InvalidArgumentError(absl::StrCat(options.path, ": ", ordered.message()));
}

absl::Status BadBlock(const GuestImageOptions& options, absl::string_view block,
                      absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(options.path, ": block \"", block, "\" ", why));
}

// Names and lengths of the blocks in a file of `size` bytes.
absl::StatusOr<std::vector<GuestImage::Block>> LayOut(const GuestImageOptions& options,
                                                      uint64_t size) {
  std::vector<std::string> wanted = options.blocks;
  if (wanted.empty()) wanted = {kDefaultBlock};
  std::vector<GuestImage::Block> blocks;
  uint64_t left = size;
  for (const std::string& words : wanted) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(words, absl::MaxSplits(':', 1));
    uint64_t length = left;
    if (parts.first != words && !absl::SimpleAtoi(parts.second, &length)) {
      return BadBlock(options, words, "has no number of bytes behind its colon");
    }
    if (parts.first == words && &words != &wanted.back()) {
      return BadBlock(options, words, "has no length, which only the last may lack");
    }
    if (length > left || length == 0 || length % options.page_size != 0) {
      return BadBlock(
          options, words,
          absl::StrCat("of ", length, " bytes is empty, or no multiple of the page size ",
                       options.page_size, ", or more than the ", left,
                       " bytes that are left of the file"));
    }
    blocks.push_back({.idstr = parts.first, .length = length});
    left -= length;
  }
  if (left == 0) return blocks;
  return absl::InvalidArgumentError(
      absl::StrCat(options.path, ": has ", left, " bytes more than its blocks"));
}

// What is not in holes.
struct Data {
  uint64_t bytes = 0;
  uint64_t first_hole = 0;  // where that begins; the file's size: there is none
};

absl::StatusOr<Data> FindData(const File& file) {
  const FileSource all(file, 0);
  Data data = {.first_hole = file.size()};
  for (uint64_t at = 0; at < file.size();) {
    const absl::StatusOr<std::optional<RamSource::Extent>> next = all.NextExtent(at, file.size());
    if (!next.ok()) return next.status();
    const RamSource::Extent extent = next->value_or(RamSource::Extent{file.size(), 0});
    if (extent.offset > at) data.first_hole = std::min(data.first_hole, at);
    data.bytes += extent.length;
    at = extent.end();
  }
  return data;
}

std::string Mebibytes(uint64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

absl::StatusOr<GuestImage> OpenFlat(const GuestImageOptions& options, ImageFormat format) {
  GuestImage image;
  image.page_size = options.page_size;
  std::vector<const File*> layers;
  const bool is_firecrackers = format == ImageFormat::kFirecracker;
  std::vector<std::string> paths = {options.path};
  if (is_firecrackers) paths.insert(paths.end(), options.bases.begin(), options.bases.end());
  for (const std::string& path : paths) {
    absl::StatusOr<File> file = File::Open(path);
    if (!file.ok()) return file.status();
    file->WatchForWrites();
    layers.push_back(&KeepFile(image, *std::move(file)));
    if (layers.back()->size() != layers.front()->size()) {
      return InvalidArgumentError(*layers.back(), "has ", layers.back()->size(), " bytes, but ",
                                  options.path, " has ", layers.front()->size(),
                                  ": they are not of one guest");
    }
    const absl::StatusOr<Data> data = FindData(*layers.back());
    if (!data.ok()) return data.status();
    // All of it would be taken for changed, and what is below would not be looked at.
    if (data->first_hole == layers.back()->size() && layers.size() < paths.size()) {
      return InvalidArgumentError(*layers.back(),
                                  "is said to be a diff, but has no holes: it is a full image, or "
                                  "was copied without them");
    }
  }
  absl::StatusOr<std::vector<GuestImage::Block>> blocks = LayOut(options, layers[0]->size());
  if (!blocks.ok()) return blocks.status();
  image.blocks = *std::move(blocks);
  uint64_t begin = 0;
  for (GuestImage::Block& block : image.blocks) {
    block.source = Keep<LayeredSource>(image, layers, begin);
    begin += block.length;
  }
  std::optional<FirecrackerState> state;
  if (is_firecrackers && !options.vmstate.empty()) {
    absl::StatusOr<std::string> bytes = ReadSmallFile(options.vmstate);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<FirecrackerState> checked =
        CheckFirecrackerState(options.vmstate, *bytes, options.path, layers[0]->size());
    if (!checked.ok()) return checked.status();
    state = *std::move(checked);
    image.sections.push_back({.name = kFirecrackerState, .payload = *std::move(bytes)});
  }
  if (is_firecrackers && !options.full) {
    absl::Status dense = CheckHasNoHoles(*layers.back(), state ? &*state : nullptr);
    if (!dense.ok()) return dense;
  }
  image.format = format;
  return image;
}

absl::StatusOr<GuestImage> OpenCloudHypervisor(const GuestImageOptions& options) {
  GuestImage image;
  image.format = ImageFormat::kCloudHypervisor;
  image.page_size = options.page_size;
  absl::StatusOr<std::string> state = ReadSmallFile(options.path + "/state.json");
  if (!state.ok()) return NameForeignSnapshot(options.path, state.status());
  absl::StatusOr<std::string> config = ReadSmallFile(options.path + "/config.json");
  if (!config.ok()) return NameForeignSnapshot(options.path, config.status());
  if (absl::Status checked = CheckConfiguration(*config); !checked.ok()) {
    return absl::Status(checked.code(),
                        absl::StrCat(options.path, "/config.json: ", checked.message()));
  }
  const absl::StatusOr<std::vector<GuestRange>> ranges = ParseMemoryRanges(*state);
  if (!ranges.ok()) {
    return absl::Status(ranges.status().code(),
                        absl::StrCat(options.path, "/state.json: ", ranges.status().message()));
  }
  absl::StatusOr<File> file = File::Open(options.path + "/memory-ranges");
  if (!file.ok()) return file.status();
  file->WatchForWrites();
  const File& memory = KeepFile(image, *std::move(file));
  uint64_t begin = 0;
  for (const GuestRange& range : *ranges) {
    image.blocks.push_back({.idstr = RangeBlockName(range.address),
                            .length = range.length,
                            .source = Keep<FileSource>(image, memory, begin)});
    begin += range.length;
  }
  if (begin != memory.size()) {
    return DataLossError(memory, "has ", memory.size(),
                         " bytes, but the ranges in state.json have ", begin);
  }
  image.sections.push_back({.name = kCloudHypervisorState, .payload = *std::move(state)});
  image.sections.push_back({.name = kCloudHypervisorConfig, .payload = *std::move(config)});
  return image;
}

}  // namespace

std::vector<std::string> ImageFormatNames() { return {std::begin(kNames), std::end(kNames)}; }

absl::string_view NameOf(ImageFormat format) { return kNames[static_cast<int>(format)]; }

std::optional<ImageFormat> FormatOf(absl::string_view name) {
  const auto* const found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) return std::nullopt;
  return static_cast<ImageFormat>(found - std::begin(kNames));
}

std::string RangeBlockName(uint64_t address) { return absl::StrFormat("ram@%#x", address); }

absl::StatusOr<GuestImage> OpenGuestImage(const GuestImageOptions& options) {
  absl::StatusOr<ImageFormat> format =
      options.format ? absl::StatusOr<ImageFormat>(*options.format) : Recognise(options.path);
  if (!format.ok()) return format.status();
  switch (*format) {
    case ImageFormat::kMappedRam:
    case ImageFormat::kLibvirt:
      return OpenMappedRam(options);
    case ImageFormat::kRaw:
    case ImageFormat::kFirecracker:
      return OpenFlat(options, *format);
    case ImageFormat::kCloudHypervisor:
      return OpenCloudHypervisor(options);
  }
  return absl::InternalError("no such format");
}

absl::StatusOr<std::shared_ptr<const Snapshot>> OpenSnapshot(
    const std::string& path, std::optional<uint64_t> stream_offset) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  file->WatchForWrites();
  absl::StatusOr<std::unique_ptr<Snapshot>> snapshot =
      Snapshot::Open(*std::move(file), stream_offset);
  if (!snapshot.ok()) return NameForeignSnapshot(path, snapshot.status(), stream_offset);
  return std::shared_ptr<const Snapshot>(*std::move(snapshot));
}

absl::Status CheckHasNoHoles(const File& lowest, const FirecrackerState* state) {
  const absl::StatusOr<Data> data = FindData(lowest);
  if (!data.ok() || data->first_hole == lowest.size()) return data.status();
  absl::string_view hint;
  if (state != nullptr && state->boot_bytes == lowest.size()) {
    hint = " (its guest has no memory to unplug, so it is a diff or a sparse copy)";
  } else if (data->first_hole == data->bytes) {
    hint = " (all are at its end, as in a full snapshot with unplugged memory)";
  }
  return InvalidArgumentError(lowest, "has holes, ", Mebibytes(lowest.size() - data->bytes), " of ",
                              Mebibytes(lowest.size()), hint,
                              ": if it is a diff, --base names the snapshot before it; if it is a "
                              "full one, --full says that they are zeros");
}

absl::StatusOr<FirecrackerState> CheckFirecrackerState(absl::string_view where,
                                                       absl::string_view bytes,
                                                       absl::string_view memory,
                                                       uint64_t memory_bytes) {
  absl::StatusOr<FirecrackerState> state = ParseFirecrackerState(bytes);
  if (!state.ok()) {
    return absl::Status(state.status().code(), absl::StrCat(where, ": ", state.status().message()));
  }
  const uint64_t boot_bytes = state->boot_bytes.value_or(memory_bytes);
  if (memory_bytes == boot_bytes || (memory_bytes > boot_bytes && state->can_hotplug)) return state;
  return absl::InvalidArgumentError(absl::StrCat(memory, ": has ", memory_bytes,
                                                 " bytes, but the guest of ", where, " has ",
                                                 boot_bytes, ": they are not of one snapshot"));
}

absl::StatusOr<std::string> ReadSection(const Snapshot& snapshot, absl::string_view name) {
  for (const DeviceSection& section : snapshot.description().devices) {
    if (section.name != name) continue;
    std::string payload(section.size, '\0');
    absl::Status read = snapshot.file().ReadAt(
        section.offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(payload.data()), payload.size()));
    if (!read.ok()) return read;
    return payload;
  }
  return absl::NotFoundError(
      absl::StrCat(snapshot.file().name(), ": has no section \"", name, "\""));
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->size() > kMaxSmallFileBytes) {
    return DataLossError(*file, "has ", file->size(), " bytes, which is more than it can");
  }
  std::string text(file->size(), '\0');
  absl::Status read =
      file->ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(text.data()), text.size()));
  if (!read.ok()) return read;
  return text;
}

}  // namespace ramjet
