#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "mappedram/vmstate/device.h"
#include "mappedram/vmstate/forms.h"
#include "mappedram/vmstate/loops.h"
#include "tests/mappedram_testing.h"

namespace ramjet::vmstate {
namespace {

using absl::StatusCode;

std::string Bytes(absl::string_view hex) {
  return absl::HexStringToBytes(absl::StrReplaceAll(hex, {{" ", ""}}));
}

Payload PayloadOf(const std::string& bytes, uint32_t version = 1) {
  return {.bytes = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
          .offset = 1000,
          .version = version};
}

template <typename Form>
absl::Status ErrorOf(const Form& form, absl::string_view hex, uint32_t version = 1) {
  const std::string bytes = Bytes(hex);
  return Decode(form, PayloadOf(bytes, version)).status();
}

template <typename M>
struct One {
  M value = {};
};

// Expects `value` in `form` to be these bytes, and these bytes to be `value`. What its owner knows
// is in `initial`.
template <typename M, typename Form>
void ExpectBytes(const M& value, Form form, absl::string_view hex, M initial = {}) {
  const auto device = Struct<One<M>>("d", {}, Field("value", &One<M>::value, form));
  const auto encoded = Encode(device, One<M>{value});
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(absl::BytesToHexString(*encoded), absl::BytesToHexString(Bytes(hex)));
  const std::string bytes = Bytes(hex);
  const auto decoded = Decode(device, PayloadOf(bytes), One<M>{initial});
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_TRUE(decoded->value == value) << hex;
}

template <typename M, typename Form>
absl::Status ErrorOfOne(Form form, absl::string_view hex, M initial = {}) {
  const auto device = Struct<One<M>>("d", {}, Field("value", &One<M>::value, form));
  const std::string bytes = Bytes(hex);
  return Decode(device, PayloadOf(bytes), One<M>{std::move(initial)}).status();
}

template <typename M, typename Form>
absl::Status EncodingErrorOf(Form form, M value) {
  const auto device = Struct<One<M>>("d", {}, Field("value", &One<M>::value, form));
  return Encode(device, One<M>{std::move(value)}).status();
}

// --- forms ---

enum class Color : uint16_t { kBlue = 0x102 };

TEST(VmstateForms, NumbersAreBigEndianInTheirOwnSize) {
  ExpectBytes<uint8_t>(0xfe, Number(), "fe");
  ExpectBytes<int16_t>(-2, Number(), "fffe");
  ExpectBytes<uint32_t>(0x01020304, Number(), "01020304");
  ExpectBytes<int64_t>(-256, Number(), "ffffffffffffff00");
  ExpectBytes<bool>(true, Number(), "01");
  ExpectBytes<double>(1.5, Number(), "3ff8000000000000");
  ExpectBytes<Color>(Color::kBlue, Number(), "0102");
}

TEST(VmstateForms, BoolIsNothingButZeroOrOne) {
  EXPECT_THAT(
      ErrorOfOne<bool>(Number(), "02"),
      StatusIs(StatusCode::kDataLoss, "device \"d\": value at offset 1000: 2 is neither 0 nor 1"));
}

TEST(VmstateForms, NumberOfAnotherSizeOnTheWireHasToFit) {
  ExpectBytes<uint16_t>(0x102, As<uint64_t>(), "0000000000000102");
  ExpectBytes<int64_t>(-1, As<int8_t>(), "ff");
  EXPECT_THAT(ErrorOfOne<uint16_t>(As<uint32_t>(), "00010000"),
              StatusIs(StatusCode::kDataLoss, "65536 does not fit"));
  EXPECT_THAT(EncodingErrorOf<int>(As<uint8_t>(), -1),
              StatusIs(StatusCode::kInvalidArgument, "device \"d\": value: -1 does not fit"));
}

TEST(VmstateForms, TimerThatIsOffIsMinusOne) {
  ExpectBytes<std::optional<int64_t>>(0x1234, Timer(), "0000000000001234");
  ExpectBytes<std::optional<int64_t>>(std::nullopt, Timer(), "ffffffffffffffff");
  EXPECT_THAT(EncodingErrorOf<std::optional<int64_t>>(Timer(), -1),
              StatusIs(StatusCode::kInvalidArgument, "would be off"));
}

TEST(VmstateForms, BufferHasItsSizeFromItsOwner) {
  ExpectBytes<std::array<uint8_t, 3>>({1, 2, 3}, Buffer(), "010203");
  ExpectBytes<std::vector<uint8_t>>({1, 2}, Buffer(), "0102", std::vector<uint8_t>(2));
}

TEST(VmstateForms, CountedBufferHasItsSizeOnTheWire) {
  ExpectBytes<std::string>("abc", CountedBuffer(), "00000003 616263");
  ExpectBytes<std::string>("mapped-ram", CountedBuffer<uint8_t>(), "0a 6d61707065642d72616d");
  ExpectBytes<std::vector<uint8_t>>({}, CountedBuffer<uint16_t>(), "0000");
  EXPECT_THAT(
      ErrorOfOne<std::string>(CountedBuffer(), "ffffffff 616263"),
      StatusIs(StatusCode::kDataLoss, "value at offset 1004: 4294967295 bytes wanted, 3 left"));
  EXPECT_THAT(EncodingErrorOf<std::string>(CountedBuffer<uint8_t>(), std::string(256, 'x')),
              StatusIs(StatusCode::kInvalidArgument, "256 does not fit"));
}

TEST(VmstateForms, BitmapIsWordsOf64Bits) {
  ExpectBytes<std::bitset<3>>(0b101, Bitmap(), "0000000000000005");
  std::vector<bool> bits(65);
  bits[1] = bits[64] = true;
  ExpectBytes<std::vector<bool>>(bits, Bitmap(), "0000000000000002 0000000000000001",
                                 std::vector<bool>(65));
  EXPECT_THAT(ErrorOfOne<std::bitset<3>>(Bitmap(), "0000000000000008"),
              StatusIs(StatusCode::kDataLoss, "bits behind the last of 3"));
}

TEST(VmstateForms, ValueThatHasToBeEqualIsComparedNotTaken) {
  ExpectBytes<int32_t>(7, Equal(), "00000007", 7);
  EXPECT_THAT(ErrorOfOne<int32_t>(Equal(), "00000008", 7),
              StatusIs(StatusCode::kDataLoss, "8 is not 7, as here"));
}

TEST(VmstateForms, ArrayElementIsNamedInErrors) {
  ExpectBytes<std::array<uint16_t, 2>>({1, 2}, Array(), "0001 0002");
  EXPECT_THAT((ErrorOfOne<std::array<bool, 3>>(Array(), "00 01 07")),
              StatusIs(StatusCode::kDataLoss, "value[2] at offset 1002: 7 is neither 0 nor 1"));
}

TEST(VmstateForms, MissingObjectOfAnArrayOfPointersIsTheCharacterZero) {
  using Pointers = std::vector<std::unique_ptr<uint16_t>>;
  const auto device = Struct<One<Pointers>>(
      "d", {}, Field("value", &One<Pointers>::value, Array(InPlace(Number()))));
  One<Pointers> object;
  object.value.resize(2);
  object.value[1] = std::make_unique<uint16_t>(0x102);
  const auto encoded = Encode(device, object);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(*encoded, Bytes("30 0102"));
  *object.value[1] = 0;
  const auto decoded = Decode(device, PayloadOf(*encoded), std::move(object));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded->value[1], 0x102);
  EXPECT_THAT(ErrorOfOne<Pointers>(Array(InPlace(Number())), "00", Pointers(1)),
              StatusIs(StatusCode::kDataLoss, "0 is not the sign of a missing object, 48"));
}

// --- loops and containers, each with each ---

TEST(VmstateLoops, MarkersAreQemusLists) {
  constexpr char kHex[] = "01 0007 01 0001 00";
  constexpr auto kForm = Marked(Number());
  ExpectBytes<std::list<uint16_t>>({7, 1}, kForm, kHex);
  ExpectBytes<std::vector<uint16_t>>({7, 1}, kForm, kHex);
  ExpectBytes<std::deque<uint16_t>>({7, 1}, kForm, kHex);
  ExpectBytes<std::list<uint16_t>>({}, kForm, "00");
}

TEST(VmstateLoops, CountAlone) {
  ExpectBytes<std::vector<uint16_t>>({7, 1}, Counted(Number()), "00000002 0007 0001");
  ExpectBytes<std::set<uint16_t>>({1, 7}, Counted<uint8_t>(Number()), "02 0001 0007");
  ExpectBytes<std::list<uint16_t>>({}, Counted<uint64_t>(Number()), "0000000000000000");
}

TEST(VmstateLoops, CountAndMarkersAreQemusTree) {
  using Tree = std::map<uint64_t, uint16_t>;
  ExpectBytes<Tree>({{1, 2}, {3, 4}}, CountedMarked(Pair(Number(), Number())),
                    "00000002 01 0000000000000001 0002 01 0000000000000003 0004 00");
  ExpectBytes<Tree>({}, CountedMarked(Pair(Number(), Number())), "00000000 00");
}

TEST(VmstateLoops, HashMapGoesInTheFormOfATreeAndOfTheListItReplaces) {
  using Hash = absl::flat_hash_map<uint32_t, std::string>;
  constexpr auto kPair = Pair(As<uint64_t>(), CountedBuffer<uint8_t>());
  ExpectBytes<Hash>({{5, "fd"}}, CountedMarked(kPair), "00000001 01 0000000000000005 026664 00");
  ExpectBytes<Hash>({{5, "fd"}}, Marked(kPair), "01 0000000000000005 026664 00");
  // The same bytes, as the list that others still have.
  ExpectBytes<std::list<std::pair<uint32_t, std::string>>>({{5, "fd"}}, Marked(kPair),
                                                           "01 0000000000000005 026664 00");
}

TEST(VmstateLoops, WhoAllocatesIsTheFormsChoice) {
  using Pointers = std::list<std::unique_ptr<std::vector<uint16_t>>>;
  const auto device = Struct<One<Pointers>>(
      "d", {},
      Field("value", &One<Pointers>::value,
            Marked(Allocated(Array(), [] { return std::make_unique<std::vector<uint16_t>>(2); }))));
  const std::string bytes = Bytes("01 0001 0002 01 0003 0004 00");
  const auto decoded = Decode(device, PayloadOf(bytes));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded->value.back(), (std::vector<uint16_t>{3, 4}));
  EXPECT_EQ(*Encode(device, *decoded), bytes);

