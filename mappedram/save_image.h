// Where the migration stream begins in a file that may be a libvirt save image.
#ifndef RAMJET_MAPPEDRAM_SAVE_IMAGE_H_
#define RAMJET_MAPPEDRAM_SAVE_IMAGE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mappedram/file.h"

namespace ramjet {

struct StreamStart {
  uint64_t offset = 0;
  // OK, or that the image's writer has not marked it as finished.
  absl::Status finished;
};

// Behind libvirt's header, whatever the byte order of its host, or 0 if `file` has none.
// InvalidArgument for a save image whose format is not "sparse", DataLoss for one that does not
// make sense.
absl::StatusOr<StreamStart> FindStreamStart(const File& file);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_SAVE_IMAGE_H_
