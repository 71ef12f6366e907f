// A device with every form there is, for the fuzzer and its seeds.
#ifndef RAMJET_TESTS_VMSTATE_EVERYTHING_H_
#define RAMJET_TESTS_VMSTATE_EVERYTHING_H_

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "mappedram/vmstate/device.h"

namespace ramjet {

struct Leaf {
  static inline int alive = 0;
  Leaf() { ++alive; }
  Leaf(const Leaf& other) : number(other.number), name(other.name) { ++alive; }
  Leaf& operator=(const Leaf&) = default;
  ~Leaf() { --alive; }

  uint16_t number = 0;
  std::string name;
};

struct Everything {
  bool flag = false;
  uint8_t bits_count = 0;
  uint16_t narrow = 0;
  int32_t same = 7;
  double real = 0;
  std::optional<int64_t> timer;
  std::array<uint8_t, 3> buffer = {};
  std::array<uint16_t, 2> array = {};
  std::bitset<70> bitmap;
  std::vector<bool> bits;
  std::list<Leaf> list;
  std::vector<uint32_t> numbers;
  std::deque<std::unique_ptr<Leaf>> pointers;
  std::map<uint64_t, Leaf> tree;
  std::set<uint16_t> set;
  std::vector<std::unique_ptr<Leaf>> in_place;
  std::vector<Leaf> leaves;
  uint32_t extra = 0;
};

// With what its owner knows.
inline Everything NewEverything() {
  Everything everything;
  everything.in_place.resize(2);
  everything.in_place[1] = std::make_unique<Leaf>();
  return everything;
}

inline constexpr auto kLeaf =
    vmstate::Struct<Leaf>("leaf", {}, vmstate::Field("number", &Leaf::number),
                          vmstate::Field("name", &Leaf::name, vmstate::CountedBuffer<uint8_t>()),
                          vmstate::Subsection(vmstate::Struct<Leaf>("leaf/none", {}),
                                              [](const Leaf& leaf) { return leaf.number == 5; }));

inline constexpr auto kEverything = vmstate::Struct<Everything>(
    "everything", {.current = 2, .oldest = 1}, vmstate::Field("flag", &Everything::flag),
    vmstate::Field("bits_count", &Everything::bits_count),
    vmstate::Since(2, vmstate::Field("narrow", &Everything::narrow, vmstate::As<uint64_t>())),
    vmstate::Field("same", &Everything::same, vmstate::Equal()),
    vmstate::Field("real", &Everything::real),
    vmstate::Field("timer", &Everything::timer, vmstate::Timer()), vmstate::Unused{2},
    vmstate::Field("buffer", &Everything::buffer), vmstate::Field("array", &Everything::array),
    vmstate::Field("bitmap", &Everything::bitmap, vmstate::Bitmap()),
    vmstate::Sized("bits", &Everything::bits, &Everything::bits_count, vmstate::Bitmap()),
    vmstate::Field("list", &Everything::list, vmstate::Marked(kLeaf)),
    vmstate::Field("numbers", &Everything::numbers, vmstate::Counted(vmstate::Number(), 1000)),
    vmstate::Field(
        "pointers", &Everything::pointers,
        vmstate::Marked(vmstate::Allocated(kLeaf, [] { return std::make_unique<Leaf>(); }))),
    vmstate::Field("tree", &Everything::tree,
                   vmstate::CountedMarked(vmstate::Pair(vmstate::Number(), kLeaf))),
    vmstate::Field("set", &Everything::set, vmstate::Counted<uint8_t>(vmstate::Number())),
    vmstate::Field("in_place", &Everything::in_place, vmstate::Array(vmstate::InPlace(kLeaf))),
    vmstate::When([](const Everything& all) { return all.flag; },
                  vmstate::Sized("leaves", &Everything::leaves, &Everything::bits_count,
                                 vmstate::Array(kLeaf))),
    vmstate::Check("narrow != 13", [](const Everything& all) { return all.narrow != 13; }),
    vmstate::Subsection(vmstate::Struct<Everything>("everything/extra", {},
                                                    vmstate::Field("extra", &Everything::extra)),
                        [](const Everything& all) { return all.extra != 0; }));

}  // namespace ramjet

#endif  // RAMJET_TESTS_VMSTATE_EVERYTHING_H_
