// How far a long piece of work has come, how fast it goes and how long it will take.
#ifndef RAMJET_TOOLS_PROGRESS_BAR_H_
#define RAMJET_TOOLS_PROGRESS_BAR_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "tools/progress_line.h"

namespace ramjet {

// A bar on standard error, if that is a terminal; gone when this is.
//
//   vm.mr  [#######.............]  37%  1.5 of 4.0 GiB  812 MiB/s  3 s left
class ProgressBar {
 public:
  explicit ProgressBar(std::string title) : title_(std::move(title)) {}

  // `done` of `total` bytes. The rate is that of the last seconds, so that the estimate follows.
  void Show(uint64_t done, uint64_t total);
  // What is being waited for when there is nothing to count.
  void Show(const std::string& words) { line_.Show(title_ + "  " + words); }

 private:
  const std::string title_;
  ProgressLine line_;
  absl::Time sampled_ = absl::InfinitePast();
  uint64_t sampled_done_ = 0;
  double bytes_per_s_ = 0;
};

// What Show() prints behind the title.
std::string ProgressWords(uint64_t done, uint64_t total, double bytes_per_s);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PROGRESS_BAR_H_
