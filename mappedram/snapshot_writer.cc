#include "mappedram/snapshot_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "mappedram/format.h"

namespace ramjet {
namespace {

// A file written here and there. Errors are sticky.
class Output {
 public:
  Output(const std::string& path, uint64_t position)
      : path_(path),
        fd_(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)),
        position_(position) {
    if (fd_ < 0) Fail("cannot be created");
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() {
    if (fd_ >= 0) close(fd_);
  }

  uint64_t position() const { return position_ + pending_.size(); }
  const absl::Status& status() const { return status_; }

  // At position().
  void PutU8(uint8_t value) { PutBigEndian(value, 1); }
  void PutBe16(uint16_t value) { PutBigEndian(value, 2); }
  void PutBe32(uint32_t value) { PutBigEndian(value, 4); }
  void PutBe64(uint64_t value) { PutBigEndian(value, 8); }
  void PutString(absl::string_view text) { pending_.append(text.data(), text.size()); }
  void PutName8(absl::string_view name) {
    PutU8(static_cast<uint8_t>(name.size()));
    PutString(name);
  }
  void Seek(uint64_t position) {
    Flush();
    position_ = position;
  }
  void Flush() {
    WriteAt(position_, pending_.data(), pending_.size());
    position_ += pending_.size();
    pending_.clear();
  }

  void WriteAt(uint64_t offset, const void* bytes, size_t length) {
    for (size_t done = 0; status_.ok() && done < length;) {
      const ssize_t put = pwrite(fd_, static_cast<const char*>(bytes) + done, length - done,
                                 static_cast<off_t>(offset + done));
      if (put > 0) {
        done += put;
      } else if (put == 0 || errno != EINTR) {
        Fail("cannot be written");
      }
    }
  }

 private:
  void PutBigEndian(uint64_t value, int bytes) {
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
      pending_.push_back(static_cast<char>(value >> shift));
    }
  }
  void Fail(absl::string_view what) {
    status_ = absl::ErrnoToStatus(errno, absl::StrCat(path_, ": ", what));
  }

