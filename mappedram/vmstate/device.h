// A codec for device state in QEMU's wire format, from one description of a struct for both
// directions:
//
//   struct Queue { uint64_t base = 0; uint32_t ring_bytes = 0; std::vector<uint8_t> ring; };
//   struct Disk {
//     bool busy = false;
//     std::list<Queue> queues;
//     absl::flat_hash_map<uint64_t, Lease> leases;
//     uint16_t speed = 0;
//   };
//
//   constexpr auto kQueue = Struct<Queue>(
//       "queue", {.current = 1},
//       Field("base", &Queue::base),
//       Field("ring_bytes", &Queue::ring_bytes),
//       Sized("ring", &Queue::ring, &Queue::ring_bytes, Buffer()));
//   constexpr auto kDisk = Struct<Disk>(
//       "disk", {.current = 3, .oldest = 2},
//       Field("busy", &Disk::busy),
//       Field("queues", &Disk::queues, Marked(kQueue, 64)),
//       Since(3, Field("leases", &Disk::leases, CountedMarked(Pair(Number(), kLease)))),
//       Subsection(Struct<Disk>("disk/speed", {.current = 1}, Field("speed", &Disk::speed)),
//                  [](const Disk& disk) { return disk.speed != 0; }));
//
//   absl::StatusOr<Disk> disk = Decode(kDisk, {.bytes = bytes, .version = version});
//   absl::StatusOr<std::string> bytes = Encode(kDisk, *disk);
//
// Four things are apart here that QEMU's macros tie together: how a loop shows on the wire and in
// which container its elements are (loops.h), the form of an element, and who allocates (forms.h).
// Members are coded in the order of the description; a struct is itself a form, so structs nest.
//
// Bytes are not trusted. No count and no marker makes Decode allocate for elements of which the
// bytes are not there, all bytes must be used up, and after a failure nothing is left: the result
// is a value of its own, made of `initial`, which has what the wire does not tell (sizes of
// buffers, objects in place). Descriptions are constants; any number of threads may use them.
//
// Errors: DataLoss, or InvalidArgument for an object that its own description rules out; with the
// device, the field's path, the offset, and the numbers.
#ifndef RAMJET_MAPPEDRAM_VMSTATE_DEVICE_H_
#define RAMJET_MAPPEDRAM_VMSTATE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "mappedram/vmstate/forms.h"
#include "mappedram/vmstate/loops.h"
#include "mappedram/vmstate/wire.h"

namespace ramjet::vmstate {

// Of a description. The current one is written; any from the oldest on is read.
struct Versions {
  uint32_t current = 1;
  uint32_t oldest = 0;
};

// False, having failed, if a wire of that version cannot be read.
bool CheckVersion(Reader& in, uint32_t version, Versions versions);

// --- members of a struct ---
// Beside what forms have, they are told the whole struct and its version on the wire.

// A field in `form`.
template <typename T, typename M, typename Form>
struct FieldMember {
  absl::string_view name;
  M T::*field;
  Form form;

  void Decode(Reader& in, T& object, uint32_t) const {
    const Wire::Step step = in.Enter(name);
    form.Decode(in, object.*field);
  }
  void Encode(Writer& out, const T& object) const {
    const Wire::Step step = out.Enter(name);
    form.Encode(out, object.*field);
  }
  constexpr size_t MinBytes() const { return form.template MinBytes<M>(); }
};
template <typename T, typename M, typename Form>
constexpr auto Field(absl::string_view name, M T::*field, Form form) {
  return FieldMember<T, M, Form>{name, field, form};
}
template <typename T, typename M>
constexpr auto Field(absl::string_view name, M T::*field) {
  return Field(name, field, DefaultForm<M>());
}

// A field with as many elements (bytes, bits) as another one in front of it says; the form is a
// Buffer, a Bitmap or an Array.
template <typename T, typename M, typename Count, typename Form>
struct SizedMember {
  absl::string_view name;
  M T::*field;
  Count T::*count;
  Form form;

