// Forms of many elements, put together from what is independent of each other: how the wire tells
// that another one follows, what container they are in, and the form of one.
//
//   on the wire                              form                    QEMU's name
//   1 element 1 element ... 0                Marked(element)         qtailq, qlist
//   count element element ...                Counted(element)        varray with its count
//   count 1 element 1 element ... 0          CountedMarked(element)  gtree, the proposed ghash
//
// Any of them goes with any container of values that grows: std::vector, std::list, std::set,
// std::map, absl::flat_hash_map, ...; a map's element is a Pair(key, value). So what once was a
// list stays one on the wire when it becomes a hash map in memory. A container of pointers has
// Allocated elements (forms.h).
//
// What was in a container is gone when it is decoded. A key that comes twice is an error.
#ifndef RAMJET_MAPPEDRAM_VMSTATE_LOOPS_H_
#define RAMJET_MAPPEDRAM_VMSTATE_LOOPS_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include "mappedram/vmstate/forms.h"
#include "mappedram/vmstate/wire.h"

namespace ramjet::vmstate {

// How the wire tells that another element follows.
struct LoopForm {
  size_t count_bytes;  // of the number of elements in front of them; 0 if there is none
  bool markers;        // a byte 1 in front of each, a byte 0 behind the last
};

// Tells one element after the other from the wire:
//
//   for (LoopReader loop(in, form, element_bytes, at_most); loop.Next();) ...
//
// No more of them than the bytes left have room for, whatever is claimed.
class LoopReader {
 public:
  LoopReader(Reader& in, LoopForm form, size_t element_bytes, uint64_t at_most);
  // False at the end, or after a failure.
  bool Next();
  // Of the element that Next() told of last.
  size_t index() const { return static_cast<size_t>(taken_ - 1); }

 private:
  Reader& in_;
  const LoopForm form_;
  const uint64_t at_most_;
  uint64_t count_ = 0;
  uint64_t taken_ = 0;
};

// Its twin. Next() comes before each element, End() behind the last.
class LoopWriter {
 public:
  LoopWriter(Writer& out, LoopForm form, uint64_t count, uint64_t at_most);
  void Next();
  void End();

 private:
  Writer& out_;
  const LoopForm form_;
};

template <typename C>
concept Keyed = requires {
  typename C::key_type;
};
template <typename C>
concept Mapped = Keyed<C> && requires {
  typename C::mapped_type;
};

// What is decoded before it is put into a C; a map's own pair has a constant key.
template <typename C>
struct ItemOf {
  using Type = typename C::value_type;
};
template <Mapped C>
struct ItemOf<C> {
  using Type = std::pair<typename C::key_type, typename C::mapped_type>;
};

template <typename Element>
struct Loop {
  LoopForm form;
  Element element;
  uint64_t at_most;

  template <typename C>
  constexpr size_t MinBytes() const {
    return form.count_bytes + (form.markers ? 1 : 0);
  }

  template <typename C>
  void Decode(Reader& in, C& container) const {
    using Item = typename ItemOf<C>::Type;
    container.clear();
    for (LoopReader loop(in, form, element.template MinBytes<Item>(), at_most); loop.Next();) {
      const Wire::Step step = in.Enter(loop.index());
      Item item{};
      element.Decode(in, item);
      if (!in.ok()) return;
      if constexpr (Keyed<C>) {
        if (!container.insert(std::move(item)).second) in.Fail("its key came before");
      } else {
        container.push_back(std::move(item));
      }
    }
  }

  template <typename C>
  void Encode(Writer& out, const C& container) const {
    LoopWriter loop(out, form, container.size(), at_most);
    size_t index = 0;
    for (const auto& item : container) {
      const Wire::Step step = out.Enter(index++);
      loop.Next();
      element.Encode(out, item);
    }
    loop.End();
  }
};

constexpr uint64_t kAnyNumber = std::numeric_limits<uint64_t>::max();

// `at_most`: more elements than that are an error, in both directions.
template <typename Element>
constexpr Loop<Element> Marked(Element element, uint64_t at_most = kAnyNumber) {
  return {{0, true}, element, at_most};
}
template <std::unsigned_integral Count = uint32_t, typename Element>
constexpr Loop<Element> Counted(Element element, uint64_t at_most = kAnyNumber) {
  return {{sizeof(Count), false}, element, at_most};
}
template <std::unsigned_integral Count = uint32_t, typename Element>
constexpr Loop<Element> CountedMarked(Element element, uint64_t at_most = kAnyNumber) {
  return {{sizeof(Count), true}, element, at_most};
}

// An element of a map.
template <typename Key, typename Value>
struct Pair {
  Key key;
  Value value;

  constexpr Pair(Key key_form, Value value_form) : key(key_form), value(value_form) {}

  template <typename T>
  constexpr size_t MinBytes() const {
    return key.template MinBytes<typename T::first_type>() +
           value.template MinBytes<typename T::second_type>();
  }

  template <typename T>
  void Decode(Reader& in, T& item) const {
    key.Decode(in, item.first);
    value.Decode(in, item.second);
  }

  template <typename T>
  void Encode(Writer& out, const T& item) const {
    key.Encode(out, item.first);
    value.Encode(out, item.second);
  }
};

}  // namespace ramjet::vmstate

#endif  // RAMJET_MAPPEDRAM_VMSTATE_LOOPS_H_
