#include "mappedram/vmstate/device.h"

#include "absl/strings/escaping.h"

namespace ramjet::vmstate {

bool CheckVersion(Reader& in, uint32_t version, Versions versions) {
  if (version > versions.current) {
    in.Fail("version ", version, " is too new: ", versions.current, " is the newest known here");
  } else if (version < versions.oldest) {
    in.Fail("version ", version, " is too old: ", versions.oldest, " is the oldest known here");
  }
  return in.ok();
}

absl::Status Finish(Reader& in) {
  if (const auto name = in.PeekSubsection(); name.has_value() && !name->empty()) {
    in.ReadBytes(0);
    in.Fail("subsection \"", absl::CHexEscape(*name), "\" is unknown here, or came before");
  }
  if (in.ok() && in.remaining() != 0) {
    in.ReadBytes(0);
    in.Fail(in.remaining(), " bytes are left");
  }
  return in.status();
}

}  // namespace ramjet::vmstate
