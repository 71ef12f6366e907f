#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

#include "loader/install_gate.h"

namespace ramjet {
namespace {

TEST(InstallGate, ClosedNobodyIsInside) {
  InstallGate gate;
  std::atomic<int> inside{0};
  std::atomic<bool> stop{false};
  int guarded = 0;  // a race here is one that ThreadSanitizer sees
  std::vector<std::thread> installers;
  std::latch all_run(4);
  for (int i = 0; i < 3; ++i) {
    installers.emplace_back([&] {
      all_run.arrive_and_wait();
      while (!stop) {
        const InsideGate entered(gate);
        ++inside;
        EXPECT_GE(guarded, 0);
        --inside;
      }
    });
  }
  all_run.arrive_and_wait();
  for (int i = 0; i < 2000; ++i) {
    const GateClosed closed(gate);
    EXPECT_EQ(inside, 0);
    ++guarded;
  }
  stop = true;
  for (std::thread& installer : installers) installer.join();
}

TEST(InstallGate, ClosedByTwoItOpensWhenBothHaveOpenedIt) {
  InstallGate gate;
  gate.Close();
  gate.Close();
  std::atomic<bool> entered{false};
  std::thread installer([&] {
    const InsideGate inside(gate);
    entered = true;
  });
  gate.Open();
  EXPECT_FALSE(entered);
  gate.Open();
  installer.join();
  EXPECT_TRUE(entered);
}

}  // namespace
}  // namespace ramjet
