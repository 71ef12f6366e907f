// The two ends of the codec for device state: what reads its bytes and what writes them.
#ifndef RAMJET_MAPPEDRAM_VMSTATE_WIRE_H_
#define RAMJET_MAPPEDRAM_VMSTATE_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace ramjet::vmstate {

// What both ends have: an error that stays, and the place it is said to be at.
//
// The first failure is kept. After it a Reader gives zeros and moves nothing, and a Writer writes
// nothing, so forms need not ask after every step. One thread.
class Wire {
 public:
  // Names a field, or an element, as long as it lives: "state.drives[1].track".
  class [[nodiscard]] Step {
   public:
    ~Step() { trail_.pop_back(); }
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    friend class Wire;
    using Place = std::variant<absl::string_view, size_t>;
    Step(std::vector<Place>& trail, Place place) : trail_(trail) { trail_.push_back(place); }
    std::vector<Place>& trail_;
  };
  // `field` outlives the step.
  Step Enter(absl::string_view field) { return Step(trail_, field); }
  Step Enter(size_t index) { return Step(trail_, index); }

  bool ok() const { return status_.ok(); }
  // `device "fdc": state.drives[1].track at offset 1042: 2 bytes wanted, 1 left`; a Writer's has no
  // offset.
  const absl::Status& status() const { return status_; }

 protected:
  explicit Wire(std::string device) : device_(std::move(device)) {}
  void FailWith(absl::StatusCode code, absl::string_view at, absl::string_view what);

 private:
  std::string device_;
  std::vector<Step::Place> trail_;
  absl::Status status_;
};

// Takes big-endian values from a device's bytes.
class Reader : public Wire {
 public:
  // `bytes` outlive the reader. `offset` is theirs in the file, for messages.
  Reader(absl::Span<const uint8_t> bytes, uint64_t offset, std::string device)
      : Wire(std::move(device)), rest_(bytes), offset_(offset), read_at_(offset) {}

  size_t remaining() const { return rest_.size(); }

  // REQUIRES: length <= 8
  uint64_t ReadBigEndian(size_t length);
  // Empty after a failure, so to be copied only if it has `length` bytes.
  absl::Span<const uint8_t> ReadBytes(size_t length);

  // The name of the subsection that begins right here, if one does.
  std::optional<absl::string_view> PeekSubsection() const;
  // Takes its name, and returns its version.
  uint32_t EnterSubsection();

  // False, having failed, unless `count` things of `each` bytes or more can still come (of 0: as
  // many as there are bytes). To be asked before memory is allocated for them.
  bool Expect(uint64_t count, size_t each);

  // DataLoss, at the value read last.
  template <typename... Parts>
  void Fail(const Parts&... what) {
    if (ok()) {
      FailWith(absl::StatusCode::kDataLoss, absl::StrCat(" at offset ", read_at_),
               absl::StrCat(what...));
    }
  }

 private:
  absl::Span<const uint8_t> rest_;
  uint64_t offset_;   // of rest_
  uint64_t read_at_;  // where the value read last began
};

// Appends big-endian values.
class Writer : public Wire {
 public:
  explicit Writer(std::string device) : Wire(std::move(device)) {}

  const std::string& bytes() const { return bytes_; }
  std::string TakeBytes() { return std::move(bytes_); }

  void WriteBigEndian(uint64_t value, size_t length);
  void WriteBytes(absl::Span<const uint8_t> bytes);
  // REQUIRES: name.size() < 256
  void WriteSubsection(absl::string_view name, uint32_t version);

  // InvalidArgument: the object is not one that the wire can carry.
  template <typename... Parts>
  void Fail(const Parts&... what) {
    if (ok()) FailWith(absl::StatusCode::kInvalidArgument, "", absl::StrCat(what...));
  }

 private:
  std::string bytes_;
};

}  // namespace ramjet::vmstate

#endif  // RAMJET_MAPPEDRAM_VMSTATE_WIRE_H_
