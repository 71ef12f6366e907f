#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/loader_testing.h"
#include "uffd/event_reader.h"
#include "uffd/uapi.h"
#include "uffd/userfaultfd.h"

namespace ramjet {
namespace {

using ::testing::HasSubstr;

// What the system's header knows, however old, it knows as we do.
static_assert(uapi::kIoctlApi == UFFDIO_API && uapi::kIoctlRegister == UFFDIO_REGISTER);
static_assert(uapi::kIoctlUnregister == UFFDIO_UNREGISTER && uapi::kIoctlWake == UFFDIO_WAKE);
static_assert(uapi::kIoctlCopy == UFFDIO_COPY && uapi::kIoctlZeroPage == UFFDIO_ZEROPAGE);
static_assert(uapi::kApi == UFFD_API && uapi::kFeatureEventRemove == UFFD_FEATURE_EVENT_REMOVE);
static_assert(uapi::kEventPageFault == UFFD_EVENT_PAGEFAULT &&
              uapi::kEventRemove == UFFD_EVENT_REMOVE && uapi::kEventUnmap == UFFD_EVENT_UNMAP);
static_assert(sizeof(uapi::Message) == sizeof(uffd_msg));
static_assert(uapi::kModeDontWake == UFFDIO_COPY_MODE_DONTWAKE);

class UserfaultfdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_USERFAULTFD();
    uffd_.emplace(*Userfaultfd::Open());
    ASSERT_TRUE(uffd_->Register(memory_.addr(), memory_.length()).ok());
    content_.assign(16 * HostPageBytes(), 0x77);
  }
  uint64_t Bytes(uint64_t pages) { return pages * HostPageBytes(); }

  GuestMemory memory_{16 * HostPageBytes(), BlockMemory::kPrivate};
  std::optional<Userfaultfd> uffd_;
  std::vector<uint8_t> content_;
};

TEST_F(UserfaultfdTest, CopiedBytesAreThere) {
  const Installed installed = uffd_->Copy(memory_.addr(), content_.data(), Bytes(16));
  EXPECT_EQ(installed.result, InstallResult::kDone);
  EXPECT_EQ(installed.length, Bytes(16));
  EXPECT_EQ(std::memcmp(memory_.data(), content_.data(), Bytes(16)), 0);
}

TEST_F(UserfaultfdTest, APresentPageStopsACopyAndIsNamedByItsLength) {
  ASSERT_EQ(uffd_->Zero(memory_.addr(4), Bytes(1)).result, InstallResult::kDone);
  const Installed installed = uffd_->Copy(memory_.addr(), content_.data(), Bytes(16));
  EXPECT_EQ(installed.result, InstallResult::kExists);
  EXPECT_EQ(installed.length, Bytes(4));
  EXPECT_TRUE(memory_.HoldsZeros(4));
}

TEST_F(UserfaultfdTest, MemoryOutsideTheRegistrationIsGone) {
  ASSERT_TRUE(uffd_->Unregister(memory_.addr(), Bytes(16)).ok());
  EXPECT_EQ(uffd_->Copy(memory_.addr(), content_.data(), Bytes(1)).result, InstallResult::kGone);
}

TEST_F(UserfaultfdTest, WhileADiscardIsUnreadEveryInstallSaysAgain) {
  if (!uffd_->features().remove_events) GTEST_SKIP() << "this kernel reports no discards";
  EventReader reader = *EventReader::Create(*uffd_);
  std::thread discarder([&] { memory_.MadviseDontNeed(8, 2); });
  reader.Wait(-1);
  EXPECT_EQ(uffd_->Copy(memory_.addr(), content_.data(), Bytes(2)).result, InstallResult::kAgain);
  EXPECT_EQ(uffd_->Zero(memory_.addr(), Bytes(2)).result, InstallResult::kAgain);
  bool more;
  const Events events = reader.Read(more);
  ASSERT_EQ(events.removes.size(), 1u);
  EXPECT_EQ(events.removes[0].start, memory_.addr(8));
  EXPECT_EQ(events.removes[0].end, memory_.addr(10));
  discarder.join();
  EXPECT_EQ(uffd_->Copy(memory_.addr(), content_.data(), Bytes(2)).result, InstallResult::kDone);
}

