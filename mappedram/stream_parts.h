// What stands in a migration stream around the pages: to be made anew, or carried along from
// another snapshot. The twin of stream_parser, for SnapshotWriter.
#ifndef RAMJET_MAPPEDRAM_STREAM_PARTS_H_
#define RAMJET_MAPPEDRAM_STREAM_PARTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mappedram/format.h"
#include "mappedram/snapshot.h"

namespace ramjet {

// Appends the numbers and names of a migration stream to a string.
class StreamEncoder {
 public:
  void PutU8(uint8_t value) { PutBigEndian(value, 1); }
  void PutBe32(uint32_t value) { PutBigEndian(value, 4); }
  void PutBe64(uint64_t value) { PutBigEndian(value, 8); }
  void PutBytes(absl::string_view bytes) { bytes_.append(bytes.data(), bytes.size()); }
  // REQUIRES: at most kMaxNameBytes.
  void PutName8(absl::string_view name) {
    PutU8(static_cast<uint8_t>(name.size()));
    PutBytes(name);
  }
  // Of a START or FULL record.
  void PutSectionHeader(RecordType type, uint32_t id, absl::string_view name, uint32_t instance_id,
                        uint32_t version_id);
  void PutFooter(uint32_t id);

  uint64_t size() const { return bytes_.size(); }
  // What was appended; the encoder is empty then.
  std::string Take() { return std::exchange(bytes_, {}); }

 private:
  void PutBigEndian(uint64_t value, int bytes);

  std::string bytes_;
};

// A section of device state, its payload as it is.
struct SectionContent {
  std::string name = {};
  uint32_t instance_id = 0;
  uint32_t version_id = 0;
  std::string payload = {};
};

// A stream to be made.
struct StreamContent {
  std::string machine = "none";
  std::vector<std::string> capabilities = {"mapped-ram"};
  std::optional<uint32_t> page_bits = {};          // not told: any
  std::string uuid = {};                           // kUuidBytes bytes, or none
  std::vector<SectionContent> early_devices = {};  // in front of the RAM, as virtio-mem is
  std::vector<SectionContent> live = {};           // beside the RAM, as dirty-bitmap is
  std::vector<SectionContent> devices = {};
  bool vmdesc = true;  // a description of the devices at the end, each one buffer
};

// The stream, but for the payload of section "ram"'s START record.
struct StreamParts {
  std::string head;             // from "QEVM" up to the record
  uint32_t ram_section_id = 0;  // of the record
  // Capability "x-ignore-shared": a block's record has its guest-physical address.
  bool block_addresses = false;
  std::string tail;  // all behind the record: the section's PART and END, devices, EOF, vmdesc
  // Of what is behind `tail`: bytes [carried_offset, + carried_length) of that snapshot's file.
  std::shared_ptr<const Snapshot> carried = nullptr;
  uint64_t carried_offset = 0;
  uint64_t carried_length = 0;
};

// InvalidArgument: a name or the uuid cannot be written so that it could be read again.
absl::StatusOr<StreamParts> EncodeStream(const StreamContent& content);

// The stream of `from`, byte for byte: configuration, device state of every kind, vmdesc. With the
// same blocks, in whatever order, what loads `from` loads the new file, too.
absl::StatusOr<StreamParts> CarryStream(std::shared_ptr<const Snapshot> from);

}  // namespace ramjet

#endif  // RAMJET_MAPPEDRAM_STREAM_PARTS_H_
