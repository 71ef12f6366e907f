#include "loader/c_abi.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "loader/safe_copy.h"

namespace ramjet::c_abi {
namespace {

// What StatusOf() makes of an errno: a code that Abseil has none of. (A payload would do, too; but
// absl::Cord cannot be linked without a symbol that the shared library would export.)
constexpr int kFirstErrnoCode = 1 << 16;

// How convention 1 spells each kind of failure.
int ErrnoOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return EINVAL;
    case absl::StatusCode::kNotFound:
      return ENOENT;
    case absl::StatusCode::kAlreadyExists:
      return EALREADY;
    case absl::StatusCode::kPermissionDenied:
      return EACCES;
    case absl::StatusCode::kResourceExhausted:
      return ENOMEM;
    case absl::StatusCode::kFailedPrecondition:
      return ENOTSUP;
    case absl::StatusCode::kDeadlineExceeded:
      return ETIMEDOUT;
    case absl::StatusCode::kAborted:
      return ENOTRECOVERABLE;
    case absl::StatusCode::kCancelled:
      return ECANCELED;
    case absl::StatusCode::kUnimplemented:
      return ENOSYS;
    case absl::StatusCode::kDataLoss:
      return EILSEQ;
    default:
      return EIO;
  }
}

}  // namespace

std::string& LastError() {
  static thread_local std::string error;
  return error;
}

int Fail(int error, std::string why) {
  LastError() = std::move(why);
  return -error;
}

int BadStruct(const char* name) {
  return Fail(EINVAL, absl::StrCat(name, ".size is not set: begin with the INIT macro"));
}

int Result(const absl::Status& status) {
  return status.ok() ? 0 : Fail(ErrnoOf(status.code()), std::string(status.message()));
}

int CheckCopying() {
  const char from = 0;
  char to;
  if (CopySafely(&to, &from, 1) != EPERM) return 0;
  return Fail(
      EPERM,
      "process_vm_writev(2) is denied, and so are pipe2(2), write(2) or read(2), which would "
      "do instead: the seccomp filter has to allow the one or the others");
}

absl::Status StatusOf(absl::string_view whose, int returned) {
  if (returned >= 0) return absl::OkStatus();
  const int error = -std::max(returned, -4095);  // as high as the kernel's go
  const std::string why = LastError();  // of this thread: what the function was told, if anything
  return absl::Status(static_cast<absl::StatusCode>(kFirstErrnoCode + error),
                      absl::StrCat(whose, " has returned -", error, " (", std::strerror(error), ")",
                                   why.empty() ? "" : ": ", why));
}

int ResultOfCallbacks(const absl::Status& status) {
  if (status.raw_code() < kFirstErrnoCode) return Result(status);
  return Fail(status.raw_code() - kFirstErrnoCode, std::string(status.message()));
}

}  // namespace ramjet::c_abi
