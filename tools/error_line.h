// What our programs say when something is wrong: always one line on standard error.
#ifndef RAMJET_TOOLS_ERROR_LINE_H_
#define RAMJET_TOOLS_ERROR_LINE_H_

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace ramjet {

// "PROGRAM: MESSAGE\n". A file's name may contain line breaks and other control characters: they
// are written as \n and \xNN.
inline std::string ErrorLine(absl::string_view message, absl::string_view program = "ramjet") {
  std::string line = absl::StrCat(program, ": ");
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      absl::StrAppend(&line, "\\n");
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&line, "\\x%02x", byte);
    } else {
      line.push_back(c);
    }
  }
  line.push_back('\n');
  return line;
}

// Writes it in one piece.
inline void PrintError(absl::string_view message, absl::string_view program = "ramjet") {
  const std::string line = ErrorLine(message, program);
  (void)!write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace ramjet

#endif  // RAMJET_TOOLS_ERROR_LINE_H_
