#include "mappedram/snapshot_writer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "mappedram/aligned_buffer.h"
#include "mappedram/checksums.h"
#include "mappedram/crc32c.h"
#include "mappedram/file.h"
#include "mappedram/new_file.h"
#include "mappedram/page_bitmap.h"
#include "mappedram/parallel.h"
#include "mappedram/snapshot.h"
#include "mappedram/stream.h"
#include "mappedram/write_queue.h"
#include "mappedram/zero_scan.h"

// The order of writing, in which nothing is believed before all of it is there:
//
//   1 pages, by all threads: each takes the next window of kWindowBytes that its source does not
//     know to be zero, finds the pages of zeros in it, writes what is between them in single
//     writes (direct ones are under way while it goes on: WriteQueue), and sets their bits
//   2 bitmaps, and all of the stream but one byte, by the caller
//   3 fdatasync
//   4 the byte: the last, and only other than 0, of the value that ends the START record of section
//     "ram". Without it the stream is damaged, with it complete; a byte is there or not.
//   5 fdatasync, a look at the file with the eyes of Snapshot::Open(), and the name (NewFile)

namespace ramjet {
namespace {

// What a thread takes at once: large enough for a disk, small enough to be in its cache still when
// it is written. A multiple of any page size.
constexpr uint64_t kWindowBytes = 2 << 20;
static_assert(kWindowBytes % (Checksums::kPagesPerRun << kMaxPageBits) == 0,
              "what has one checksum is written by one thread");
// How many windows a thread has under way, where writes are direct.
constexpr size_t kWindowsUnderWay = 4;
// Of bitmaps, what is all zeros is not written but left a hole, in units of that.
constexpr uint64_t kBitmapUnitWords = 512;
constexpr uint64_t kCopyBytes = 1 << 20;

uint64_t RoundUp(uint64_t number, uint64_t unit) { return (number + unit - 1) / unit * unit; }

absl::Span<const uint8_t> AsBytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

absl::Status CheckBlocks(const std::vector<NewBlock>& blocks, const StreamParts& stream,
                         uint64_t pages_alignment) {
  const auto refuse = [](const NewBlock& block, const auto&... why) {
    return absl::InvalidArgumentError(absl::StrCat("block \"", block.idstr, "\": ", why...));
  };
  if (blocks.empty() || blocks.size() > kMaxBlocks) {
    return absl::InvalidArgumentError(
        absl::StrCat(blocks.size(), " blocks, and not 1 to ", kMaxBlocks, ", are to be written"));
  }
  uint64_t total = 0;
  std::set<absl::string_view> names;
  for (const NewBlock& block : blocks) {
    if (block.idstr.empty() || block.idstr.size() > kMaxNameBytes || !IsPrintable(block.idstr)) {
      return refuse(block, "its name is not 1 to ", kMaxNameBytes, " printable characters");
    }
    if (!names.insert(block.idstr).second) return refuse(block, "there are two of that name");
    if (!std::has_single_bit(block.page_size) || block.page_size >> kMinPageBits == 0 ||
        block.page_size > uint64_t{1} << kMaxPageBits || block.page_size != blocks[0].page_size ||
        pages_alignment % block.page_size != 0) {
      return refuse(block, "its page size of ", block.page_size, " cannot be written");
    }
    if (block.used_length == 0 || block.used_length % block.page_size != 0 ||
        block.used_length > kMaxRamBytes - total) {
      return refuse(block, "its length of ", block.used_length,
                    " bytes is 0, no multiple of the page size of ", block.page_size,
                    ", or too large");
    }
    if (block.source == nullptr && !stream.block_addresses) {
      return refuse(block, "without content it takes the capability \"", kIgnoreSharedCapability,
                    "\"");
    }
    total += block.used_length;
  }
  return absl::OkStatus();
}

}  // namespace

// One Write().
class SnapshotWriter::Job {
 public:
  // `checksums`: null, if none are asked for.
  Job(SnapshotWriter& writer, NewFile& file, NewFile* checksums);

  // All but the names.
  absl::Status Run();
  absl::Status Publish();