  constexpr auto kRefused = Marked(Allocated(Number(), [] { return std::unique_ptr<uint8_t>(); }));
  EXPECT_THAT(ErrorOfOne<std::list<std::unique_ptr<uint8_t>>>(kRefused, "01 05 00"),
              StatusIs(StatusCode::kDataLoss, "value[0] at offset 1000: no object can be made"));
}

TEST(VmstateLoops, WhatWasInTheContainerIsGone) {
  ExpectBytes<std::list<uint16_t>>({7}, Marked(Number()), "01 0007 00", {1, 2, 3});
}

TEST(VmstateLoops, MarkersAndCountHaveToAgree) {
  using Values = std::vector<uint8_t>;
  constexpr auto kForm = CountedMarked(Number());
  EXPECT_THAT(ErrorOfOne<Values>(kForm, "00000002 01 07 00 00"),
              StatusIs(StatusCode::kDataLoss,
                       "value at offset 1006: only 1 elements, where their count is 2"));
  EXPECT_THAT(ErrorOfOne<Values>(kForm, "00000001 01 07 01 08 00"),
              StatusIs(StatusCode::kDataLoss, "more than 1 elements, where their count is 1"));
  EXPECT_THAT(ErrorOfOne<Values>(kForm, "00000001 02 07 00"),
              StatusIs(StatusCode::kDataLoss, "marker 2 is neither 0 nor 1"));
}

