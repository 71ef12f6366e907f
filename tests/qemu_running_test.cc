// What happens to a running VM while it is being loaded: it is reset, a balloon and free page
// reporting take pages away, its process is stopped and continued.
//
// QEMU counts the guest's instructions instead of time, so the guest does the same, to the
// instruction, after either load; and it pauses its machine by itself. So not only the pages that
// neither run has written or discarded have to be equal then: all of memory has.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/qemu_testing.h"
#include "tools/lazy_launch.h"

namespace ramjet {
namespace {

using nlohmann::json;

constexpr uint64_t kMemoryMib = 192;  // the guest's kernel reports none if it has little free
constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kPages = (kMemoryMib << 20) / kPageSize;

// What is wrong with what the guest has said; empty if its sums were right, and there were some.
std::string WrongSums(const QemuProcess& qemu) {
  int good = 0;
  for (const SerialConsole::Line& line : qemu.serial().Lines()) {
    if (IsSumCorrupt(line.text)) return line.text;
    if (IsSumOk(line.text)) ++good;
  }
  return good > 0 ? "" : "no sums";
}

// Goes on until the guest pauses again.
void Continue(QemuProcess& qemu) {
  const auto continued = qemu.Execute("cont");
  ASSERT_TRUE(continued.ok()) << continued.status();
  const absl::Status paused = WaitForPause(qemu);
  ASSERT_TRUE(paused.ok()) << paused << qemu.Stderr();
}

class QemuRunning : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!WhyNoQemu().empty()) return;
    const absl::StatusOr<std::vector<std::string>> modules = FindBalloonModules();
    if (!modules.ok()) {
      why_not_ = std::string{modules.status().message()};
      return;
    }
    absl::StatusOr<std::unique_ptr<ScratchDir>> scratch = ScratchDir::Create();
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_ = *std::move(scratch);
    guest_.memory_mib = kMemoryMib;
    guest_.fill_mib = 8;
    guest_.churn_mib = 16;
    guest_.pauses = "freed1 freed2";
    // Nothing in the machine may depend on the host's time, or be done by another thread.
    guest_.devices = {
        "-icount", "shift=5,sleep=off",
        "-rtc",    "base=2026-01-01,clock=vm",
        "-seed",   "1",
        "-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on,ioeventfd=off"};
    const absl::StatusOr<std::unique_ptr<SourceGuest>> source =
        SourceGuest::Boot(guest_, Initramfs(), *modules);
    ASSERT_TRUE(source.ok()) << source.status();
    const absl::Status paused = WaitForPause((*source)->qemu());
    ASSERT_TRUE(paused.ok()) << paused << (*source)->qemu().Stderr();
    const absl::Status saved = SaveMappedRam((*source)->qemu(), "file:" + Snapshot());
    ASSERT_TRUE(saved.ok()) << saved;
    ready_ = true;
  }

  static void TearDownTestSuite() { scratch_ = nullptr; }

  void SetUp() override {
    if (!WhyNoQemu().empty()) GTEST_SKIP() << WhyNoQemu();
    if (!why_not_.empty()) GTEST_SKIP() << why_not_;
    ASSERT_TRUE(ready_);
  }

  static std::string Initramfs() { return scratch_->File("initramfs"); }
  static std::string Snapshot() { return scratch_->File("guest.mr"); }
  static std::string StatsPath() { return scratch_->File("stats.json"); }

  // Loads a VM, does `act` while it is paused (and, with us, almost nothing is loaded), and writes
  // its memory to `ram` when the guest has paused again.
  static void Run(bool lazy, absl::FunctionRef<void(QemuProcess&)> act, const std::string& ram) {
    TargetOptions options;
    options.guest = guest_;
    if (lazy) {
      options.stats_path = StatsPath();
      options.ramjet_flags = {"--eager-rate", "64K"};
    }
    // A reset starts from these.
    options.args = KernelArgs(guest_, *FindGuestKernel(), Initramfs());
    const absl::StatusOr<std::unique_ptr<QemuProcess>> qemu = StartTarget(options);
    ASSERT_TRUE(qemu.ok()) << qemu.status();
    const absl::StatusOr<LoadTimes> loaded = LoadMappedRam(**qemu, "file:" + Snapshot());
    ASSERT_TRUE(loaded.ok()) << loaded.status() << (*qemu)->Stderr();
    if (lazy) {
      ASSERT_TRUE(IsLoading(**qemu, StatsPath())) << (*qemu)->Stderr();
    }

    ASSERT_NO_FATAL_FAILURE(act(**qemu));

    EXPECT_EQ(WrongSums(**qemu), "");
    const auto written =
        (*qemu)->Execute("pmemsave", {{"val", 0}, {"size", kMemoryMib << 20}, {"filename", ram}});
    ASSERT_TRUE(written.ok()) << written.status() << (*qemu)->Stderr();
    if (lazy) {
      const absl::StatusOr<json> stats = WaitForCompleteStats(StatsPath(), Soon());
      ASSERT_TRUE(stats.ok()) << stats.status() << (*qemu)->Stderr();
      EXPECT_EQ(BlockStats(*stats, "pc.ram").value("lazy", json()), true) << stats->dump(2);
      EXPECT_EQ(NumberAt(*stats, "/pages/poisoned"), 0) << stats->dump(2);
      removed_ = NumberAt(*stats, "/pages/removed");
      EXPECT_EQ((*qemu)->Stderr(), "");
    }
  }

  static std::string StockRam() { return scratch_->File("stock.ram"); }
  static std::string LazyRam() { return scratch_->File("lazy.ram"); }

  static void ExpectEqual(absl::FunctionRef<void(QemuProcess&)> act) {
    ASSERT_NO_FATAL_FAILURE(Run(/*lazy=*/false, act, StockRam()));
    ASSERT_NO_FATAL_FAILURE(Run(/*lazy=*/true, act, LazyRam()));
    const Difference difference = Compare();
    EXPECT_EQ(difference.pages, 0)
        << "the first is page " << difference.first << "; " << difference.zero << " are zero";
  }

  struct Difference {
    uint64_t pages = 0;
    uint64_t first = 0;
    uint64_t zero = 0;  // after our load
  };
  static Difference Compare() {
    std::ifstream stock_file(StockRam());
    std::ifstream lazy_file(LazyRam());
    std::vector<char> expected(kPageSize);
    std::vector<char> page(kPageSize);
    Difference difference;
    for (uint64_t i = 0; i < kPages; ++i) {
      EXPECT_TRUE(stock_file.read(expected.data(), kPageSize));
      EXPECT_TRUE(lazy_file.read(page.data(), kPageSize));
      if (page == expected) continue;
      if (difference.pages++ == 0) difference.first = i;
      if (std::all_of(page.begin(), page.end(), [](char c) { return c == 0; })) ++difference.zero;
    }
    return difference;
  }

  // Where in memory copies of the kernel's banner lie, which tells where the kernel does.
  static std::vector<size_t> KernelIn(const std::string& ram) {
    std::ifstream file(ram);
    std::string memory(kMemoryMib << 20, '\0');
    EXPECT_TRUE(file.read(memory.data(), static_cast<std::streamsize>(memory.size())));
    std::vector<size_t> found;
    for (size_t at = memory.find("Linux version "); at != std::string::npos;
         at = memory.find("Linux version ", at + 1)) {
      found.push_back(at);
    }
    EXPECT_GT(found.size(), 1u);
    return found;
  }

  static std::unique_ptr<ScratchDir> scratch_;
  static GuestOptions guest_;
  static std::string why_not_;
  static bool ready_;
  static double removed_;  // of the last lazy run
};

