#include <sys/uio.h>

#include <array>
#include <string>

#include "gtest/gtest.h"
#include "tools/preload/incoming_door.h"

namespace ramjet {
namespace {

constexpr size_t kBufferBytes = 32 << 10;  // QEMU's

bool Begins(const IncomingDoor& door, int fd, std::string bytes, size_t length = kBufferBytes,
            size_t parts = 1) {
  const auto got = static_cast<ssize_t>(bytes.size());
  bytes.resize(kBufferBytes);
  const std::array<iovec, 2> iov = {{{.iov_base = bytes.data(), .iov_len = length},
                                     {.iov_base = bytes.data(), .iov_len = length}}};
  return door.Begins(fd, iov.data(), parts, got);
}

bool IsOpenWith(std::array<const char*, 3> arguments) {
  IncomingDoor door;
  door.OpenIfAsked(static_cast<int>(arguments.size()), arguments.data());
  EXPECT_NE(door.is_open(), door.is_shut());
  return door.is_open();
}

TEST(IncomingDoor, IsOpenOnlyIfTheCommandLineSaysSo) {
  EXPECT_TRUE(IsOpenWith({"qemu", "-incoming", "defer"}));
  EXPECT_TRUE(IsOpenWith({"qemu", "--incoming", "file:vm.mr"}));
  EXPECT_FALSE(IsOpenWith({"qemu", "-m", "1G"}));
  EXPECT_FALSE(IsOpenWith({"-incoming", "-name", "incoming"}));
}

TEST(IncomingDoor, AStreamBeginsAsQemuReadsItAndInNoOtherWay) {
  IncomingDoor door;
  EXPECT_FALSE(Begins(door, 3, "QEVM and more")) << "shut";
  door.Open();
  EXPECT_TRUE(Begins(door, 3, "QEVM and more"));
  EXPECT_TRUE(Begins(door, 3, "QE")) << "a socket gives what it has";
  EXPECT_FALSE(Begins(door, 3, ""));
  EXPECT_FALSE(Begins(door, 3, "QEMU and more"));
  EXPECT_FALSE(Begins(door, 3, "QEVM and more", 4096)) << "as a chardev reads";
  EXPECT_FALSE(Begins(door, 3, "QEVM and more", 69632)) << "as a network backend reads";
  EXPECT_FALSE(Begins(door, 3, "QEVM and more", kBufferBytes, 2));
}

TEST(IncomingDoor, WhatIsExpectedBeginsWhateverItIs) {
  IncomingDoor door;
  door.Open();
  door.Expect(3);
  door.Expect(4);  // of a multifd channel
  EXPECT_TRUE(door.IsExpectedFrom(3));
  EXPECT_TRUE(Begins(door, 3, "no magic number", 16, 2));
  EXPECT_FALSE(Begins(door, 4, "no magic number", 16, 2));
  ASSERT_TRUE(door.Take(3));
  door.Expect(5);
  door.Open();  // the load has failed; the numbers are others' by now
  EXPECT_FALSE(door.IsExpectedFrom(3));
  EXPECT_FALSE(door.IsExpectedFrom(5));
}

// A buffer of device state that the guest had filled began a second session in mid-stream.
TEST(IncomingDoor, Invariant11NoOtherStreamBeginsWhileOneIsUnderWay) {
  IncomingDoor door;
  door.Open();
  ASSERT_TRUE(door.Take(3));
  EXPECT_FALSE(door.Take(4));
  EXPECT_TRUE(door.IsTakenBy(3));
  EXPECT_FALSE(door.IsTakenBy(4));
  EXPECT_FALSE(door.IsTakenBy(-1));
  EXPECT_FALSE(Begins(door, 3, "QEVM"));
  EXPECT_FALSE(Begins(door, 4, "QEVM"));
  door.Shut();
  EXPECT_FALSE(door.IsTakenBy(3));
  EXPECT_FALSE(Begins(door, 3, "QEVM"));
}

}  // namespace
}  // namespace ramjet