TEST(VmstateLoops, KeyThatComesTwiceIsRefused) {
  EXPECT_THAT((ErrorOfOne<std::map<uint8_t, bool>>(Marked(Pair(Number(), Number())),
                                                   "01 05 00 01 05 01 00")),
              StatusIs(StatusCode::kDataLoss, "value[1] at offset 1005: its key came before"));
}

TEST(VmstateLoops, LimitHoldsBothWays) {
  using Values = std::vector<uint8_t>;
  for (const auto& [form, hex] : {std::pair(Marked(Number(), 2), "01 00 01 00 01 00 00"),
                                  std::pair(Counted(Number(), 2), "00000003 00 00 00")}) {
    EXPECT_THAT(ErrorOfOne<Values>(form, hex), StatusIs(StatusCode::kDataLoss, "more than 2"));
    EXPECT_THAT(EncodingErrorOf<Values>(form, Values(3)),
                StatusIs(StatusCode::kInvalidArgument, "3 elements are too many"));
  }
  EXPECT_THAT(EncodingErrorOf<Values>(Counted<uint8_t>(Number()), Values(256)),
              StatusIs(StatusCode::kInvalidArgument, "256 elements are too many"));
}

// --- what input can make it allocate ---

// Counts those alive, and how many there ever were.
struct Tracked {
  static inline int alive = 0;
  static inline int made = 0;
  Tracked() { ++alive, ++made; }
  Tracked(Tracked&& other) noexcept : value(other.value) { ++alive, ++made; }
  Tracked& operator=(Tracked&&) = default;
  ~Tracked() { --alive; }
  uint8_t value = 0;
};
constexpr auto kTracked = Struct<Tracked>("one", {}, Field("value", &Tracked::value));

