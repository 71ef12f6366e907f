// State files as Firecracker writes them, but without a state.
#ifndef RAMJET_TESTS_FIRECRACKER_FILES_H_
#define RAMJET_TESTS_FIRECRACKER_FILES_H_

#include <cstdint>
#include <string>

namespace ramjet {

// See mappedram/firecracker_state.h; by the versions that wrote them first.
enum class FirecrackerForm { k0_23, k1_7, k1_15 };

// Of a guest with that much memory, on x86-64.
std::string MakeFirecrackerState(FirecrackerForm form, uint64_t mebibytes,
                                 const std::string& version = "11.0.0");

// `bytes`, and behind them their sum.
std::string WithFirecrackerSum(const std::string& bytes);

}  // namespace ramjet

#endif  // RAMJET_TESTS_FIRECRACKER_FILES_H_
