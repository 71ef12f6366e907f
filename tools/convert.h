// `ramjet convert`: snapshots of other VMMs, and raw images, to mapped-ram and back.
#ifndef RAMJET_TOOLS_CONVERT_H_
#define RAMJET_TOOLS_CONVERT_H_

#include <string>
#include <vector>

#include "mappedram/snapshot_writer.h"
#include "tools/guest_image.h"

namespace ramjet {

struct ConvertOptions {
  GuestImageOptions in = {};  // if only the output is Firecracker's, bases and vmstate are its
  std::string out = {};
  ImageFormat to = ImageFormat::kMappedRam;
  // To mapped-ram: a snapshot from which comes what `in` lacks: device state, other blocks,
  // libvirt's header.
  std::string like = {};
  // To mapped-ram: where checksums of its pages go; empty: nowhere.
  std::string checksums = {};
  unsigned threads = 0;  // 0: as suits the machine
  ZeroDetection zero_detection = ZeroDetection::kAllThreads;
  bool direct = false;
  bool sync = true;
  bool json = false;
};

// Reads the one, writes the other, and prints what came of it on stdout: as text or as one object
// of the schema "ramjet.convert/1". What the output has no place for is named in one line on
// stderr.
//
// Returns the exit status: 0; 1, with one line on stderr, and then there is nothing new; 2 for
// options that do not go together. Ctrl-C and its kin end this process when that is so.
int RunConvert(const ConvertOptions& options);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_CONVERT_H_