struct ManyOnes {
  uint32_t count = 0;
  std::list<Tracked> ones;
};

TEST(VmstateBounds, ClaimedElementsAreNotMadeBeforeTheirBytesAreThere) {
  using Ones = std::list<Tracked>;
  Tracked::made = 0;
  for (const char* const hex : {"ffffffff", "00000003 01 02", "ffffffff 01 02"}) {
    EXPECT_THAT(ErrorOfOne<Ones>(Counted(kTracked), hex),
                StatusIs(StatusCode::kDataLoss, "elements cannot be in the "));
    EXPECT_THAT(ErrorOfOne<Ones>(CountedMarked(kTracked), hex),
                StatusIs(StatusCode::kDataLoss, "elements cannot be in the "));
    const auto sized =
        Struct<ManyOnes>("d", {}, Field("count", &ManyOnes::count),
                         Sized("ones", &ManyOnes::ones, &ManyOnes::count, Array(kTracked)));
    EXPECT_THAT(ErrorOf(sized, hex), StatusIs(StatusCode::kDataLoss, "elements cannot be in the "));
  }
  EXPECT_EQ(Tracked::made, 0);
}

TEST(VmstateBounds, ElementsWithoutBytesAreNoMoreThanBytes) {
  struct Nothing {};
  constexpr auto kNothing = Struct<Nothing>("nothing", {});
  EXPECT_THAT(ErrorOfOne<std::vector<Nothing>>(Counted(kNothing), "00000003 00 00"),
              StatusIs(StatusCode::kDataLoss, "3 elements cannot be in the 2 bytes left"));
}

TEST(VmstateBounds, FailureLeavesNothing) {
  const std::string bytes = Bytes("01 07 01 08 02");
  EXPECT_FALSE(ErrorOfOne<std::list<Tracked>>(Marked(kTracked), "01 07 01 08 02").ok());
  EXPECT_EQ(Tracked::alive, 0);
  // Nor is anything changed that the caller keeps.
  const auto device =
      Struct<One<std::vector<uint8_t>>>("d", {}, Field("value", &One<std::vector<uint8_t>>::value));
  const One<std::vector<uint8_t>> kept{{1, 2}};
  EXPECT_FALSE(Decode(device, PayloadOf(bytes), kept).ok());
  EXPECT_EQ(kept.value, (std::vector<uint8_t>{1, 2}));
}

// --- structs, versions, subsections ---

struct Irq {
  uint8_t line = 0;
  bool operator==(const Irq&) const = default;
};
struct Uart {
  uint16_t divider = 0;
  bool fifo = false;
  uint32_t pending_count = 0;
  std::vector<uint16_t> pending;
  std::array<Irq, 2> irqs;
  uint8_t level = 0;
  uint8_t trigger = 0;
  std::optional<int64_t> timeout;

