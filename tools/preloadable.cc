#include "tools/preloadable.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tools/fd.h"

namespace ramjet {
namespace {

#if defined(__x86_64__)
constexpr Elf64_Half kOwnMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kOwnMachine = EM_AARCH64;
#endif

// Empty: there is none.
std::string FindInPath(const std::string& program) {
  if (absl::StrContains(program, '/')) return program;
  const char* const path = std::getenv("PATH");
  for (const absl::string_view directory :
       absl::StrSplit(path == nullptr ? "/bin:/usr/bin" : path, ':')) {
    std::string file = absl::StrCat(directory.empty() ? "." : directory, "/", program);
    struct stat status;
    if (stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
        access(file.c_str(), X_OK) == 0) {
      return file;
    }
  }
  return "";
}

template <typename T>
bool ReadAt(int fd, uint64_t offset, T* to, size_t count = 1) {
  const auto bytes = static_cast<ssize_t>(count * sizeof(T));
  return pread(fd, to, count * sizeof(T), static_cast<off_t>(offset)) == bytes;
}

// Why it is so; empty: it is preloaded.
std::string WhyNotPreloaded(const std::string& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return errno == ENOENT ? "" : std::strerror(errno);
  char head[2];
  if (ReadAt(fd.get(), 0, head, 2) && head[0] == '#' && head[1] == '!') return "";

  struct stat status;
  if (fstat(fd.get(), &status) != 0) return std::strerror(errno);
  if ((status.st_mode & (S_ISUID | S_ISGID)) != 0) return "it is setuid or setgid";
  if (fgetxattr(fd.get(), "security.capability", nullptr, 0) > 0) return "it has file capabilities";
  Elf64_Ehdr header;
  if (!ReadAt(fd.get(), 0, &header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != kOwnMachine) {
    return "it is not a program of this machine's own kind";
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!ReadAt(fd.get(), header.e_phoff, segments.data(), segments.size())) {
    return "its program headers cannot be read";
  }
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type == PT_INTERP) return "";
  }
  return "it is linked statically";
}

}  // namespace

absl::Status CheckPreloadable(const std::string& program) {
  const std::string file = FindInPath(program);
  const std::string why = file.empty() ? "" : WhyNotPreloaded(file);
  if (why.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      file,
      " cannot be given the preload library, without which no checksums are compared: ", why));
}

}  // namespace ramjet
