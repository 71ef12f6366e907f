#include "mappedram/stream_parser.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "mappedram/configuration.h"
#include "mappedram/format.h"
#include "mappedram/json_reader.h"
#include "mappedram/ram_section.h"
#include "mappedram/stream.h"
#include "mappedram/vmdesc.h"

// The grammar in format.h, as a parser by recursive descent. What it cannot know is how long a
// payload is; there are three ways to find its end:
//  - the section "ram": we know its content;
//  - a device, if the file ends with a vmdesc: its fields add up to the length, and the footer must
//    stand right there;
//  - any other live section, or a device without vmdesc (suppress-vmdesc=on, or the file is cut
//    off): the first footer with the section's number behind which the file ends or something
//    follows that can be a record. A payload contains such bytes by chance about once in 2^48
//    bytes; nothing worse comes of it than a refusal or a wrong size in a listing.

namespace ramjet {
namespace {

bool IsKnownCommand(uint16_t command) {
  constexpr uint16_t kKnown[] = {
      1,   // OPEN_RETURN_PATH
      2,   // PING
      3,   // POSTCOPY_ADVISE
      8,   // ENABLE_COLO
      11,  // SWITCHOVER_START, which machine types from 10.0 on write
  };
  return std::find(std::begin(kKnown), std::end(kKnown), command) != std::end(kKnown);
}

class Parser {
 public:
  Parser(const File& file, uint64_t stream_offset) : file_(file), reader_(file, stream_offset) {
    description_.stream_offset = stream_offset;
  }

  absl::StatusOr<ParsedStream> Parse();

 private:
  // What START and FULL records begin with.
  struct Section {
    uint64_t offset = 0;  // of the record's type
    uint32_t id = 0;
    std::string name;
    uint32_t instance_id = 0;
    uint32_t version_id = 0;
  };
  struct LiveSection {
    uint32_t id = 0;
    std::string name;
    bool ended = false;
  };

  // Each of these reads what its name says; what is wrong is in reader_.status().
  void ReadHeader();
  void ReadRecords();
  Section ReadSection();
  void ReadStart();
  void ReadRamStart(const Section& section);
  void ReadPartOrEnd(bool is_end);
  void ReadFull();
  // Payload and footer of device number `index`.
  void SkipDescribedDevice(const Section& section, size_t index);
  void ReadCommand();
  void ReadEndOfStream(uint64_t eof_offset);
  void ReadRamEndOfSection();
  void ReadFooter(uint32_t id);

  // Moves behind the footer which ends a payload of unknown length.
  void FindFooter(uint32_t id);
  bool IsRecordPlausible();
  void ReadVmdesc();
  // The live section of that number, or null.
  LiveSection* FindLive(uint32_t id);
  absl::Status ReadBitmaps();

  const File& file_;
  StreamReader reader_;
  // What is being read, for the message if the file ends in it.
  std::string where_ = "the stream's header";

