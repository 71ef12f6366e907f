// Forms: how one value of a device lies on the wire. See device.h for how they make up a device.
//
// A form is a constant that any C++ type it suits can be coded by, in both directions:
//
//   void Decode(Reader& in, T& value) const;
//   void Encode(Writer& out, const T& value) const;
//   size_t MinBytes<T>() const;                       the fewest bytes of a T on the wire
//
// Those whose number another field tells (Sized in device.h) also have
//
//   void DecodeSized(Reader& in, T& value, uint64_t count) const;
//
// Decode fills in an object that exists: what has its size from its owner (arrays, buffers,
// bitmaps) keeps that size. If it fails, `value` is in any state that can be destroyed; device.h
// sees to it that nobody gets to see that.
#ifndef RAMJET_MAPPEDRAM_VMSTATE_FORMS_H_
#define RAMJET_MAPPEDRAM_VMSTATE_FORMS_H_

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/types/span.h"
#include "mappedram/vmstate/wire.h"

namespace ramjet::vmstate {

template <typename T>
concept Numeric = std::integral<T> || std::is_enum_v<T> || std::same_as<T, double>;

// An integer or enumeration in as many bytes as it has in C++, a bool in one that is 0 or 1, a
// double as its 64 bits.
struct Number {
  template <Numeric T>
  static constexpr size_t MinBytes() {
    return sizeof(T);
  }

  template <Numeric T>
  void Decode(Reader& in, T& value) const {
    const uint64_t bits = in.ReadBigEndian(sizeof(T));
    if constexpr (std::same_as<T, double>) {
      value = std::bit_cast<double>(bits);
    } else {
      if (std::same_as<T, bool> && bits > 1) in.Fail(bits, " is neither 0 nor 1");
      value = static_cast<T>(bits);
    }
  }

  template <Numeric T>
  void Encode(Writer& out, const T& value) const {
    if constexpr (std::same_as<T, double>) {
      out.WriteBigEndian(std::bit_cast<uint64_t>(value), sizeof(T));
    } else {
      out.WriteBigEndian(static_cast<uint64_t>(value), sizeof(T));
    }
  }
};

// An integer that on the wire is a W, wider or narrower than in C++.
template <std::integral W>
struct As {
  template <std::integral T>
  static constexpr size_t MinBytes() {
    return sizeof(W);
  }

  template <std::integral T>
  void Decode(Reader& in, T& value) const {
    W wire = 0;
    Number().Decode(in, wire);
    if (!std::in_range<T>(wire)) in.Fail(wire, " does not fit");
    value = static_cast<T>(wire);
  }

  template <std::integral T>
  void Encode(Writer& out, const T& value) const {
    if (!std::in_range<W>(value)) out.Fail(value, " does not fit");
    Number().Encode(out, static_cast<W>(value));
  }
};

// When a timer fires, in nanoseconds of its clock; no value if it is off, -1 on the wire.
struct Timer {
  template <typename T>
  static constexpr size_t MinBytes() {
    return sizeof(int64_t);
  }

  void Decode(Reader& in, std::optional<int64_t>& expires_ns) const {
    const auto wire = static_cast<int64_t>(in.ReadBigEndian(sizeof(int64_t)));
    expires_ns = wire == -1 ? std::nullopt : std::optional<int64_t>(wire);
  }

  void Encode(Writer& out, const std::optional<int64_t>& expires_ns) const {
    if (expires_ns == -1) out.Fail("a timer that fires at -1 would be off");
    out.WriteBigEndian(static_cast<uint64_t>(expires_ns.value_or(-1)), sizeof(int64_t));
  }
};

// Bytes as they are, as many as their owner has.
struct Buffer {
  template <typename T>
  static constexpr size_t MinBytes() {
    return 0;
  }

  template <typename T>
  void Decode(Reader& in, T& value) const {
    const absl::Span<const uint8_t> bytes = in.ReadBytes(std::size(value));
    std::copy(bytes.begin(), bytes.end(), std::data(value));
  }

  template <typename T>
  void DecodeSized(Reader& in, T& value, uint64_t count) const {
    const absl::Span<const uint8_t> bytes = in.ReadBytes(count);
    value.assign(bytes.begin(), bytes.end());
  }

  template <typename T>
  void Encode(Writer& out, const T& value) const {
    out.WriteBytes({reinterpret_cast<const uint8_t*>(std::data(value)), std::size(value)});
  }
};

// Their number, in as many bytes as a Count has, and the bytes.
template <std::unsigned_integral Count = uint32_t>
struct CountedBuffer {
  template <typename T>
  static constexpr size_t MinBytes() {
    return sizeof(Count);
  }

  template <typename T>
  void Decode(Reader& in, T& value) const {
    const absl::Span<const uint8_t> bytes = in.ReadBytes(in.ReadBigEndian(sizeof(Count)));
    value.assign(bytes.begin(), bytes.end());
  }

  template <typename T>
  void Encode(Writer& out, const T& value) const {
    As<Count>().Encode(out, value.size());
    Buffer().Encode(out, value);
  }
};

// Bit i is bit i % 64 of word i / 64; as many bits as their owner has: std::bitset,
// std::vector<bool>.
struct Bitmap {
  static constexpr size_t kBitsPerWord = 64;

  template <typename T>
  static constexpr size_t MinBytes() {
    return 0;
  }

