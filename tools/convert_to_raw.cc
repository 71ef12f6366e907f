#include "tools/convert_to_raw.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "mappedram/cloud_hypervisor.h"
#include "mappedram/file.h"
#include "mappedram/flat_image.h"
#include "mappedram/layered_source.h"
#include "mappedram/new_file.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot.h"
#include "mappedram/stream_parts.h"
#include "tools/guest_image.h"

namespace ramjet {
namespace {

class RawOutput {
 public:
  explicit RawOutput(Conversion& conversion)
      : conversion_(conversion), options_(conversion.options()), image_(conversion.image) {}

  absl::Status ToFlat();
  absl::Status ToFirecracker();
  absl::Status ToCloudHypervisor();

 private:
  absl::Status OpenBases(std::vector<File>& files) const;
  absl::Status WriteFlat(const NewFile& file, const RamSource* base);
  absl::StatusOr<std::string> FindSection(const char* name) const;
  absl::StatusOr<NewFile> StageSmallFile(const std::string& path, const std::string& bytes) const;
  absl::Status WriteSmallFile(const std::string& path, const std::string& bytes) const;
  // `beside`, if there is one, gets its name with `file` or not at all.
  absl::Status Publish(NewFile& file, NewFile* beside = nullptr) const;
  void KeepOnlyNamed();
  void LeaveOutSections(absl::string_view but = "");

