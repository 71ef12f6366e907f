#include "mappedram/save_image.h"

#include <string>

#include "mappedram/format.h"
#include "mappedram/stream.h"

namespace ramjet {
namespace {

const char* FormatName(uint32_t format) {
  constexpr const char* kNames[] = {"raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse"};
  return format < std::size(kNames) ? kNames[format] : "unknown";
}

}  // namespace

absl::StatusOr<StreamStart> FindStreamStart(const File& file) {
  if (file.size() < kSaveImageMagic.size()) return StreamStart{};
  StreamReader reader(file, 0);
  const std::string magic = reader.ReadString(kSaveImageMagic.size());
  if (!reader.ok()) return reader.status();
  StreamStart start;
  if (magic == kSaveImagePartMagic) {
    start.finished = DataLossError(file, "libvirt's save was interrupted: the image begins with \"",
                                   kSaveImagePartMagic, "\"");
  } else if (magic != kSaveImageMagic) {
    return start;
  }

  // Small in one byte order, the version is huge in the other.
  uint32_t version = reader.ReadBe32();
  const bool is_little_endian = version > 0xffff;
  const auto in_order = [&](uint32_t number) {
    return is_little_endian ? __builtin_bswap32(number) : number;
  };
  version = in_order(version);
  const uint32_t data_bytes = in_order(reader.ReadBe32());
  reader.Skip(4);  // was_running
  const uint32_t format = in_order(reader.ReadBe32());
  if (!reader.ok()) return reader.status();
  if (version != kSaveImageVersion) {
    return InvalidArgumentError(file, "libvirt save image of version ", version, ", not ",
                                kSaveImageVersion);
  }
  if (format != kSaveImageFormatSparse) {
    return InvalidArgumentError(file, "libvirt save image of format ", format, " (",
                                FormatName(format), "): only ", kSaveImageFormatSparse,
                                " (sparse) is mapped-ram");
  }
  start.offset = kSaveImageHeaderBytes + data_bytes;
  if (start.offset >= file.size()) {
    return DataLossError(file, "libvirt save image ends at offset ", file.size(),
                         ", before its stream at offset ", start.offset);
  }
  return start;
}

}  // namespace ramjet