  SnapshotDescription description_;
  Configuration configuration_;
  std::optional<std::vector<VmdescDevice>> vmdesc_;
  std::vector<LiveSection> live_;
  bool blocks_known_ = false;
  std::vector<PageBitmap> nonzero_;
};

absl::StatusOr<ParsedStream> Parser::Parse() {
  ReadHeader();
  where_ = "its configuration";
  configuration_ = ReadConfiguration(reader_);
  if (reader_.ok()) ReadVmdesc();
  ReadRecords();
  if (reader_.ended()) {
    description_.complete =
        absl::DataLossError(absl::StrCat(reader_.status().message(), ", in ", where_));
    if (!blocks_known_) return description_.complete;
  } else if (!reader_.ok()) {
    return reader_.status();
  }
  if (absl::Status read = ReadBitmaps(); !read.ok()) return read;
  description_.machine = configuration_.machine;
  description_.capabilities = configuration_.capabilities;
  return ParsedStream{std::move(description_), std::move(nonzero_)};
}

void Parser::ReadHeader() {
  if (reader_.remaining() < sizeof(kStreamMagic) || reader_.ReadBe32() != kStreamMagic) {
    reader_.FailWith(InvalidArgumentError(file_, "no QEMU migration stream (\"QEVM\") at offset ",
                                          description_.stream_offset));
  }
  const uint32_t version = reader_.ReadBe32();
  if (reader_.ok() && version != kStreamVersion) {
    reader_.FailWith(InvalidArgumentError(file_, "migration stream of version ", version, ", not ",
                                          kStreamVersion));
  }
}

void Parser::ReadVmdesc() {
  const uint64_t records_offset = reader_.position();
  if (const std::optional<VmdescPlace> place = FindVmdesc(reader_)) {
    absl::StatusOr<std::vector<VmdescDevice>> devices =
        ParseVmdesc(JsonReader([&] { return reader_.ReadPiece(place->end); }));
    if (devices.ok()) {
      vmdesc_ = *std::move(devices);
    } else {
      reader_.Fail(devices.status().message());  // unless reading failed, which is why
    }
  }
  reader_.Seek(records_offset);
}

void Parser::ReadRecords() {
  while (reader_.ok()) {
    where_ = absl::StrCat("the record at offset ", reader_.position());
    const uint64_t offset = reader_.position();
    const uint8_t type = reader_.ReadU8();
    if (!reader_.ok()) return;
    switch (type) {
      case kSectionStart:
        ReadStart();
        break;
      case kSectionPart:
      case kSectionEnd:
        ReadPartOrEnd(type == kSectionEnd);
        break;
      case kSectionFull:
        ReadFull();
        break;
      case kCommand:
        ReadCommand();
        break;
      case kEof:
        return ReadEndOfStream(offset);
      default:
        reader_.Fail("record of unknown type ", type, " at offset ", offset);
    }
  }
}

Parser::Section Parser::ReadSection() {
  Section section;
  section.offset = reader_.position() - 1;
  section.id = reader_.ReadBe32();
  section.name = reader_.ReadName8();
  section.instance_id = reader_.ReadBe32();
  section.version_id = reader_.ReadBe32();
  where_ = absl::StrCat("section \"", section.name, "\"");
  return section;
}

void Parser::ReadStart() {
  const Section section = ReadSection();
  if (FindLive(section.id) != nullptr) {
    reader_.Fail("section \"", section.name, "\": another has its number ", section.id);
  }
  if (live_.size() == kMaxLiveSections) {
    reader_.Fail("section \"", section.name, "\": more than ", kMaxLiveSections, " live sections");
  }
  if (!reader_.ok()) return;
  live_.push_back({section.id, section.name});
  if (section.name == kRamSection) return ReadRamStart(section);
  FindFooter(section.id);
}

void Parser::ReadRamStart(const Section& section) {
  if (blocks_known_) reader_.Fail("a second section \"ram\"");
  if (section.instance_id != 0) {
    reader_.Fail("section \"ram\": instance ", section.instance_id, " is not 0");
  }
  if (section.version_id != kRamSectionVersion) {
    reader_.Fail("section \"ram\": version ", section.version_id, " is not ", kRamSectionVersion);
  }
  std::vector<SnapshotBlock> blocks = ReadBlocks(reader_, configuration_);
  if (!reader_.ok()) return;
  blocks_known_ = true;
  description_.blocks = std::move(blocks);
  description_.ram_start_offset = section.offset;
  description_.ram_section_id = section.id;
  const SnapshotBlock& last = description_.blocks.back();
  if (last.in_file()) reader_.Seek(last.pages_end());
  ReadRamEndOfSection();
  ReadFooter(section.id);
  if (reader_.ok()) description_.ram_end_offset = reader_.position();
}

void Parser::ReadPartOrEnd(bool is_end) {
  const uint32_t id = reader_.ReadBe32();
  if (!reader_.ok()) return;
  LiveSection* const section = FindLive(id);
  if (section == nullptr || section->ended) {
    reader_.Fail("section ", id, " goes on at offset ", reader_.position(),
                 section == nullptr ? " without a start" : " after its end");
    return;
  }
  where_ = absl::StrCat("section \"", section->name, "\"");
  section->ended = is_end;
  if (section->name != kRamSection) return FindFooter(id);
  ReadRamEndOfSection();
  ReadFooter(id);
}

void Parser::ReadFull() {
  const Section section = ReadSection();
  const size_t index = description_.devices.size();
  if (index == kMaxDevices) reader_.Fail("more than ", kMaxDevices, " devices");
  const uint64_t offset = reader_.position();
  if (vmdesc_.has_value()) {
    SkipDescribedDevice(section, index);
  } else {
    FindFooter(section.id);
  }
  if (!reader_.ok()) return;
  description_.devices.push_back({section.name, section.instance_id, section.version_id, offset,
                                  reader_.position() - kFooterBytes - offset});
}

void Parser::SkipDescribedDevice(const Section& section, size_t index) {
  const VmdescDevice device = index < vmdesc_->size() ? (*vmdesc_)[index] : VmdescDevice();
  if (device.name != section.name || device.instance_id != section.instance_id) {
    reader_.Fail("device ", index, " is \"", section.name, "\" ", section.instance_id,
                 " in the stream but \"", device.name, "\" ", device.instance_id, " in the vmdesc");
  }
  if (device.payload_bytes > reader_.remaining()) {
    reader_.Fail("device \"", device.name, "\": its ", device.payload_bytes,
                 " bytes, says the vmdesc, are more than the file has");
  }
  reader_.Skip(device.payload_bytes);
  ReadFooter(section.id);
}

void Parser::ReadCommand() {
  const uint64_t offset = reader_.position();
  const uint16_t command = reader_.ReadBe16();
  if (!IsKnownCommand(command)) {
    reader_.Fail("command ", command, " at offset ", offset, " is unknown");
  }
  reader_.Skip(reader_.ReadBe16());
}

void Parser::ReadEndOfStream(uint64_t eof_offset) {
  if (!blocks_known_) reader_.Fail("migration stream without a section \"ram\"");
  for (const LiveSection& section : live_) {
    if (!section.ended) reader_.Fail("section \"", section.name, "\" has no end");
  }
  const size_t devices = description_.devices.size();
  if (vmdesc_.has_value() && vmdesc_->size() != devices) {
    reader_.Fail("the stream has ", devices, " devices but its vmdesc ", vmdesc_->size());
  }
  where_ = "its vmdesc";
  if (reader_.PeekU8() == kVmdescription) {
    reader_.ReadU8();
    reader_.Skip(reader_.ReadBe32());
  }
  if (reader_.remaining() != 0) {
    reader_.Fail(reader_.remaining(), " bytes follow the stream's end at offset ",
                 reader_.position());
  }
  if (reader_.ok()) description_.eof_offset = eof_offset;
}

void Parser::ReadRamEndOfSection() {
  const uint64_t offset = reader_.position();
  const uint64_t flags = reader_.ReadBe64();
  if (flags != kRamFlagEndOfSection) {
    reader_.Fail("section \"ram\": ", flags, " at offset ", offset, " is not its end, ",
                 kRamFlagEndOfSection);
  }
}

void Parser::ReadFooter(uint32_t id) {
  const uint64_t offset = reader_.position();
  const uint8_t type = reader_.ReadU8();
  const uint32_t number = reader_.ReadBe32();
  if (type != kFooter || number != id) {
    reader_.Fail(where_, " of number ", id, ": no footer at offset ", offset);
  }
}

void Parser::FindFooter(uint32_t id) {
  const uint64_t start = reader_.position();
  const uint64_t limit = start + std::min(reader_.remaining(), kMaxSearchBytes);
  std::string footer = {static_cast<char>(kFooter)};
  for (int shift = 24; shift >= 0; shift -= 8) footer.push_back(static_cast<char>(id >> shift));
  while (reader_.FindForward(footer, limit)) {
    const uint64_t found = reader_.position();
    reader_.Skip(footer.size());
    const bool plausible = IsRecordPlausible();
    reader_.Seek(plausible ? found + footer.size() : found + 1);
    if (plausible) return;
  }
  if (start + kMaxSearchBytes > file_.size()) {
    reader_.FailEnded("ends at offset ", file_.size(), " without a footer of number ", id);
  } else {
    reader_.Fail(where_, ": no footer within ", kMaxSearchBytes, " bytes from offset ", start);
  }
}

// Reads no more than there is, so that a record cut off is as plausible as the rest of it.
bool Parser::IsRecordPlausible() {
  if (reader_.remaining() == 0) return true;
  switch (reader_.ReadU8()) {
    case kSectionStart:
    case kSectionFull: {
      if (reader_.remaining() < sizeof(uint32_t) + 1) return true;
      reader_.Skip(sizeof(uint32_t));
      const size_t length = reader_.ReadU8();
      const std::string name = reader_.ReadString(std::min(length, reader_.remaining()));
      return length > 0 && IsPrintable(name);
    }
    case kSectionPart:
    case kSectionEnd:
      return reader_.remaining() < sizeof(uint32_t) || FindLive(reader_.ReadBe32()) != nullptr;
    case kCommand:
      return reader_.remaining() < sizeof(uint16_t) || IsKnownCommand(reader_.ReadBe16());
    case kEof:
      return reader_.remaining() == 0 || reader_.ReadU8() == kVmdescription;
    default:
      return false;
  }
}

Parser::LiveSection* Parser::FindLive(uint32_t id) {
  const auto found = std::find_if(live_.begin(), live_.end(),
                                  [id](const LiveSection& section) { return section.id == id; });
  return found == live_.end() ? nullptr : &*found;
}

absl::Status Parser::ReadBitmaps() {
  for (SnapshotBlock& block : description_.blocks) {
    absl::StatusOr<PageBitmap> nonzero = ReadBitmap(file_, block);
    if (!nonzero.ok()) return nonzero.status();
    nonzero_.push_back(*std::move(nonzero));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ParsedStream> ParseStream(const File& file, uint64_t stream_offset) {
  return Parser(file, stream_offset).Parse();
}

}  // namespace ramjet