std::unique_ptr<ScratchDir> QemuRunning::scratch_;
GuestOptions QemuRunning::guest_;
std::string QemuRunning::why_not_;
bool QemuRunning::ready_ = false;
double QemuRunning::removed_ = 0;

// The guest was saved when it had freed 16 MiB, which it reports before it frees others. Its pages
// are read as before, or as zeros: nobody who waits is left behind by the stops.
TEST_F(QemuRunning, FreePagesReportedAndTheProcessStoppedAndContinued) {
  ExpectEqual([](QemuProcess& qemu) {
    ASSERT_TRUE(qemu.Execute("cont").ok());
    uint64_t tick = 0;
    for (int i = 0; i < 20; ++i) {
      const auto next = qemu.serial().WaitForLine(
          [&](const std::string& line) {
            const uint64_t now = TickOf(line).value_or(0);
            if (now <= tick) return false;
            tick = now;
            return true;
          },
          Soon());
      ASSERT_TRUE(next.ok()) << next.status();
      ASSERT_EQ(kill(qemu.pid(), SIGSTOP), 0);
      siginfo_t stopped = {};
      ASSERT_EQ(waitid(P_PID, qemu.pid(), &stopped, WSTOPPED), 0);
      ASSERT_EQ(stopped.si_code, CLD_STOPPED);
      ASSERT_EQ(kill(qemu.pid(), SIGCONT), 0);
    }
    const absl::Status paused = WaitForPause(qemu);
    ASSERT_TRUE(paused.ok()) << paused << qemu.Stderr();
  });
  EXPECT_GT(removed_, 0);
}

// Asked for before the guest runs: a request in the middle would come at another instruction in
// each run. tests/qemu_guest_test.cc gives pages back, too.
TEST_F(QemuRunning, BalloonInflated) {
  ExpectEqual([](QemuProcess& qemu) {
    const uint64_t bytes = (kMemoryMib - 48) << 20;
    ASSERT_TRUE(qemu.Execute("balloon", {{"value", bytes}}).ok());
    ASSERT_NO_FATAL_FAILURE(Continue(qemu));
    const auto now = qemu.Execute("query-balloon");
    ASSERT_TRUE(now.ok()) << now.status();
    EXPECT_EQ(NumberAt(*now, "/actual"), static_cast<double>(bytes));
  });
}

// The guest boots anew, over what is left of the old one's memory. There are two ways, seldom more,
// that a boot can go after either load, each about as often: the firmware's clock is some
// milliseconds on, and the kernel puts itself elsewhere, which changes half of all pages. So one
// load and the other boot anew until both kernels lie in the same place.
TEST_F(QemuRunning, Reset) {
  const auto reset = [](QemuProcess& qemu) {
    ASSERT_TRUE(qemu.Execute("system_reset").ok());
    ASSERT_TRUE(qemu.WaitForEvent("RESET", Soon()).ok());
    Continue(qemu);
  };
  ASSERT_NO_FATAL_FAILURE(Run(/*lazy=*/false, reset, StockRam()));
  ASSERT_NO_FATAL_FAILURE(Run(/*lazy=*/true, reset, LazyRam()));
  bool lazy = false;
  for (int boots = 0; boots < 16 && KernelIn(LazyRam()) != KernelIn(StockRam()); ++boots) {
    ASSERT_NO_FATAL_FAILURE(Run(lazy, reset, lazy ? LazyRam() : StockRam()));
    lazy = !lazy;
  }
  const Difference difference = Compare();
  EXPECT_EQ(difference.pages, 0) << "the first is page " << difference.first << "; "
                                 << difference.zero << " are zero";
}

}  // namespace
}  // namespace ramjet