  bool operator==(const Uart&) const = default;
};

constexpr auto kIrq = Struct<Irq>("irq", {}, Field("line", &Irq::line));
constexpr auto kUart = Struct<Uart>(
    "uart", {.current = 3, .oldest = 2},  //
    Field("divider", &Uart::divider),     //
    Since(3, Field("fifo", &Uart::fifo)), Unused{2}, Field("pending_count", &Uart::pending_count),
    Sized("pending", &Uart::pending, &Uart::pending_count, Array()),
    When([](const Uart& uart) { return uart.fifo; }, Field("irqs", &Uart::irqs, Array(kIrq))),
    Check("divider < 0x4000", [](const Uart& uart) { return uart.divider < 0x4000; }),
    Subsection(Struct<Uart>("uart/fifo", {.current = 2, .oldest = 1}, Field("level", &Uart::level),
                            Subsection(Struct<Uart>("uart/fifo/trigger", {},
                                                    Field("trigger", &Uart::trigger)),
                                       [](const Uart& uart) { return uart.trigger != 0; })),
               [](const Uart& uart) { return uart.level != 0 || uart.trigger != 0; }),
    Subsection(Struct<Uart>("uart/timeout", {}, Field("timeout", &Uart::timeout, Timer())),
               [](const Uart& uart) { return uart.timeout.has_value(); }));

Uart FullUart() {
  Uart uart;
  uart.divider = 0x102;
  uart.fifo = true;
  uart.pending_count = 2;
  uart.pending = {3, 4};
  uart.irqs = {Irq{5}, Irq{6}};
  uart.level = 7;
  uart.trigger = 8;
  uart.timeout = 9;
  return uart;
}

std::string SubsectionBytes(const std::string& name, uint32_t version, const std::string& content) {
  return absl::StrCat("\x05", BigEndian(name.size(), 1), name, BigEndian(version, 4), content);
}

const std::string& FullUartBytes() {
  static const auto* const bytes = new std::string(absl::StrCat(
      Bytes("0102 01 0000 00000002 0003 0004 05 06"), SubsectionBytes("uart/fifo", 2, "\x07"),
      SubsectionBytes("uart/fifo/trigger", 1, "\x08"),
      SubsectionBytes("uart/timeout", 1, BigEndian(9, 8))));
  return *bytes;
}

TEST(VmstateDevice, StructIsItsMembersInOrderThenItsSubsections) {
  const auto encoded = Encode(kUart, FullUart());
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_EQ(absl::BytesToHexString(*encoded), absl::BytesToHexString(FullUartBytes()));
  const auto decoded = Decode(kUart, PayloadOf(FullUartBytes(), 3));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_TRUE(*decoded == FullUart());
}

TEST(VmstateDevice, OlderVersionLacksItsFields) {
  const std::string bytes = Bytes("0102 0000 00000000");
  const auto decoded = Decode(kUart, PayloadOf(bytes, 2));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->divider, 0x102);
  EXPECT_FALSE(decoded->fifo);
}

TEST(VmstateDevice, VersionOutOfRangeIsSaidWithBothNumbers) {
  EXPECT_THAT(ErrorOf(kUart, "", 4),
              StatusIs(StatusCode::kDataLoss,
                       "device \"uart\": at offset 1000: version 4 is too new: 3 is the newest"));
  EXPECT_THAT(ErrorOf(kUart, "", 1),
              StatusIs(StatusCode::kDataLoss, "version 1 is too old: 2 is the oldest"));
}

TEST(VmstateDevice, SubsectionsVersionIsItsOwn) {
  for (const auto& [version, words] :
       {std::pair(3, "uart/fifo at offset 1020: version 3 is too new: 2 is the newest"),
        std::pair(0, "version 0 is too old: 1 is the oldest")}) {
    const std::string bytes =
        Bytes("0102 00 0000 00000000") + SubsectionBytes("uart/fifo", version, "\x07");
    EXPECT_THAT(Decode(kUart, PayloadOf(bytes, 3)).status(),
                StatusIs(StatusCode::kDataLoss, words));
  }
}