  void Decode(Reader& in, T& object, uint32_t) const {
    const Wire::Step step = in.Enter(name);
    form.DecodeSized(in, object.*field, uint64_t{object.*count});
  }
  void Encode(Writer& out, const T& object) const {
    const Wire::Step step = out.Enter(name);
    const size_t size = (object.*field).size();
    if (size != object.*count) out.Fail("has ", size, " elements, not ", object.*count);
    form.Encode(out, object.*field);
  }
  static constexpr size_t MinBytes() { return 0; }
};
template <typename T, typename M, std::unsigned_integral Count, typename Form>
constexpr auto Sized(absl::string_view name, M T::*field, Count T::*count, Form form) {
  return SizedMember<T, M, Count, Form>{name, field, count, form};
}

// Bytes that mean nothing any more: skipped, written as zeros.
struct Unused {
  size_t bytes;

  template <typename T>
  void Decode(Reader& in, T&, uint32_t) const {
    in.ReadBytes(bytes);
  }
  template <typename T>
  void Encode(Writer& out, const T&) const {
    for (size_t i = 0; i < bytes; ++i) out.WriteBigEndian(0, 1);
  }
  constexpr size_t MinBytes() const { return bytes; }
};

// A member that the wire has from a version on.
template <typename Member>
struct Since {
  uint32_t version;
  Member member;

  constexpr Since(uint32_t since, Member then) : version(since), member(then) {}

  template <typename T>
  void Decode(Reader& in, T& object, uint32_t on_wire) const {
    if (on_wire >= version) member.Decode(in, object, on_wire);
  }
  template <typename T>
  void Encode(Writer& out, const T& object) const {
    member.Encode(out, object);
  }
  static constexpr size_t MinBytes() { return 0; }
};

// A member that is there if `needed(object)`, asked when all members in front of it are known.
template <typename Needed, typename Member>
struct When {
  Needed needed;
  Member member;

  constexpr When(Needed if_needed, Member then) : needed(if_needed), member(then) {}

  template <typename T>
  void Decode(Reader& in, T& object, uint32_t version) const {
    if (needed(std::as_const(object))) member.Decode(in, object, version);
  }
  template <typename T>
  void Encode(Writer& out, const T& object) const {
    if (needed(object)) member.Encode(out, object);
  }
  static constexpr size_t MinBytes() { return 0; }
};

// No bytes, but something that must hold of the object, with the members in front of it known.
template <typename Holds>
struct Check {
  absl::string_view what;  // "queue_sel < queue_count"
  Holds holds;

  constexpr Check(absl::string_view words, Holds test) : what(words), holds(test) {}

  template <typename T>
  void Decode(Reader& in, T& object, uint32_t) const {
    if (!holds(std::as_const(object))) in.Fail(what, " does not hold");
  }
  template <typename T>
  void Encode(Writer& out, const T& object) const {
    if (!holds(object)) out.Fail(what, " does not hold");
  }
  static constexpr size_t MinBytes() { return 0; }
};

// Behind all other members and with a version of its own, written if `needed(object)`. A stream
// that has none leaves its fields as they are; one that is not described is an error.
template <typename Body, typename Needed>
struct Subsection {
  Body body;
  Needed needed;

  constexpr Subsection(Body struct_form, Needed if_needed) : body(struct_form), needed(if_needed) {}
  static constexpr size_t MinBytes() { return 0; }
};

template <typename Member>
constexpr bool kIsSubsection = false;
template <typename Body, typename Needed>
constexpr bool kIsSubsection<Subsection<Body, Needed>> = true;

// --- the struct ---

template <typename T, typename... Members>
class StructForm {
 public:
  using Object = T;

  constexpr StructForm(absl::string_view name, Versions versions, Members... members)
      : name_(name), versions_(versions), members_(members...) {}

  absl::string_view name() const { return name_; }
  uint32_t version() const { return versions_.current; }