  template <typename T>
  void Decode(Reader& in, T& bits) const {
    for (size_t first = 0; first < bits.size() && in.ok(); first += kBitsPerWord) {
      const uint64_t word = in.ReadBigEndian(sizeof(uint64_t));
      const size_t count = std::min(kBitsPerWord, bits.size() - first);
      for (size_t i = 0; i < count; ++i) bits[first + i] = (word >> i & 1) != 0;
      if (count < kBitsPerWord && word >> count != 0) {
        in.Fail("bits behind the last of ", bits.size());
      }
    }
  }

  template <typename T>
  void DecodeSized(Reader& in, T& bits, uint64_t count) const {
    const uint64_t words = count / kBitsPerWord + (count % kBitsPerWord != 0 ? 1 : 0);
    if (!in.Expect(words, sizeof(uint64_t))) return;
    bits.assign(count, false);
    Decode(in, bits);
  }

  template <typename T>
  void Encode(Writer& out, const T& bits) const {
    for (size_t first = 0; first < bits.size(); first += kBitsPerWord) {
      uint64_t word = 0;
      const size_t count = std::min(kBitsPerWord, bits.size() - first);
      for (size_t i = 0; i < count; ++i) word |= uint64_t{bits[first + i]} << i;
      out.WriteBigEndian(word, sizeof(word));
    }
  }
};

// A value that both sides must already agree on: decoding compares, and changes nothing.
template <typename Form = Number>
struct Equal {
  Form form;

  constexpr Equal() requires std::default_initializable<Form> : form() {}
  explicit constexpr Equal(Form compared) : form(compared) {}

  template <typename T>
  constexpr size_t MinBytes() const {
    return form.template MinBytes<T>();
  }

  template <typename T>
  void Decode(Reader& in, T& value) const {
    T wire = value;
    form.Decode(in, wire);
    if (in.ok() && wire != value) in.Fail(wire, " is not ", value, ", as here");
  }

  template <typename T>
  void Encode(Writer& out, const T& value) const {
    form.Encode(out, value);
  }
};

// Every element in turn; as many as the owner has, which are filled in where they are.
template <typename Element = Number>
struct Array {
  Element element;

  constexpr Array() requires std::default_initializable<Element> : element() {}
  explicit constexpr Array(Element each) : element(each) {}

  template <typename T>
  static constexpr size_t MinBytes() {
    return 0;
  }

  template <typename T>
  void Decode(Reader& in, T& values) const {
    size_t index = 0;
    for (auto& value : values) {
      const Wire::Step step = in.Enter(index++);
      element.Decode(in, value);
      if (!in.ok()) return;
    }
  }

  template <typename T>
  void DecodeSized(Reader& in, T& values, uint64_t count) const {
    values.clear();
    in.Expect(count, element.template MinBytes<typename T::value_type>());
    while (in.ok() && values.size() < count) {
      const Wire::Step step = in.Enter(values.size());
      values.emplace_back();
      element.Decode(in, values.back());
    }
  }

  template <typename T>
  void Encode(Writer& out, const T& values) const {
    size_t index = 0;
    for (const auto& value : values) {
      const Wire::Step step = out.Enter(index++);
      element.Encode(out, value);
    }
  }
};

// Who allocates: what a pointer points to is made by `make()` when it is decoded. Its size on the
// wire is the element's: it is always there.
template <typename Element, typename Make>
struct Allocated {
  Element element;
  Make make;  // gives a std::unique_ptr, or whatever the object has; empty to refuse

  constexpr Allocated(Element pointee, Make allocate) : element(pointee), make(allocate) {}

  template <typename T>
  constexpr size_t MinBytes() const {
    return element.template MinBytes<std::remove_cvref_t<decltype(*std::declval<T&>())>>();
  }

  template <typename T>
  void Decode(Reader& in, T& pointer) const {
    pointer = make();
    if (!pointer) return in.Fail("no object can be made for it");
    element.Decode(in, *pointer);
  }

  template <typename T>
  void Encode(Writer& out, const T& pointer) const {
    if (!pointer) return out.Fail("no object, but the wire has no sign for that");
    element.Encode(out, *pointer);
  }
};

// A pointer whose object is there before, or is not: then '0' stands in its place. Nothing is
// allocated. The pointer owns it, or else a failure would leave it half decoded.
template <typename Element>
struct InPlace {
  static constexpr uint8_t kNull = '0';
  Element element;

  explicit constexpr InPlace(Element pointee) : element(pointee) {}

  template <typename T>
  static constexpr size_t MinBytes() {
    return 0;
  }

  template <typename T>
  void Decode(Reader& in, T& pointer) const {
    static_assert(!std::is_pointer_v<T>);
    if (pointer) return element.Decode(in, *pointer);
    const uint64_t marker = in.ReadBigEndian(1);
    if (marker != kNull) in.Fail(marker, " is not the sign of a missing object, ", kNull);
  }

  template <typename T>
  void Encode(Writer& out, const T& pointer) const {
    if (pointer) return element.Encode(out, *pointer);
    out.WriteBigEndian(kNull, 1);
  }
};

// The form of a type that leaves no choice: numbers, arrays of them, arrays of bytes.
template <typename T>
constexpr auto DefaultForm() {
  if constexpr (Numeric<T>) {
    return Number();
  } else {
    using Element = std::remove_cvref_t<decltype(*std::begin(std::declval<T&>()))>;
    if constexpr (std::same_as<Element, uint8_t>) {
      return Buffer();
    } else {
      return Array<decltype(DefaultForm<Element>())>();
    }
  }
}

}  // namespace ramjet::vmstate

#endif  // RAMJET_MAPPEDRAM_VMSTATE_FORMS_H_