TEST_F(UserfaultfdTest, APoisonedPageIsPoisoned) {
  if (!uffd_->features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  EXPECT_EQ(uffd_->Poison(memory_.addr(3), Bytes(1)).result, InstallResult::kDone);
  EXPECT_TRUE(IsPoisoned(memory_.data() + Bytes(3)));
}

TEST_F(UserfaultfdTest, MovedPagesLeaveTheirOldPlace) {
  if (!uffd_->features().move) GTEST_SKIP() << "this kernel has no UFFDIO_MOVE";
  GuestMemory from(16 * HostPageBytes(), BlockMemory::kPrivate);
  std::memset(from.data(), 0x77, Bytes(16));
  EXPECT_EQ(uffd_->Move(memory_.addr(), from.data(), Bytes(16)).result, InstallResult::kDone);
  EXPECT_EQ(memory_.data()[Bytes(15)], 0x77);
  EXPECT_TRUE(from.HoldsZeros(15));
}

TEST_F(UserfaultfdTest, ManyFaultsAreReadAtOnce) {
  EventReader reader = *EventReader::Create(*uffd_);
  std::vector<std::thread> guests;
  for (uint64_t page = 0; page < 8; ++page) {
    guests.emplace_back([&, page] { EXPECT_TRUE(memory_.HoldsZeros(page)); });
  }
  std::vector<bool> seen(16);
  for (size_t count = 0; count < 8;) {
    reader.Wait(-1);
    bool more;
    for (const MissingFault& fault : reader.Read(more).faults) {
      seen[(fault.addr - memory_.addr()) / HostPageBytes()] = true;
      ++count;
    }
  }
  for (uint64_t page = 0; page < 8; ++page) EXPECT_TRUE(seen[page]) << page;
  EXPECT_EQ(uffd_->Zero(memory_.addr(), Bytes(8)).result, InstallResult::kDone);
  uffd_->Wake(memory_.addr(), Bytes(8));
  for (std::thread& guest : guests) guest.join();
}

TEST_F(UserfaultfdTest, APokeEndsAWait) {
  EventReader reader = *EventReader::Create(*uffd_);
  reader.Poke();
  reader.Wait(-1);  // returns, or the test times out
  bool more;
  EXPECT_TRUE(reader.Read(more).faults.empty());
}

TEST_F(UserfaultfdTest, MemoryOfAFileIsRefusedInWords) {
  FILE* const file = tmpfile();
  ASSERT_EQ(ftruncate(fileno(file), static_cast<off_t>(Bytes(1))), 0);
  void* const memory = mmap(nullptr, Bytes(1), PROT_READ, MAP_SHARED, fileno(file), 0);
  const absl::Status status =
      uffd_->Register(reinterpret_cast<uintptr_t>(memory), Bytes(1)).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("not anonymous or shared memory"));
  fclose(file);
}

// The caller's descriptor was adopted whatever it had been set up for: the descriptor of a fork
// event leaked, and the child waited for ever.
class AdoptTest : public ::testing::TestWithParam<std::pair<uint64_t, const char*>> {};

TEST_P(AdoptTest, WhatCannotBeServedIsRefusedByName) {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd < 0) GTEST_SKIP() << "userfaultfd(2) is not for this user";
  const auto [features, refusal] = GetParam();
  uapi::Api api{.api = uapi::kApi, .features = features, .ioctls = 0};
  if (ioctl(fd, uapi::kIoctlApi, &api) != 0) {
    close(fd);
    GTEST_SKIP() << "this kernel does not know them all, or not for this user";
  }
  const absl::Status status = Userfaultfd::Adopt(fd).status();
  if (*refusal == '\0') {
    EXPECT_TRUE(status.ok()) << status;
  } else {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal));
  }
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC) << "it is still the caller's";
  close(fd);
}

INSTANTIATE_TEST_SUITE_P(
    Features, AdoptTest,
    ::testing::Values(std::pair(uapi::kFeatureEventRemove | uapi::kFeatureEventFork,
                                "with UFFD_FEATURE_EVENT_FORK"),
                      std::pair(uapi::kFeatureEventRemove | uapi::kFeatureEventRemap,
                                "with UFFD_FEATURE_EVENT_REMAP"),
                      std::pair(uapi::kFeatureEventRemove | uapi::kFeatureSigbus,
                                "with UFFD_FEATURE_SIGBUS"),
                      std::pair(uapi::kFeatureEventUnmap, "without UFFD_FEATURE_EVENT_REMOVE"),
                      std::pair(uapi::kFeatureEventRemove | uapi::kFeatureThreadId |
                                    uapi::kFeaturePagefaultFlagWp,
                                ""),
                      // All that Linux 6.18 has and that does no harm.
                      std::pair((uint64_t{1} << 17) - 1 - uapi::kFeatureEventFork -
                                    uapi::kFeatureEventRemap - uapi::kFeatureSigbus,
                                "")));

TEST(Userfaultfd, WithoutPermissionTheErrorSaysWhatWouldGiveIt) {
  if (getuid() != 0) GTEST_SKIP() << "only root can take its own permission away";
  const pid_t child = fork();
  if (child == 0) {
    if (setuid(65534) != 0) _exit(2);
    const absl::Status status = Userfaultfd::Open().status();
    const std::string message(status.message());
    // Where the sysctl allows it to everybody there is nothing to say.
    _exit(status.ok() || (message.find("/dev/userfaultfd") != std::string::npos &&
                          message.find("vm.unprivileged_userfaultfd") != std::string::npos)
              ? 0
              : 1);
  }
  int exited;
  ASSERT_EQ(waitpid(child, &exited, 0), child);
  EXPECT_EQ(exited, 0);
}

}  // namespace
}  // namespace ramjet
