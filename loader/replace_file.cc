#include "loader/replace_file.h"

#include <cstdint>

#include "absl/types/span.h"
#include "mappedram/new_file.h"

namespace ramjet {

absl::Status ReplaceFile(const std::string& path, const std::string& text) {
  absl::StatusOr<NewFile> file = NewFile::Create(path, {.mode = 0644});
  absl::Status status = file.status();
  if (status.ok()) {
    status = file->WriteAt(0, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }
  if (status.ok()) status = file->Publish();
  return status.ok() ? status : absl::UnavailableError(status.message());
}

}  // namespace ramjet
