#include "tools/progress_bar.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace ramjet {
namespace {

constexpr int kBarWidth = 20;
constexpr absl::Duration kSampleEvery = absl::Milliseconds(200);
// Of a new sample in the rate: the last two seconds or so decide.
constexpr double kSampleWeight = 0.2;

}  // namespace

void ProgressBar::Show(uint64_t done, uint64_t total) {
  const absl::Time now = absl::Now();
  if (done < sampled_done_) sampled_ = absl::InfinitePast();  // begun anew, as a live save may
  if (sampled_ == absl::InfinitePast()) {
    sampled_ = now;
    sampled_done_ = done;
  } else if (now - sampled_ >= kSampleEvery) {
    const double rate =
        static_cast<double>(done - sampled_done_) / absl::ToDoubleSeconds(now - sampled_);
    bytes_per_s_ =
        bytes_per_s_ == 0 ? rate : (1 - kSampleWeight) * bytes_per_s_ + kSampleWeight * rate;
    sampled_ = now;
    sampled_done_ = done;
  }
  Show(ProgressWords(done, total, bytes_per_s_));
}

std::string ProgressWords(uint64_t done, uint64_t total, double bytes_per_s) {
  done = std::min(done, total);
  const double part = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const auto filled = static_cast<size_t>(part * kBarWidth);
  std::string words = absl::StrFormat(
      "[%s%s] %3d%%  %.1f of %.1f GiB", std::string(filled, '#'),
      std::string(kBarWidth - filled, '.'), static_cast<int>(part * 100),
      static_cast<double>(done) / (1 << 30), static_cast<double>(total) / (1 << 30));
  if (bytes_per_s >= 1) {
    absl::StrAppendFormat(&words, "  %.0f MiB/s  %.0f s left", bytes_per_s / (1 << 20),
                          std::ceil(static_cast<double>(total - done) / bytes_per_s));
  }
  return words;
}

}  // namespace ramjet
