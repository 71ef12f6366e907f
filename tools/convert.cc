#include "tools/convert.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "mappedram/cloud_hypervisor.h"
#include "mappedram/flat_image.h"
#include "mappedram/format.h"
#include "mappedram/layered_source.h"
#include "mappedram/new_file.h"
#include "nlohmann/json.hpp"
#include "tools/deferred_signals.h"
#include "tools/progress_bar.h"

namespace ramjet {
namespace {

// libvirt's header, most of which is the domain's XML.
constexpr uint64_t kMaxWrapperBytes = 64 << 20;
constexpr absl::Duration kPollEvery = absl::Milliseconds(100);

// What came of it.
struct Converted {
  std::vector<GuestImage::Block> blocks;  // as they are in the output
  uint64_t total_bytes = 0;
  uint64_t written_bytes = 0;
  std::vector<std::string> left_out;
};

class Conversion {
 public:
  Conversion(const ConvertOptions& options, GuestImage image, const DeferredSignals& signals)
      : options_(options), image_(std::move(image)), signals_(signals), bar_(options.out) {}

  absl::StatusOr<Converted> Run();

 private:
  absl::Status ToMappedRam();
  absl::StatusOr<StreamParts> Stream();
  absl::Status TakeFrom(std::shared_ptr<const Snapshot> like);
  absl::Status FindWrapper(const Snapshot& snapshot);
  absl::Status ToFlat();
  absl::Status ToFirecracker();
  absl::Status OpenBases(std::vector<File>& files) const;
  absl::Status ToCloudHypervisor();
  absl::Status WriteFlat(const NewFile& file, const RamSource* base);
  absl::StatusOr<std::string> FindSection(const char* name) const;
  absl::Status WriteSmallFile(const std::string& path, const std::string& bytes) const;
  absl::Status Publish(NewFile& file) const;
  void KeepOnlyNamed();
  void LeaveOutSections(absl::string_view but = "");

  template <typename Writer>
  absl::Status Watch(Writer& writer, const std::function<uint64_t()>& done_bytes,
                     const std::function<absl::Status()>& work);