  std::string path_;
  int fd_;
  uint64_t position_;  // where pending_ belongs
  std::string pending_;
  absl::Status status_;
};

void PutConfiguration(Output& out, const SnapshotContent& content) {
  const auto put_subsection = [&out](absl::string_view name) {
    out.PutU8(kSubsection);
    out.PutName8(name);
    out.PutBe32(kConfigurationVersion);
  };
  out.PutU8(kConfiguration);
  out.PutBe32(static_cast<uint32_t>(content.machine.size()));
  out.PutString(content.machine);
  if (content.page_bits.has_value()) {
    put_subsection(kTargetPageBitsSubsection);
    out.PutBe32(*content.page_bits);
  }
  put_subsection(kCapabilitiesSubsection);
  out.PutBe32(static_cast<uint32_t>(content.capabilities.size()));
  for (const std::string& capability : content.capabilities) out.PutName8(capability);
  if (!content.uuid.empty()) {
    put_subsection(kUuidSubsection);
    out.PutString(content.uuid);
  }
}

void PutFooter(Output& out, uint32_t id) {
  out.PutU8(kFooter);
  out.PutBe32(id);
}

void PutSectionHeader(Output& out, RecordType type, uint32_t id, const SectionContent& section) {
  out.PutU8(type);
  out.PutBe32(id);
  out.PutName8(section.name);
  out.PutBe32(section.instance_id);
  out.PutBe32(section.version_id);
}

// A section that is whole in one record, or the start of a live one.
void PutSection(Output& out, RecordType type, uint32_t id, const SectionContent& section) {
  PutSectionHeader(out, type, id, section);
  out.PutString(section.payload);
  PutFooter(out, id);
}

void PutPartOrEnd(Output& out, RecordType type, uint32_t id, absl::string_view payload) {
  out.PutU8(type);
  out.PutBe32(id);
  out.PutString(payload);
  PutFooter(out, id);
}

void PutBitmap(Output& out, uint64_t offset, const BlockContent& block) {
  PageBitmap bitmap(block.used_length / block.page_size);
  for (const PageRun run : block.nonzero) bitmap.SetRun(run);
  for (uint64_t page = 0; const auto run = bitmap.FindRun(true, page, bitmap.size());) {
    const uint64_t first = run->first / PageBitmap::kPagesPerWord;
    page = run->end();
    const uint64_t end = (page - 1) / PageBitmap::kPagesPerWord + 1;
    out.WriteAt(offset + first * sizeof(uint64_t), bitmap.words() + first,
                (end - first) * sizeof(uint64_t));
  }
}

void PutPages(Output& out, uint64_t offset, const BlockContent& block) {
  std::vector<uint8_t> page_content(block.page_size);
  for (const PageRun run : block.nonzero) {
    for (uint64_t page = run.first; page < run.end(); ++page) {
      block.fill(page, absl::MakeSpan(page_content));
      out.WriteAt(offset + page * block.page_size, page_content.data(), page_content.size());
    }
  }
}

void PutBlock(Output& out, const SnapshotContent& content, const BlockContent& block) {
  const uint64_t pages = block.used_length / block.page_size;
  const uint64_t words = (pages + PageBitmap::kPagesPerWord - 1) / PageBitmap::kPagesPerWord;
  out.PutName8(block.idstr);
  out.PutBe64(block.used_length);
  for (const std::string& capability : content.capabilities) {
    if (capability == kIgnoreSharedCapability) out.PutBe64(0);  // guest-physical address
  }
  out.PutBe32(kBlockHeaderVersion);
  out.PutBe64(block.page_size);
  if (block.ignored) {
    out.PutBe64(0);
    out.PutBe64(0);
    return;
  }
  const uint64_t bitmap_offset = out.position() + 2 * sizeof(uint64_t);
  const uint64_t bitmap_end = bitmap_offset + words * sizeof(uint64_t);
  const uint64_t alignment = content.pages_alignment;
  const uint64_t pages_offset = (bitmap_end + alignment - 1) / alignment * alignment;
  out.PutBe64(bitmap_offset);
  out.PutBe64(pages_offset);
  if (!content.interrupted) PutBitmap(out, bitmap_offset, block);
  PutPages(out, pages_offset, block);
  out.Seek(pages_offset + block.used_length);
}

void PutRamStart(Output& out, uint32_t id, const SnapshotContent& content) {
  uint64_t total = 0;
  for (const BlockContent& block : content.blocks) total += block.used_length;
  PutSectionHeader(
      out, kSectionStart, id,
      {.name = {kRamSection.data(), kRamSection.size()}, .version_id = kRamSectionVersion});
  out.PutBe64(total | kRamFlagMemSize);
  for (const BlockContent& block : content.blocks) PutBlock(out, content, block);
  out.PutBe64(kRamFlagEndOfSection);
  PutFooter(out, id);
}

std::string DescribeDevice(const SectionContent& device) {
  return absl::StrCat("{\"name\": \"", device.name, "\", \"instance_id\": ", device.instance_id,
                      ", \"vmsd_name\": \"", device.name, "\", \"version\": ", device.version_id,
                      ", \"fields\": [{\"name\": \"data\", \"type\": \"buffer\", \"size\": ",
                      device.payload.size(), "}]}");
}

void PutVmdesc(Output& out, const SnapshotContent& content) {
  std::vector<std::string> devices;
  for (const SectionContent& device : content.early_devices) {
    devices.push_back(DescribeDevice(device));
  }
  for (const SectionContent& device : content.devices) devices.push_back(DescribeDevice(device));
  const std::string text = absl::StrCat("{\"devices\": [", absl::StrJoin(devices, ", "), "]}");
  out.PutU8(kVmdescription);
  out.PutBe32(static_cast<uint32_t>(text.size()));
  out.PutString(text);
}

}  // namespace

void FillPagePattern(uint64_t page, absl::Span<uint8_t> page_content) {
  for (size_t i = 0; i < page_content.size(); ++i) {
    // A multiplicative hash of page and 64-byte line; the low bit keeps it from being zero.
    const uint64_t line = (page << 10 | i / 64) * 0x9e3779b97f4a7c15;
    page_content[i] = static_cast<uint8_t>((line >> (8 * (i % 8))) | 1);
  }
}

absl::Status WriteSnapshot(const SnapshotContent& content, const std::string& path) {
  const std::string ram_end_of_section = {0, 0, 0, 0, 0, 0, 0, kRamFlagEndOfSection};
  Output out(path, content.stream_offset);
  out.PutBe32(kStreamMagic);
  out.PutBe32(kStreamVersion);
  PutConfiguration(out, content);

  uint32_t id = 0;
  for (const SectionContent& device : content.early_devices) {
    PutSection(out, kSectionFull, id++, device);
  }
  const uint32_t ram_id = id++;
  PutRamStart(out, ram_id, content);
  const uint32_t first_live_id = id;
  for (const SectionContent& section : content.live) PutSection(out, kSectionStart, id++, section);
  if (content.interrupted) {
    out.PutU8(kSectionPart);
    out.Flush();
    return out.status();
  }
  PutPartOrEnd(out, kSectionPart, ram_id, ram_end_of_section);
  PutPartOrEnd(out, kSectionEnd, ram_id, ram_end_of_section);
  for (size_t i = 0; i < content.live.size(); ++i) {
    PutPartOrEnd(out, kSectionEnd, first_live_id + static_cast<uint32_t>(i),
                 content.live[i].payload);
  }
  for (const SectionContent& device : content.devices) PutSection(out, kSectionFull, id++, device);
  out.PutU8(kEof);
  if (content.vmdesc) PutVmdesc(out, content);
  out.Flush();
  return out.status();
}

}  // namespace ramjet
