// What all outputs of `ramjet convert` share.
#ifndef RAMJET_TOOLS_CONVERSION_H_
#define RAMJET_TOOLS_CONVERSION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "mappedram/snapshot_writer.h"
#include "tools/deferred_signals.h"
#include "tools/guest_image.h"
#include "tools/progress_bar.h"

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

// One conversion: what goes in, and what is to be said of what comes out. The options and signals
// outlive it.
class Conversion {
 public:
  Conversion(const ConvertOptions& options, GuestImage in, const DeferredSignals& signals)
      : image(std::move(in)), options_(options), signals_(signals), bar_(options.out) {}

  const ConvertOptions& options() const { return options_; }
  const DeferredSignals& signals() const { return signals_; }

  // Of the image's blocks.
  uint64_t total_bytes() const;

  // Does `work` in another thread, while this one shows how far it is and looks for signals. One
  // that came calls `cancel`, after which `work` is soon to return.
  absl::Status Watch(const std::function<uint64_t()>& done_bytes,
                     const std::function<void()>& cancel,
                     const std::function<absl::Status()>& work);

  // The input, which the output makes what it then has: its blocks, in its order.
  GuestImage image;
  // By the output.
  uint64_t written_bytes = 0;
  std::vector<std::string> left_out;

 private:
  const ConvertOptions& options_;
  const DeferredSignals& signals_;
  ProgressBar bar_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_CONVERSION_H_