  Conversion& conversion_;
  const ConvertOptions& options_;
  GuestImage& image_;
};

absl::Status RawOutput::WriteFlat(const NewFile& file, const RamSource* base) {
  std::vector<FlatImage::Block> blocks;
  for (const GuestImage::Block& block : image_.blocks) {
    if (block.source == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(options_.in.path, ": block \"", block.idstr,
                       "\" is shared with whoever loads it, and its content is not in the file"));
    }
    blocks.push_back({.source = block.source, .length = block.length});
  }
  FlatImage image(std::move(blocks), base,
                  {.threads = options_.threads, .writeback = options_.sync && !options_.direct});
  absl::Status written =
      conversion_.Watch([&] { return image.done_bytes(); }, [&] { image.Cancel(); },
                        [&] { return image.Write(file); });
  conversion_.written_bytes = image.written_bytes();
  return written;
}

absl::Status RawOutput::Publish(NewFile& file, NewFile* beside) const {
  absl::Status status = options_.sync ? file.Sync() : absl::OkStatus();
  if (status.ok() && beside != nullptr && options_.sync) status = beside->Sync();
  if (status.ok() && conversion_.signals().Came()) {
    status = absl::CancelledError(absl::StrCat(file.path(), ": its writing was cancelled"));
  }
  if (!status.ok()) return status;
  return beside == nullptr ? file.Publish() : NewFile::PublishBoth(file, *beside);
}

absl::StatusOr<NewFile> RawOutput::StageSmallFile(const std::string& path,
                                                  const std::string& bytes) const {
  absl::StatusOr<NewFile> file = NewFile::Create(path, {});
  if (!file.ok()) return file;
  absl::Status written =
      file->WriteAt(0, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  if (!written.ok()) return written;
  return file;
}

absl::Status RawOutput::WriteSmallFile(const std::string& path, const std::string& bytes) const {
  absl::StatusOr<NewFile> file = StageSmallFile(path, bytes);
  return file.ok() ? Publish(*file) : file.status();
}

void RawOutput::LeaveOutSections(absl::string_view but) {
  size_t sections = 0;
  const auto count = [&](absl::string_view name) { sections += name == but ? 0 : 1; };
  for (const SectionContent& section : image_.sections) count(section.name);
  if (image_.snapshot != nullptr) {
    for (const DeviceSection& section : image_.snapshot->description().devices) count(section.name);
  }
  if (sections > 0) {
    conversion_.left_out.push_back(absl::StrCat("the device state, of ", sections, " sections"));
  }
}

// With --blocks, a mapped-ram file's others are not converted.
void RawOutput::KeepOnlyNamed() {
  if (image_.snapshot != nullptr && !options_.in.blocks.empty()) {
    image_.blocks.resize(options_.in.blocks.size());
  }
}

absl::Status RawOutput::ToFlat() {
  KeepOnlyNamed();
  LeaveOutSections();
  absl::StatusOr<NewFile> file = NewFile::Create(options_.out, {.direct = options_.direct});
  if (!file.ok()) return file.status();
  absl::Status written = WriteFlat(*file, nullptr);
  return written.ok() ? Publish(*file) : written;
}

absl::Status RawOutput::ToFirecracker() {
  KeepOnlyNamed();
  LeaveOutSections(kFirecrackerState);
  // What is said of Firecracker's files is said of the input if that is such.
  const bool is_output = image_.format != ImageFormat::kFirecracker;
  const bool with_state = is_output && !options_.in.vmstate.empty();
  const absl::StatusOr<std::string> state = FindSection(kFirecrackerState);
  if (with_state && !state.ok()) return state.status();
  if (with_state) {
    const std::string where = absl::StrCat("the state in ", options_.in.path);
    absl::Status checked =
        CheckFirecrackerState(where, *state, options_.out, conversion_.total_bytes()).status();
    if (!checked.ok()) return checked;
  }
  if (!with_state && state.ok()) {
    conversion_.left_out.push_back("Firecracker's state file, which --vmstate names");
  }
  std::vector<File> base_files;
  std::optional<LayeredSource> base;
  if (is_output && !options_.in.bases.empty()) {
    absl::Status opened = OpenBases(base_files);
    if (!opened.ok()) return opened;
    std::vector<const File*> layers;
    for (const File& file : base_files) layers.push_back(&file);
    base.emplace(layers, 0);
  }
  absl::StatusOr<NewFile> file = NewFile::Create(options_.out, {.direct = options_.direct});
  if (!file.ok()) return file.status();
  absl::Status written = WriteFlat(*file, base ? &*base : nullptr);
  if (!written.ok()) return written;
  if (!with_state) return Publish(*file);
  absl::StatusOr<NewFile> beside = StageSmallFile(options_.in.vmstate, *state);
  return beside.ok() ? Publish(*file, &*beside) : beside.status();
}

absl::Status RawOutput::OpenBases(std::vector<File>& files) const {
  uint64_t total = 0;
  for (const GuestImage::Block& block : image_.blocks) total += block.length;
  for (const std::string& path : options_.in.bases) {
    absl::StatusOr<File> file = File::Open(path);
    if (!file.ok()) return file.status();
    file->WatchForWrites();
    if (file->size() != total) {
      return InvalidArgumentError(*file, "has ", file->size(), " bytes, but the guest has ", total,
                                  ": it is not its base");
    }
    files.push_back(*std::move(file));
  }
  if (!options_.in.full) return CheckHasNoHoles(files.back(), nullptr);
  return absl::OkStatus();
}

absl::StatusOr<std::string> RawOutput::FindSection(const char* name) const {
  if (image_.snapshot != nullptr) return ReadSection(*image_.snapshot, name);
  for (const SectionContent& section : image_.sections) {
    if (section.name == name) return section.payload;
  }
  return absl::NotFoundError(absl::StrCat(options_.in.path, ": has no section \"", name, "\""));
}

// A directory that gets its name when it is complete.
absl::Status RawOutput::ToCloudHypervisor() {
  const absl::StatusOr<std::string> state = FindSection(kCloudHypervisorState);
  if (!state.ok()) return state.status();
  const absl::StatusOr<std::string> config = FindSection(kCloudHypervisorConfig);
  if (!config.ok()) return config.status();
  const absl::StatusOr<std::vector<GuestRange>> ranges = ParseMemoryRanges(*state);
  if (!ranges.ok()) {
    return absl::Status(ranges.status().code(),
                        absl::StrCat(options_.in.path, ": ", ranges.status().message()));
  }
  // In the order of the ranges.
  std::vector<GuestImage::Block> blocks;
  for (const GuestRange& range : *ranges) {
    const std::string name = RangeBlockName(range.address);
    const auto found = std::find_if(image_.blocks.begin(), image_.blocks.end(),
                                    [&](const GuestImage::Block& block) {
                                      return block.idstr == name && block.length == range.length;
                                    });
    if (found == image_.blocks.end()) {
      return absl::InvalidArgumentError(absl::StrCat(options_.in.path, ": has no block \"", name,
                                                     "\" of ", range.length,
                                                     " bytes, which its state tells of"));
    }
    blocks.push_back(*found);
  }
  image_.blocks = std::move(blocks);

  std::error_code error;
  if (std::filesystem::exists(std::filesystem::symlink_status(options_.out, error))) {
    return absl::AlreadyExistsError(absl::StrCat(options_.out, ": is there already"));
  }
  const std::string temporary = absl::StrCat(options_.out, ".", getpid(), ".tmp");
  if (mkdir(temporary.c_str(), 0700) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(options_.out, ": cannot be created"));
  }
  const absl::Cleanup remove = [&] {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
  };
  absl::Status written = WriteSmallFile(temporary + "/config.json", *config);
  if (written.ok()) written = WriteSmallFile(temporary + "/state.json", *state);
  if (!written.ok()) return written;
  absl::StatusOr<NewFile> file =
      NewFile::Create(temporary + "/memory-ranges", {.direct = options_.direct});
  if (!file.ok()) return file.status();
  written = WriteFlat(*file, nullptr);
  if (written.ok()) written = Publish(*file);
  if (!written.ok()) return written;
  if (rename(temporary.c_str(), options_.out.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(options_.out, ": cannot be given its name"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ConvertToRaw(Conversion& conversion) {
  RawOutput output(conversion);
  switch (conversion.options().to) {
    case ImageFormat::kFirecracker:
      return output.ToFirecracker();
    case ImageFormat::kCloudHypervisor:
      return output.ToCloudHypervisor();
    default:
      return output.ToFlat();
  }
}

}  // namespace ramjet