  const ConvertOptions& options_;
  GuestImage image_;
  const DeferredSignals& signals_;
  ProgressBar bar_;
  std::shared_ptr<const Snapshot> like_;
  std::string wrapper_;
  Converted converted_;
};

absl::StatusOr<Converted> Conversion::Run() {
  absl::Status status;
  switch (options_.to) {
    case ImageFormat::kMappedRam:
    case ImageFormat::kLibvirt:
      status = ToMappedRam();
      break;
    case ImageFormat::kRaw:
      status = ToFlat();
      break;
    case ImageFormat::kFirecracker:
      status = ToFirecracker();
      break;
    case ImageFormat::kCloudHypervisor:
      status = ToCloudHypervisor();
      break;
  }
  if (!status.ok()) return status;
  converted_.blocks = image_.blocks;
  for (const GuestImage::Block& block : image_.blocks) converted_.total_bytes += block.length;
  return converted_;
}

// Does the work in another thread, while this one shows how far it is and looks for signals.
template <typename Writer>
absl::Status Conversion::Watch(Writer& writer, const std::function<uint64_t()>& done_bytes,
                               const std::function<absl::Status()>& work) {
  uint64_t total = 0;
  for (const GuestImage::Block& block : image_.blocks) total += block.length;
  if (signals_.Came()) {
    return absl::CancelledError(absl::StrCat(options_.out, ": its writing was cancelled"));
  }
  absl::Status status;
  absl::Notification finished;
  std::thread worker([&] {
    status = work();
    finished.Notify();
  });
  while (!finished.WaitForNotificationWithTimeout(kPollEvery)) {
    bar_.Show(done_bytes(), total);
    if (signals_.Came()) writer.Cancel();
  }
  worker.join();
  return status;
}

// --- to mapped-ram ---

absl::Status Conversion::ToMappedRam() {
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
  absl::Status written = Watch(
      writer, [&] { return writer.progress().done; }, [&] { return writer.Write(options_.out); });
  converted_.written_bytes = writer.progress().written;
  return written;
}

absl::StatusOr<StreamParts> Conversion::Stream() {
  if (like_ != nullptr) return CarryStream(like_);
  if (image_.snapshot != nullptr) return CarryStream(image_.snapshot);
  StreamContent content;
  content.machine = std::string(NameOf(image_.format));
  content.devices = image_.sections;
  if (image_.page_size != 4096) {
    content.page_bits = static_cast<uint32_t>(std::bit_width(image_.page_size) - 1);
  }
  if (image_.format == ImageFormat::kFirecracker && image_.sections.empty()) {
    converted_.left_out.push_back("Firecracker's state file, which --vmstate names");
  }
  return EncodeStream(content);
}

// The blocks of the image take the place of those of the snapshot, which gives all else.
absl::Status Conversion::TakeFrom(std::shared_ptr<const Snapshot> like) {
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
    converted_.left_out.push_back(section.name);
  }
  like_ = std::move(like);
  return absl::OkStatus();
}

// libvirt's header, if there is one: for an image of libvirt's, or to say that it is left out.
absl::Status Conversion::FindWrapper(const Snapshot& snapshot) {
  const File& file = snapshot.file();
  const uint64_t length = snapshot.description().stream_offset;
  std::string wrapper(std::min<uint64_t>(length, kMaxWrapperBytes), '\0');
  absl::Status read =
      file.ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(wrapper.data()), wrapper.size()));
  if (!read.ok()) return read;
  const bool is_libvirts = wrapper.substr(0, kSaveImageMagic.size()) == kSaveImageMagic;
  if (options_.to != ImageFormat::kLibvirt) {
    if (is_libvirts) converted_.left_out.push_back("libvirt's header, with the domain's XML");
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

// --- to plain bytes ---

absl::Status Conversion::WriteFlat(const NewFile& file, const RamSource* base) {
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
  absl::Status written = Watch(
      image, [&] { return image.done_bytes(); }, [&] { return image.Write(file); });
  converted_.written_bytes = image.written_bytes();
  return written;
}

absl::Status Conversion::Publish(NewFile& file) const {
  absl::Status status = options_.sync ? file.Sync() : absl::OkStatus();
  if (status.ok() && signals_.Came()) {
    status = absl::CancelledError(absl::StrCat(file.path(), ": its writing was cancelled"));
  }
  return status.ok() ? file.Publish() : status;
}

absl::Status Conversion::WriteSmallFile(const std::string& path, const std::string& bytes) const {
  absl::StatusOr<NewFile> file = NewFile::Create(path, {});
  if (!file.ok()) return file.status();
  absl::Status written =
      file->WriteAt(0, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  return written.ok() ? Publish(*file) : written;
}

void Conversion::LeaveOutSections(absl::string_view but) {
  size_t sections = 0;
  const auto count = [&](absl::string_view name) { sections += name == but ? 0 : 1; };
  for (const SectionContent& section : image_.sections) count(section.name);
  if (image_.snapshot != nullptr) {
    for (const DeviceSection& section : image_.snapshot->description().devices) count(section.name);
  }
  if (sections > 0) {
    converted_.left_out.push_back(absl::StrCat("the device state, of ", sections, " sections"));
  }
}

// With --blocks, a mapped-ram file's others are not converted.
void Conversion::KeepOnlyNamed() {
  if (image_.snapshot != nullptr && !options_.in.blocks.empty()) {
    image_.blocks.resize(options_.in.blocks.size());
  }
}

absl::Status Conversion::ToFlat() {
  KeepOnlyNamed();
  LeaveOutSections();
  absl::StatusOr<NewFile> file = NewFile::Create(options_.out, {.direct = options_.direct});
  if (!file.ok()) return file.status();
  absl::Status written = WriteFlat(*file, nullptr);
  return written.ok() ? Publish(*file) : written;
}

absl::Status Conversion::ToFirecracker() {
  KeepOnlyNamed();
  LeaveOutSections(kFirecrackerState);
  // What is said of Firecracker's files is said of the input if that is such.
  const bool is_output = image_.format != ImageFormat::kFirecracker;
  const bool with_state = is_output && !options_.in.vmstate.empty();
  const absl::StatusOr<std::string> state = FindSection(kFirecrackerState);
  if (with_state && !state.ok()) return state.status();
  if (!with_state && state.ok()) {
    converted_.left_out.push_back("Firecracker's state file, which --vmstate names");
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
  if (with_state) written = WriteSmallFile(options_.in.vmstate, *state);
  return written.ok() ? Publish(*file) : written;
}

absl::Status Conversion::OpenBases(std::vector<File>& files) const {
  uint64_t total = 0;
  for (const GuestImage::Block& block : image_.blocks) total += block.length;
  for (const std::string& path : options_.in.bases) {
    absl::StatusOr<File> file = File::Open(path);
    if (!file.ok()) return file.status();
    if (file->size() != total) {
      return InvalidArgumentError(*file, "has ", file->size(), " bytes, but the guest has ", total,
                                  ": it is not its base");
    }
    files.push_back(*std::move(file));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Conversion::FindSection(const char* name) const {
  if (image_.snapshot != nullptr) return ReadSection(*image_.snapshot, name);
  for (const SectionContent& section : image_.sections) {
    if (section.name == name) return section.payload;
  }
  return absl::NotFoundError(absl::StrCat(options_.in.path, ": has no section \"", name, "\""));
}

// A directory that gets its name when it is complete.
absl::Status Conversion::ToCloudHypervisor() {
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

// --- the command ---

std::string AsJson(const ConvertOptions& options, ImageFormat from, const Converted& converted,
                   absl::Duration took) {
  using Json = nlohmann::ordered_json;
  Json blocks = Json::array();
  uint64_t offset = 0;
  const bool is_flat = options.to != ImageFormat::kMappedRam && options.to != ImageFormat::kLibvirt;
  for (const GuestImage::Block& block : converted.blocks) {
    blocks.push_back({{"idstr", block.idstr}, {"length", block.length}});
    if (is_flat) blocks.back()["offset"] = offset;
    offset += block.length;
  }
  const Json object = {
      {"schema", "ramjet.convert/1"},
      {"in", options.in.path},
      {"out", options.out},
      {"from", std::string(NameOf(from))},
      {"to", std::string(NameOf(options.to))},
      {"ram", {{"total_bytes", converted.total_bytes}, {"written_bytes", converted.written_bytes}}},
      {"blocks", std::move(blocks)},
      {"left_out", converted.left_out},
      {"checksums", options.checksums.empty() ? Json() : Json(options.checksums)},
      {"seconds", absl::ToDoubleSeconds(took)}};
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string AsText(const ConvertOptions& options, ImageFormat from, const Converted& converted,
                   absl::Duration took) {
  const auto mebibytes = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  return absl::StrFormat("%s: %s from %s, %.1f MiB of memory, %.1f MiB of it written, in %.2f s\n",
                         options.out, NameOf(options.to), NameOf(from),
                         mebibytes(converted.total_bytes), mebibytes(converted.written_bytes),
                         absl::ToDoubleSeconds(took));
}

int Fail(const absl::Status& status, int exit_status = 1) {
  absl::FPrintF(stderr, "ramjet: %s\n", status.message());
  return exit_status;
}

// Options that do not go together; empty if they do.
std::string WhyNot(const ConvertOptions& options, const GuestImage& image) {
  const bool to_mapped =
      options.to == ImageFormat::kMappedRam || options.to == ImageFormat::kLibvirt;
  const bool firecracker =
      image.format == ImageFormat::kFirecracker || (options.to == ImageFormat::kFirecracker);
  if (!options.like.empty() && (!to_mapped || image.snapshot != nullptr)) {
    return "--like is for an IN that is no mapped-ram file, to mapped-ram";
  }
  if (options.to == ImageFormat::kLibvirt && image.snapshot == nullptr && options.like.empty()) {
    return "--to libvirt: --like names the image whose header it gets";
  }
  if (!options.checksums.empty() && !to_mapped) return "--checksums is for mapped-ram and libvirt";
  if (!options.in.bases.empty() && !firecracker) return "--base is for Firecracker's files";
  if (!options.in.vmstate.empty() && !firecracker) return "--vmstate is for Firecracker's files";
  if (!options.in.blocks.empty() && image.format == ImageFormat::kCloudHypervisor) {
    return "--blocks: Cloud Hypervisor's state names them";
  }
  return "";
}

}  // namespace

int RunConvert(const ConvertOptions& options) {
  const absl::Time begun = absl::Now();
  const DeferredSignals signals;
  absl::StatusOr<GuestImage> image = OpenGuestImage(options.in);
  if (!image.ok()) return Fail(image.status());
  if (const std::string why = WhyNot(options, *image); !why.empty()) {
    return Fail(absl::InvalidArgumentError(why), 2);
  }
  const ImageFormat from = image->format;
  if (from == ImageFormat::kFirecracker && image->has_holes) {
    absl::FPrintF(stderr,
                  "ramjet: note: %s has holes, which are taken for zeros; those of a diff "
                  "are its base's (--base)\n",
                  options.in.bases.empty() ? options.in.path : options.in.bases.back());
  }
  const absl::StatusOr<Converted> converted = Conversion(options, *std::move(image), signals).Run();
  if (!converted.ok()) return Fail(converted.status());
  if (!converted->left_out.empty()) {
    absl::FPrintF(stderr, "ramjet: note: left out: %s\n", absl::StrJoin(converted->left_out, "; "));
  }
  const absl::Duration took = absl::Now() - begun;
  const std::string text = options.json ? AsJson(options, from, *converted, took)
                                        : AsText(options, from, *converted, took);
  if (fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0) return 0;
  return Fail(absl::ErrnoToStatus(errno, "stdout"));
}

}  // namespace ramjet
