#include "tools/convert.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "tools/convert_to_mapped_ram.h"
#include "tools/convert_to_raw.h"
#include "tools/deferred_signals.h"
#include "tools/error_line.h"
#include "tools/guest_image.h"
#include "tools/same_file.h"

namespace ramjet {
namespace {

bool IsMappedRam(ImageFormat format) {
  return format == ImageFormat::kMappedRam || format == ImageFormat::kLibvirt;
}

std::string AsJson(const ConvertOptions& options, ImageFormat from, const Conversion& conversion,
                   absl::Duration took) {
  using Json = nlohmann::ordered_json;
  Json blocks = Json::array();
  uint64_t offset = 0;
  for (const GuestImage::Block& block : conversion.image.blocks) {
    blocks.push_back({{"idstr", block.idstr}, {"length", block.length}});
    if (!IsMappedRam(options.to)) blocks.back()["offset"] = offset;
    offset += block.length;
  }
  const Json object = {
      {"schema", "ramjet.convert/1"},
      {"in", options.in.path},
      {"out", options.out},
      {"from", std::string(NameOf(from))},
      {"to", std::string(NameOf(options.to))},
      {"ram",
       {{"total_bytes", conversion.total_bytes()}, {"written_bytes", conversion.written_bytes}}},
      {"blocks", std::move(blocks)},
      {"left_out", conversion.left_out},
      {"checksums", options.checksums.empty() ? Json() : Json(options.checksums)},
      {"seconds", absl::ToDoubleSeconds(took)}};
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string AsText(const ConvertOptions& options, ImageFormat from, const Conversion& conversion,
                   absl::Duration took) {
  const auto mebibytes = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  return absl::StrFormat("%s: %s from %s, %.1f MiB of memory, %.1f MiB of it written, in %.2f s\n",
                         options.out, NameOf(options.to), NameOf(from),
                         mebibytes(conversion.total_bytes()), mebibytes(conversion.written_bytes),
                         absl::ToDoubleSeconds(took));
}

int Fail(const absl::Status& status, int exit_status = 1) {
  PrintError(status.message());
  return exit_status;
}

// What is wrong if an output is a file that is read, or another output; empty if none is.
std::string WhatIsReplaced(const ConvertOptions& options, const GuestImage& image) {
  std::vector<NamedFile> inputs = {{"IN", options.in.path}, {"--like", options.like}};
  for (const std::string& base : options.in.bases) inputs.push_back({"--base", base});
  if (image.format == ImageFormat::kCloudHypervisor) {
    for (const char* name : {"/memory-ranges", "/state.json", "/config.json"}) {
      inputs.push_back({"IN's", options.in.path + name});
    }
  }
  std::vector<NamedFile> outputs = {{"OUT", options.out}, {"--checksums", options.checksums}};
  const bool state_is_read = image.format == ImageFormat::kFirecracker;
  (state_is_read ? inputs : outputs).push_back({"--vmstate", options.in.vmstate});
  return WhichIsReplaced(outputs, inputs);
}

// Options that do not go together; empty if they do.
std::string WhyNot(const ConvertOptions& options, const GuestImage& image) {
  const bool to_mapped = IsMappedRam(options.to);
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
  if (options.in.full && image.format != ImageFormat::kFirecracker &&
      (options.to != ImageFormat::kFirecracker || options.in.bases.empty())) {
    return "--full is for Firecracker's files, as IN or --base";
  }
  if (!options.in.blocks.empty() && image.format == ImageFormat::kCloudHypervisor) {
    return "--blocks: Cloud Hypervisor's state names them";
  }
  return WhatIsReplaced(options, image);
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
  Conversion conversion(options, *std::move(image), signals);
  const absl::Status converted =
      IsMappedRam(options.to) ? ConvertToMappedRam(conversion) : ConvertToRaw(conversion);
  if (!converted.ok()) return Fail(converted);
  if (!conversion.left_out.empty()) {
    absl::FPrintF(stderr, "ramjet: note: left out: %s\n", absl::StrJoin(conversion.left_out, "; "));
  }
  const absl::Duration took = absl::Now() - begun;
  const std::string text = options.json ? AsJson(options, from, conversion, took)
                                        : AsText(options, from, conversion, took);
  if (fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0) return 0;
  return Fail(absl::ErrnoToStatus(errno, "stdout"));
}

}  // namespace ramjet
