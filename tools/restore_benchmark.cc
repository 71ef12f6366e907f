// `restore_benchmark [ROUNDS]`: the two figures that ramjet is judged by on a real QEMU with a
// guest of 1 GiB, of which 424 MiB are random bytes; medians of 5 alternating rounds.
//   time to resume        stock / ramjet at least 20, warm and cold
//   all memory resident   ramjet / stock at most 1.5
// Prints the demo's table, then these. Exit status 0 if they hold and memory was equal.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "tools/demo.h"
#include "tools/demo_report.h"

namespace ramjet {
namespace {

constexpr double kLeastResumeRatio = 20;
constexpr double kMostResidentRatio = 1.5;

bool Judge(const DemoResult& result, CacheState cache, const char* name) {
  const Medians stock = MediansOf(result.restores, Loader::kStock, cache);
  const Medians ramjet = MediansOf(result.restores, Loader::kRamjet, cache);
  const double resume = stock.to_resume_s / ramjet.to_resume_s;
  const double resident = ramjet.to_resident_s / stock.to_resident_s;
  std::printf("%s: resume, stock / ramjet = %.1f (wanted: >= %.0f)\n", name, resume,
              kLeastResumeRatio);
  std::printf("%s: all resident, ramjet / stock = %.2f (wanted: <= %.1f)\n", name, resident,
              kMostResidentRatio);
  return resume >= kLeastResumeRatio && resident <= kMostResidentRatio;
}

int Run(int rounds) {
  DemoOptions options;
  options.rounds = rounds;
  const absl::StatusOr<DemoResult> result = MeasureDemo(options);
  if (!result.ok()) {
    std::fprintf(stderr, "restore_benchmark: %s\n", std::string{result.status().message()}.c_str());
    return 1;
  }
  std::printf("%s\n", DemoTable(*result).c_str());
  const bool warm = Judge(*result, CacheState::kWarm, "warm");
  const bool cold = Judge(*result, CacheState::kCold, "cold");
  return warm && cold && result->equal_memory ? 0 : 1;
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  int rounds = 5;
  if (argc > 2 || (argc == 2 && (!absl::SimpleAtoi(argv[1], &rounds) || rounds < 1))) {
    std::fprintf(stderr, "usage: restore_benchmark [ROUNDS]\n");
    return 2;
  }
  return ramjet::Run(rounds);
}