  // As a form. A struct within another has no version on the wire: it is the current one.
  void Decode(Reader& in, T& object) const { Decode(in, object, versions_.current); }

  void Decode(Reader& in, T& object, uint32_t version) const {
    if (!CheckVersion(in, version, versions_)) return;
    ForEach([&](const auto& member) {
      if (in.ok()) member.Decode(in, object, version);
    });
    DecodeSubsections(in, object);
  }

  void Encode(Writer& out, const T& object) const {
    ForEach([&](const auto& member) { member.Encode(out, object); });
    ForEachSubsection([&](const auto& subsection) {
      if (!subsection.needed(object)) return;
      const Wire::Step step = out.Enter(subsection.body.name());
      out.WriteSubsection(subsection.body.name(), subsection.body.version());
      subsection.body.Encode(out, object);
    });
  }

  template <typename>
  constexpr size_t MinBytes() const {
    size_t sum = 0;
    ForEach([&sum](const auto& member) { sum += member.MinBytes(); });
    return sum;
  }

 private:
  static constexpr size_t kSubsections = (size_t{kIsSubsection<Members>} + ... + 0);

  template <typename Visit>
  constexpr void ForEach(Visit visit) const {
    std::apply([&](const auto&... member) { (VisitMember(visit, member), ...); }, members_);
  }
  template <typename Visit, typename Member>
  static constexpr void VisitMember(Visit& visit, const Member& member) {
    if constexpr (!kIsSubsection<Member>) visit(member);
  }

  template <typename Visit>
  constexpr void ForEachSubsection(Visit visit) const {
    std::apply([&](const auto&... member) { (VisitSubsection(visit, member), ...); }, members_);
  }
  template <typename Visit, typename Member>
  static constexpr void VisitSubsection(Visit& visit, const Member& member) {
    if constexpr (kIsSubsection<Member>) visit(member);
  }

  // Any of them, in any order, each once. One that is not ours may be the outer struct's; in the
  // end somebody finds that bytes are left.
  void DecodeSubsections(Reader& in, T& object) const {
    if constexpr (kSubsections > 0) {
      bool seen[kSubsections] = {};
      bool found;
      do {
        found = false;
        size_t index = 0;
        ForEachSubsection([&](const auto& subsection) {
          bool& before = seen[index++];
          if (found || before || in.PeekSubsection() != subsection.body.name()) return;
          found = before = true;
          const Wire::Step step = in.Enter(subsection.body.name());
          const uint32_t version = in.EnterSubsection();
          if (in.ok()) subsection.body.Decode(in, object, version);
        });
      } while (found && in.ok());
    }
  }

  absl::string_view name_;
  Versions versions_;
  std::tuple<Members...> members_;
};

template <typename T, typename... Members>
constexpr auto Struct(absl::string_view name, Versions versions, Members... members) {
  return StructForm<T, Members...>(name, versions, members...);
}

// --- a whole device ---

// What a device's section in a stream holds, and says of it.
struct Payload {
  absl::Span<const uint8_t> bytes;
  uint64_t offset = 0;  // of the bytes in the file, for messages
  uint32_t version = 0;
};

// OK if nothing failed and nothing is left.
absl::Status Finish(Reader& in);

template <typename Form, typename T = typename Form::Object>
absl::StatusOr<T> Decode(const Form& device, const Payload& payload, T initial = T()) {
  Reader in(payload.bytes, payload.offset, std::string(device.name()));
  device.Decode(in, initial, payload.version);
  if (absl::Status finished = Finish(in); !finished.ok()) return finished;
  return initial;
}

// The payload of its section, to be said to be of device.version().
template <typename Form>
absl::StatusOr<std::string> Encode(const Form& device, const typename Form::Object& object) {
  Writer out{std::string(device.name())};
  device.Encode(out, object);
  if (!out.ok()) return out.status();
  return out.TakeBytes();
}

}  // namespace ramjet::vmstate

#endif  // RAMJET_MAPPEDRAM_VMSTATE_DEVICE_H_