TEST(VmstateDevice, SubsectionsComeInAnyOrderButOnce) {
  const std::string fields = Bytes("0102 00 0000 00000000");
  const std::string fifo = SubsectionBytes("uart/fifo", 1, "\x07");
  const std::string timeout = SubsectionBytes("uart/timeout", 1, BigEndian(9, 8));
  const std::string swapped = absl::StrCat(fields, timeout, fifo);
  const auto decoded = Decode(kUart, PayloadOf(swapped, 3));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->level, 7);
  EXPECT_EQ(decoded->timeout, 9);

  const std::string twice = absl::StrCat(fields, fifo, fifo);
  EXPECT_THAT(Decode(kUart, PayloadOf(twice, 3)).status(),
              StatusIs(StatusCode::kDataLoss,
                       "at offset 1025: subsection \"uart/fifo\" is unknown here, or came before"));
  const std::string unknown = fields + SubsectionBytes("uart/\x01", 1, "");
  EXPECT_THAT(Decode(kUart, PayloadOf(unknown, 3)).status(),
              StatusIs(StatusCode::kDataLoss, "subsection \"uart/\\x01\" is unknown here"));
}

TEST(VmstateDevice, SubsectionOfTheOuterStructIsNotTakenByTheInner) {
  struct Outer {
    std::vector<Uart> uarts;
    uint8_t x = 0;
  };
  const auto outer =
      Struct<Outer>("uart", {}, Field("uarts", &Outer::uarts, Counted<uint8_t>(kUart)),
                    Subsection(Struct<Outer>("uart/x", {}, Field("x", &Outer::x)),
                               [](const Outer& object) { return object.x != 0; }));
  const std::string bytes =
      absl::StrCat("\x01", FullUartBytes(), SubsectionBytes("uart/x", 1, "\x05"));
  const auto decoded = Decode(outer, PayloadOf(bytes));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_TRUE(decoded->uarts.at(0) == FullUart());
  EXPECT_EQ(decoded->x, 5);
  EXPECT_EQ(*Encode(outer, *decoded), bytes);
}

TEST(VmstateDevice, BytesThatAreLeftAreRefused) {
  EXPECT_THAT(ErrorOf(kIrq, "07 00 00"),
              StatusIs(StatusCode::kDataLoss, "device \"irq\": at offset 1001: 2 bytes are left"));
}

TEST(VmstateDevice, CheckHoldsBothWays) {
  EXPECT_THAT(ErrorOf(kUart, "4000 00 0000 00000000", 3),
              StatusIs(StatusCode::kDataLoss, "divider < 0x4000 does not hold"));
  Uart uart;
  uart.divider = 0x4000;
  EXPECT_THAT(Encode(kUart, uart).status(),
              StatusIs(StatusCode::kInvalidArgument, "divider < 0x4000 does not hold"));
}

TEST(VmstateDevice, ObjectThatContradictsItsOwnCountIsNotWritten) {
  Uart uart;
  uart.pending = {1};
  EXPECT_THAT(
      Encode(kUart, uart).status(),
      StatusIs(StatusCode::kInvalidArgument, "device \"uart\": pending: has 1 elements, not 0"));
}

TEST(VmstateDevice, EveryTruncationIsRefusedOrLacksSubsectionsOnly) {
  const std::string& whole = FullUartBytes();
  size_t decoded = 0;
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string bytes = whole.substr(0, size);
    decoded += Decode(kUart, PayloadOf(bytes, 3)).ok() ? 1 : 0;
  }
  EXPECT_EQ(decoded, 3);  // in front of each subsection
}

TEST(VmstateDevice, WhatAnyFlippedBitStillMeansIsWrittenAndReadAgain) {
  for (size_t bit = 0; bit < FullUartBytes().size() * 8; ++bit) {
    std::string bytes = FullUartBytes();
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    const auto decoded = Decode(kUart, PayloadOf(bytes, 3));
    if (!decoded.ok()) continue;
    const auto encoded = Encode(kUart, *decoded);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    const auto again = Decode(kUart, PayloadOf(*encoded, 3));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(*again == *decoded) << bit;
  }
}

}  // namespace
}  // namespace ramjet::vmstate
