#include "tools/convert_to_mapped_ram.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "mappedram/file.h"
#include "mappedram/format.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"
#include "tools/guest_image.h"

namespace ramjet {
namespace {

// libvirt's header, most of which is the domain's XML.
constexpr uint64_t kMaxWrapperBytes = 64 << 20;

class MappedRamOutput {
 public:
  explicit MappedRamOutput(Conversion& conversion)
      : conversion_(conversion), options_(conversion.options()), image_(conversion.image) {}

  absl::Status Write();

 private:
  absl::StatusOr<StreamParts> Stream();
  absl::Status TakeFrom(std::shared_ptr<const Snapshot> like);
  absl::Status FindWrapper(const Snapshot& snapshot);

  Conversion& conversion_;
  const ConvertOptions& options_;
  GuestImage& image_;
  std::shared_ptr<const Snapshot> like_;
  std::string wrapper_;
};

absl::Status MappedRamOutput::Write() {
  if (!options_.like.empty()) {
    absl::StatusOr<std::shared_ptr<const Snapshot>> like = OpenSnapshot(options_.like);
    if (!like.ok()) return like.status();
    absl::Status taken = TakeFrom(*std::move(like));
    if (!taken.ok()) return taken;
  }
  const std::shared_ptr<const Snapshot> stream_of = like_ != nullptr ? like_ : image_.snapshot;
  SnapshotWriter::Options options;
  options.threads = options_.threads;
  options.zero_detection = options_.zero_detection;
  options.direct = options_.direct;
  options.sync = options_.sync;
  options.checksums_path = options_.checksums;
  if (stream_of != nullptr) {
    absl::Status found = FindWrapper(*stream_of);
    if (!found.ok()) return found;
    options.wrapper = wrapper_;
    options.stream_offset = wrapper_.size();
  }
  absl::StatusOr<StreamParts> stream = Stream();
  if (!stream.ok()) return stream.status();
  std::vector<NewBlock> blocks;
  for (const GuestImage::Block& block : image_.blocks) {
    blocks.push_back({.idstr = block.idstr,
                      .used_length = block.length,
                      .page_size = image_.page_size,
                      .source = block.source,
                      .address = block.address});
  }
  SnapshotWriter writer(*std::move(stream), std::move(blocks), std::move(options));
  absl::Status written =
      conversion_.Watch([&] { return writer.progress().done; }, [&] { writer.Cancel(); },
                        [&] { return writer.Write(options_.out); });
  conversion_.written_bytes = writer.progress().written;
  return written;
}

absl::StatusOr<StreamParts> MappedRamOutput::Stream() {
  if (like_ != nullptr) return CarryStream(like_);
  if (image_.snapshot != nullptr) return CarryStream(image_.snapshot);
  StreamContent content;
  content.machine = std::string(NameOf(image_.format));
  content.devices = image_.sections;
  if (image_.page_size != 4096) {
    content.page_bits = static_cast<uint32_t>(std::bit_width(image_.page_size) - 1);
  }
  if (image_.format == ImageFormat::kFirecracker && image_.sections.empty()) {
    conversion_.left_out.push_back("Firecracker's state file, which --vmstate names");
  }
  return EncodeStream(content);
}

// The blocks of the image take the place of those of the snapshot, which gives all else.
absl::Status MappedRamOutput::TakeFrom(std::shared_ptr<const Snapshot> like) {
  const std::vector<SnapshotBlock>& theirs = like->blocks();
  // One block whose name nobody has said is the one of its length.
  if (options_.in.blocks.empty() && image_.blocks.size() == 1) {
    const auto fits = [&](const SnapshotBlock& block) {
      return block.used_length == image_.blocks[0].length;
    };
    const auto found = std::find_if(theirs.begin(), theirs.end(), fits);
    if (std::count_if(theirs.begin(), theirs.end(), fits) != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(options_.like, ": has not just one block of ", image_.blocks[0].length,
                       " bytes, which ", options_.in.path, " has: --blocks says which it is"));
    }
    image_.blocks[0].idstr = found->idstr;
  }
  std::vector<GuestImage::Block> blocks;
  size_t taken = 0;
  for (size_t i = 0; i < theirs.size(); ++i) {
    const auto ours = std::find_if(
        image_.blocks.begin(), image_.blocks.end(),
        [&](const GuestImage::Block& block) { return block.idstr == theirs[i].idstr; });
    GuestImage::Block block = {
        .idstr = theirs[i].idstr, .length = theirs[i].used_length, .address = theirs[i].address};
    if (ours != image_.blocks.end()) {
      ++taken;
      block.source = ours->source;
      if (ours->length != block.length) {
        return absl::InvalidArgumentError(absl::StrCat(options_.in.path, ": block \"", block.idstr,
                                                       "\" has ", ours->length, " bytes, but ",
                                                       block.length, " in ", options_.like));
      }
    } else if (theirs[i].in_file()) {
      image_.sources.push_back(std::make_unique<const SnapshotSource>(*like, i));
      block.source = image_.sources.back().get();
    }
    blocks.push_back(block);
  }
  if (taken != image_.blocks.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options_.in.path, ": not all of its blocks (",
                     absl::StrJoin(image_.blocks, ", ",
                                   [](std::string* out, const GuestImage::Block& block) {
                                     absl::StrAppend(out, block.idstr);
                                   }),
                     ") are in ", options_.like));
  }
  image_.blocks = std::move(blocks);
  image_.page_size = theirs[0].page_size;
  for (const SectionContent& section : image_.sections) {
    conversion_.left_out.push_back(section.name);
  }
  like_ = std::move(like);
  return absl::OkStatus();
}

// libvirt's header, if there is one: for an image of libvirt's, or to say that it is left out.
absl::Status MappedRamOutput::FindWrapper(const Snapshot& snapshot) {
  const File& file = snapshot.file();
  const uint64_t length = snapshot.description().stream_offset;
  std::string wrapper(std::min<uint64_t>(length, kMaxWrapperBytes), '\0');
  absl::Status read =
      file.ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(wrapper.data()), wrapper.size()));
  if (!read.ok()) return read;
  const bool is_libvirts = wrapper.substr(0, kSaveImageMagic.size()) == kSaveImageMagic;
  if (options_.to != ImageFormat::kLibvirt) {
    if (is_libvirts) conversion_.left_out.push_back("libvirt's header, with the domain's XML");
    return absl::OkStatus();
  }
  if (!is_libvirts) {
    return InvalidArgumentError(file, "has no header of libvirt's that could be carried along");
  }
  if (length > kMaxWrapperBytes) {
    return DataLossError(file, "has a header of ", length, " bytes, which is more than it can");
  }
  wrapper_ = std::move(wrapper);
  return absl::OkStatus();
}

}  // namespace

absl::Status ConvertToMappedRam(Conversion& conversion) {
  return MappedRamOutput(conversion).Write();
}

}  // namespace ramjet
