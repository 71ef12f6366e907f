// Tells whoever waits at a terminal what is going on.
#ifndef RAMJET_TOOLS_PROGRESS_LINE_H_
#define RAMJET_TOOLS_PROGRESS_LINE_H_

#include <unistd.h>

#include <cstdio>
#include <string>

namespace ramjet {

// One line on standard error, overwritten by the next and gone at the end; nothing in a pipe. Any
// thread may show something.
class ProgressLine {
 public:
  ProgressLine() = default;
  ~ProgressLine() { Show(""); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(const std::string& words) {
    if (on_terminal_) std::fprintf(stderr, "\r\033[K%s", words.c_str());
  }

 private:
  const bool on_terminal_ = isatty(STDERR_FILENO) != 0;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PROGRESS_LINE_H_