 private:
  struct Place {
    uint64_t bitmap_offset = 0;
    uint64_t pages_offset = 0;
    PageBitmap nonzero = {};
    std::vector<uint32_t> crcs = {};  // of each run, if they are asked for
  };
  struct Piece {
    uint64_t offset = 0;
    std::string bytes = {};
  };
  // Bytes [offset, end) of a block.
  struct Window {
    size_t block = 0;
    uint64_t offset = 0;
    uint64_t end = 0;
  };

  void LayOut();
  absl::Status Cancelled() const;
  absl::Status WritePages();
  absl::Status WriteBitmap(Place& place) const;
  absl::Status WriteStream() const;
  absl::Status Check();

  void Work();
  // The next one, which holds something; nullopt if there is none, or the work has ended.
  std::optional<Window> Take();
  // `buffer` has room for a window, and stays as it is until what is put to `queue` is written.
  absl::Status WriteWindow(const Window& window, absl::Span<uint8_t> buffer, WriteQueue& queue);
  absl::Status WriteExtent(const Window& extent, absl::Span<uint8_t> buffer, WriteQueue& queue);
  std::vector<PageRun> FindNonzero(absl::Span<const uint8_t> bytes, uint64_t page_size)
      ABSL_LOCKS_EXCLUDED(scan_mu_);
  static void AddToSums(Place& place, PageRun pages, absl::Span<const uint8_t> bytes);
  void Fail(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  SnapshotWriter& writer_;
  NewFile& file_;
  NewFile* const checksums_;
  const std::vector<NewBlock>& blocks_;
  // Constant once they are laid out, but for the bits.
  std::vector<Place> places_;
  std::vector<Piece> pieces_;
  uint64_t last_byte_offset_ = 0;  // of step 4

  absl::Mutex scan_mu_;  // held by the one that finds zeros, if there is to be but one
  absl::Mutex mu_;
  Window next_ ABSL_GUARDED_BY(mu_);  // all before it is taken
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

SnapshotWriter::Job::Job(SnapshotWriter& writer, NewFile& file, NewFile* checksums)
    : writer_(writer), file_(file), checksums_(checksums), blocks_(writer.blocks_) {
  LayOut();
}

void SnapshotWriter::Job::LayOut() {
  const StreamParts& stream = writer_.stream_;
  uint64_t total = 0;
  for (const NewBlock& block : blocks_) total += block.used_length;
  uint64_t at = writer_.options_.stream_offset;
  StreamEncoder out;
  out.PutBytes(stream.head);
  out.PutSectionHeader(kSectionStart, stream.ram_section_id, kRamSection, 0, kRamSectionVersion);
  out.PutBe64(total | kRamFlagMemSize);
  for (const NewBlock& block : blocks_) {
    out.PutName8(block.idstr);
    out.PutBe64(block.used_length);
    if (stream.block_addresses) out.PutBe64(block.address);
    out.PutBe32(kBlockHeaderVersion);
    out.PutBe64(block.page_size);
    Place& place = places_.emplace_back();
    if (block.source != nullptr) {
      place.nonzero = PageBitmap(block.used_length / block.page_size);
      place.bitmap_offset = at + out.size() + 2 * sizeof(uint64_t);
      place.pages_offset =
          RoundUp(place.bitmap_offset + place.nonzero.word_count() * sizeof(uint64_t),
                  writer_.options_.pages_alignment);
    }
    if (checksums_ != nullptr) {
      place.crcs.resize((block.used_length / block.page_size + Checksums::kPagesPerRun - 1) /
                        Checksums::kPagesPerRun);
    }
    out.PutBe64(place.bitmap_offset);
    out.PutBe64(place.pages_offset);
    if (block.source == nullptr) continue;
    pieces_.push_back({at, out.Take()});
    at = place.pages_offset + block.used_length;
  }
  out.PutBe64(kRamFlagEndOfSection);
  last_byte_offset_ = at + out.size() - 1;
  out.PutFooter(stream.ram_section_id);
  out.PutBytes(stream.tail);
  pieces_.push_back({at, out.Take()});
  pieces_.back().bytes[last_byte_offset_ - at] = 0;
}

absl::Status SnapshotWriter::Job::Run() {
  const Piece& last = pieces_.back();
  absl::Status status =
      file_.SetLength(last.offset + last.bytes.size() + writer_.stream_.carried_length);
  if (status.ok()) status = WritePages();
  for (Place& place : places_) {
    if (status.ok()) status = WriteBitmap(place);
  }
  if (status.ok()) status = WriteStream();
  if (status.ok() && writer_.options_.sync) status = file_.Sync();
  const uint8_t last_byte = kRamFlagEndOfSection;
  if (status.ok()) status = file_.WriteAt(last_byte_offset_, absl::MakeConstSpan(&last_byte, 1));
  if (status.ok() && writer_.options_.sync) status = file_.Sync();
  if (status.ok() && writer_.cancelled_.load(std::memory_order_relaxed)) status = Cancelled();
  if (status.ok() && writer_.options_.check) status = Check();
  return status;
}

// The sums behind the snapshot: what is beside a snapshot for the moment then are another's, which
// is noticed.
absl::Status SnapshotWriter::Job::Publish() {
  return checksums_ == nullptr ? file_.Publish() : NewFile::PublishBoth(file_, *checksums_);
}

absl::Status SnapshotWriter::Job::Cancelled() const {
  return absl::CancelledError(absl::StrCat(file_.path(), ": its writing was cancelled"));
}

absl::Status SnapshotWriter::Job::WritePages() {
  RunOnThreads(ThreadCount(writer_.options_.threads), [this] { Work(); });
  const absl::MutexLock lock(&mu_);
  return status_;
}

void SnapshotWriter::Job::Work() {
  const size_t buffers = writer_.options_.direct ? kWindowsUnderWay : 1;
  AlignedBuffer memory(buffers * kWindowBytes);
  if (!memory.valid()) {
    return Fail(absl::ResourceExhaustedError("there is no memory for a buffer"));
  }
  WriteQueue queue(file_);
  std::array<uint64_t, kWindowsUnderWay> put = {};  // to the queue, when each buffer was last used
  absl::Status status;
  for (size_t turn = 0; status.ok(); turn = (turn + 1) % buffers) {
    const std::optional<Window> window = Take();
    if (!window.has_value()) break;
    status = queue.WaitFor(put[turn]);
    if (!status.ok()) break;
    const absl::Span<uint8_t> all = memory.first(buffers * kWindowBytes);
    status = WriteWindow(*window, all.subspan(turn * kWindowBytes, kWindowBytes), queue);
    put[turn] = queue.put();
  }
  if (status.ok()) status = queue.WaitFor(queue.put());
  if (!status.ok()) Fail(status);
}

void SnapshotWriter::Job::Fail(const absl::Status& status) {
  const absl::MutexLock lock(&mu_);
  status_.Update(status);
}

std::optional<SnapshotWriter::Job::Window> SnapshotWriter::Job::Take() {
  const absl::MutexLock lock(&mu_);
  while (status_.ok() && next_.block < blocks_.size()) {
    if (writer_.cancelled_.load(std::memory_order_relaxed)) {
      status_ = Cancelled();
      break;
    }
    const NewBlock& block = blocks_[next_.block];
    if (block.source == nullptr || next_.offset >= block.used_length) {
      next_ = {.block = next_.block + 1};
      continue;
    }
    const absl::StatusOr<std::optional<RamSource::Extent>> extent =
        block.source->NextExtent(next_.offset, block.used_length);
    if (!extent.ok()) {
      status_ = extent.status();
      break;
    }
    const uint64_t first = extent->has_value()
                               ? (*extent)->offset / block.page_size * block.page_size
                               : block.used_length;
    writer_.done_bytes_.fetch_add(first - next_.offset, std::memory_order_relaxed);
    next_.offset = first;
    if (!extent->has_value()) continue;
    Window window = next_;
    window.end = std::min((first / kWindowBytes + 1) * kWindowBytes, block.used_length);
    next_.offset = window.end;
    return window;
  }
  return std::nullopt;
}

absl::Status SnapshotWriter::Job::WriteWindow(const Window& window, absl::Span<uint8_t> buffer,
                                              WriteQueue& queue) {
  const NewBlock& block = blocks_[window.block];
  for (uint64_t at = window.offset; at < window.end;) {
    const absl::StatusOr<std::optional<RamSource::Extent>> extent =
        block.source->NextExtent(at, window.end);
    if (!extent.ok()) return extent.status();
    if (!extent->has_value()) break;
    const uint64_t first = (*extent)->offset / block.page_size * block.page_size;
    at = std::min(RoundUp((*extent)->end(), block.page_size), window.end);
    absl::Status status =
        WriteExtent({window.block, first, at}, buffer.subspan(first % kWindowBytes), queue);
    if (!status.ok()) return status;
  }
  writer_.done_bytes_.fetch_add(window.end - window.offset, std::memory_order_relaxed);
  if (writer_.options_.sync && !writer_.options_.direct) {
    file_.StartWriteback(places_[window.block].pages_offset + window.offset,
                         window.end - window.offset);
  }
  return absl::OkStatus();
}

absl::Status SnapshotWriter::Job::WriteExtent(const Window& extent, absl::Span<uint8_t> buffer,
                                              WriteQueue& queue) {
  const RamSource& source = *blocks_[extent.block].source;
  Place& place = places_[extent.block];
  const uint64_t page_size = blocks_[extent.block].page_size;
  absl::Span<const uint8_t> bytes;
  if (source.memory() != nullptr) {
    bytes = {source.memory() + extent.offset, extent.end - extent.offset};
  } else {
    const absl::Span<uint8_t> read = buffer.first(extent.end - extent.offset);
    if (absl::Status status = source.Read(extent.offset, read); !status.ok()) return status;
    bytes = read;
  }
  for (const PageRun run : FindNonzero(bytes, page_size)) {
    const uint64_t in_bytes = run.first * page_size;
    const auto content = bytes.subspan(in_bytes, run.count * page_size);
    absl::Status status = queue.Put(place.pages_offset + extent.offset + in_bytes, content);
    if (!status.ok()) return status;
    const PageRun pages = {extent.offset / page_size + run.first, run.count};
    place.nonzero.SetRun(pages);
    if (!place.crcs.empty()) AddToSums(place, pages, content);
    writer_.written_bytes_.fetch_add(content.size(), std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

// No run is in two windows, and within one its pages come in ascending order.
void SnapshotWriter::Job::AddToSums(Place& place, PageRun pages, absl::Span<const uint8_t> bytes) {
  const uint64_t page_size = bytes.size() / pages.count;
  for (uint64_t i = 0; i < pages.count; ++i) {
    uint32_t& crc = place.crcs[(pages.first + i) / Checksums::kPagesPerRun];
    crc = Crc32c(bytes.subspan(i * page_size, page_size), crc);
  }
}

// Counted from the beginning of `bytes`.
std::vector<PageRun> SnapshotWriter::Job::FindNonzero(absl::Span<const uint8_t> bytes,
                                                      uint64_t page_size) {
  const uint64_t pages = bytes.size() / page_size;
  if (writer_.options_.zero_detection == ZeroDetection::kNone) return {{0, pages}};
  const bool alone = writer_.options_.zero_detection == ZeroDetection::kOneThread;
  const absl::MutexLockMaybe lock(alone ? &scan_mu_ : nullptr);
  std::vector<PageRun> runs;
  for (uint64_t page = 0; page < pages; ++page) {
    if (IsZero(bytes.subspan(page * page_size, page_size))) continue;
    if (runs.empty() || runs.back().end() != page) runs.push_back({page, 0});
    ++runs.back().count;
  }
  return runs;
}

absl::Status SnapshotWriter::Job::WriteBitmap(Place& place) const {
  const uint64_t words = place.nonzero.word_count();
  const auto bytes_of = [&place](uint64_t first, uint64_t end) {
    return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(place.nonzero.words() + first),
                               (end - first) * sizeof(uint64_t));
  };
  for (uint64_t first = 0; first < words;) {
    uint64_t end = first;
    while (end < words && !IsZero(bytes_of(end, std::min(end + kBitmapUnitWords, words)))) {
      end = std::min(end + kBitmapUnitWords, words);
    }
    if (end == first) {
      first += kBitmapUnitWords;
      continue;
    }
    absl::Status written =
        file_.WriteAt(place.bitmap_offset + first * sizeof(uint64_t), bytes_of(first, end));
    if (!written.ok()) return written;
    first = end;
  }
  return absl::OkStatus();
}

absl::Status SnapshotWriter::Job::WriteStream() const {
  if (const std::string& wrapper = writer_.options_.wrapper; !wrapper.empty()) {
    if (absl::Status written = file_.WriteAt(0, AsBytes(wrapper)); !written.ok()) return written;
  }
  for (const Piece& piece : pieces_) {
    if (absl::Status written = file_.WriteAt(piece.offset, AsBytes(piece.bytes)); !written.ok()) {
      return written;
    }
  }
  const StreamParts& stream = writer_.stream_;
  if (stream.carried == nullptr) return absl::OkStatus();
  const uint64_t to = pieces_.back().offset + pieces_.back().bytes.size();
  std::vector<uint8_t> buffer(std::min(stream.carried_length, kCopyBytes));
  for (uint64_t done = 0; done < stream.carried_length;) {
    const auto chunk =
        absl::MakeSpan(buffer).first(std::min(stream.carried_length - done, kCopyBytes));
    absl::Status status = stream.carried->file().ReadAt(stream.carried_offset + done, chunk);
    if (status.ok()) status = file_.WriteAt(to + done, chunk);
    if (!status.ok()) return status;
    done += chunk.size();
  }
  return stream.carried->file().CheckUnchanged();
}

// What we would not take ourselves gets no name.
absl::Status SnapshotWriter::Job::Check() {
  absl::StatusOr<File> file = File::Reopen(file_.fd(), file_.path());
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::unique_ptr<Snapshot>> snapshot =
      Snapshot::Open(*std::move(file), writer_.options_.stream_offset);
  if (!snapshot.ok()) return snapshot.status();
  if (checksums_ == nullptr) return absl::OkStatus();
  std::vector<std::vector<uint32_t>> crcs;
  for (Place& place : places_) crcs.push_back(std::move(place.crcs));
  const absl::StatusOr<Checksums> checksums = AssembleChecksums(**snapshot, crcs);
  return checksums.ok() ? StageChecksums(*checksums, *checksums_) : checksums.status();
}

SnapshotWriter::SnapshotWriter(StreamParts stream, std::vector<NewBlock> blocks, Options options)
    : stream_(std::move(stream)), blocks_(std::move(blocks)), options_(std::move(options)) {}

absl::Status SnapshotWriter::Write(const std::string& path) {
  absl::Status status;
  if (options_.check) status = CheckBlocks(blocks_, stream_, options_.pages_alignment);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  absl::StatusOr<NewFile> file =
      NewFile::Create(path, {.direct = options_.direct, .before_write = options_.before_write});
  if (!file.ok()) return file.status();
  // Before all that takes long: where it cannot be is known at once.
  std::optional<NewFile> checksums;
  if (!options_.checksums_path.empty()) {
    absl::StatusOr<NewFile> created = NewFile::Create(options_.checksums_path, {});
    if (!created.ok()) return created.status();
    checksums.emplace(*std::move(created));
  }
  Job job(*this, *file, checksums.has_value() ? &*checksums : nullptr);
  status = job.Run();
  if (status.ok()) status = job.Publish();
  return status;
}

SnapshotWriter::Progress SnapshotWriter::progress() const {
  Progress progress;
  for (const NewBlock& block : blocks_) {
    if (block.source != nullptr) progress.total += block.used_length;
  }
  progress.done = done_bytes_.load(std::memory_order_relaxed);
  progress.written = written_bytes_.load(std::memory_order_relaxed);
  return progress;
}

}  // namespace ramjet
