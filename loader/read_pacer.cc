#include "loader/read_pacer.h"

#include <algorithm>
#include <mutex>

#include "loader/load_stats.h"

namespace ramjet {
namespace {

// Slower than this is a disk: what the page cache has comes at 5 GB/s and more.
constexpr int64_t kDiskBytesPerNs = 4;

// A guest that faults more often than this does little else than wait for pages.
constexpr int64_t kFaultIntervalNs = 500'000;

// And one that has not faulted for so long, since it began to be loaded or since its last fault,
// has other things to do.
constexpr int64_t kQuietNs = 30'000'000;

}  // namespace

absl::Status ReadPacer::Demand::ReadPages(size_t block, uint64_t offset,
                                          absl::Span<uint8_t> buffer) const {
  pacer_.demands_begun_.fetch_add(1, std::memory_order_relaxed);
  return pacer_.demand_source_.ReadPages(block, offset, buffer);
}

absl::Status ReadPacer::DemandBulk::ReadPages(size_t block, uint64_t offset,
                                              absl::Span<uint8_t> buffer) const {
  // It keeps the disk busy for as long as so many demands.
  pacer_.demands_begun_.fetch_add(1 + buffer.size() / kMinPieceBytes, std::memory_order_relaxed);
  return pacer_.bulk_source_.ReadPages(block, offset, buffer);
}

absl::Status ReadPacer::Bulk::ReadPages(size_t block, uint64_t offset,
                                        absl::Span<uint8_t> buffer) const {
  while (!buffer.empty()) {
    const uint64_t piece_bytes = std::min(pacer_.NextBytes(), kMaxPieceBytes);
    const absl::Span<uint8_t> piece = buffer.first(std::min<uint64_t>(piece_bytes, buffer.size()));
    const std::unique_lock<std::mutex> turn = pacer_.AwaitTurn(piece_bytes);
    absl::Status read = pacer_.ReadPiece(block, offset, piece);
    if (!read.ok()) return read;
    offset += piece.size();
    buffer.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

// As a piece of the last size would.
void ReadPacer::Bulk::InTurn(absl::FunctionRef<void()> prepare) const {
  const auto turn = pacer_.AwaitTurn(pacer_.bytes_.load(std::memory_order_relaxed));
  prepare();
}

// Leaves it to NextBytes() to draw conclusions.
bool ReadPacer::Bulk::BeginRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                                absl::Span<uint8_t> buffer) const {
  const bool quiet = pacer_.bytes_.load(std::memory_order_relaxed) > kMaxPieceBytes &&
                     pacer_.demands_begun_.load(std::memory_order_relaxed) ==
                         pacer_.demands_seen_.load(std::memory_order_relaxed);
  if (!quiet && !pacer_.hurried_.load(std::memory_order_relaxed)) return false;
  // What comes from the page cache comes by a copy, for which somebody has to be there.
  if (!pacer_.slow_.load(std::memory_order_relaxed)) return false;
  const uint64_t others =
      pacer_.under_way_bytes_.fetch_add(buffer.size(), std::memory_order_relaxed);
  if (others + buffer.size() <= kMaxQueuedBytes &&
      pacer_.bulk_source_.BeginRead(queue, slot, block, offset, buffer)) {
    return true;
  }
  pacer_.under_way_bytes_.fetch_sub(buffer.size(), std::memory_order_relaxed);
  return false;
}

absl::Status ReadPacer::Bulk::EndRead(ReadQueue& queue, size_t slot, size_t block, uint64_t offset,
                                      absl::Span<uint8_t> buffer) const {
  absl::Status read = pacer_.bulk_source_.EndRead(queue, slot, block, offset, buffer);
  pacer_.under_way_bytes_.fetch_sub(buffer.size(), std::memory_order_relaxed);
  return read;
}

// Holds nothing where reads of pieces so large do not come one at a time.
std::unique_lock<std::mutex> ReadPacer::AwaitTurn(uint64_t piece_bytes) {
  std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
  if (piece_bytes < kMaxPieceBytes && slow_.load(std::memory_order_relaxed)) turn.lock();
  return turn;
}

uint64_t ReadPacer::NextBytes() {
  if (hurried_.load(std::memory_order_relaxed)) return kMaxQueuedBytes;
  const uint64_t begun = demands_begun_.load(std::memory_order_relaxed);
  const auto faults =
      static_cast<int64_t>(begun - demands_seen_.exchange(begun, std::memory_order_relaxed));
  const auto now_ns = static_cast<int64_t>(MonotonicNs());
  const int64_t last_ns = last_piece_ns_.exchange(now_ns, std::memory_order_relaxed);
  if (faults > 0 || last_ns == 0) busy_ns_.store(now_ns, std::memory_order_relaxed);
  const bool quiet = now_ns - busy_ns_.load(std::memory_order_relaxed) > kQuietNs;
  uint64_t bytes = bytes_.load(std::memory_order_relaxed);
  if (faults > 0) {
    const bool often = faults * kFaultIntervalNs > now_ns - last_ns;
    bytes = often ? kMinPieceBytes : std::min(bytes, kMaxPieceBytes);
  } else if (bytes < kMaxPieceBytes) {
    bytes *= 2;
  } else if (quiet) {
    bytes = kMaxQueuedBytes;
  }
  bytes_.store(bytes, std::memory_order_relaxed);
  return bytes;
}

absl::Status ReadPacer::ReadPiece(size_t block, uint64_t offset, absl::Span<uint8_t> piece) {
  under_way_bytes_.fetch_add(piece.size(), std::memory_order_relaxed);
  const uint64_t begun_ns = MonotonicNs();
  absl::Status read = bulk_source_.ReadPages(block, offset, piece);
  const auto took_ns = static_cast<int64_t>(MonotonicNs() - begun_ns);
  under_way_bytes_.fetch_sub(piece.size(), std::memory_order_relaxed);
  slow_.store(static_cast<int64_t>(piece.size()) < took_ns * kDiskBytesPerNs,
              std::memory_order_relaxed);
  return read;
}

}  // namespace ramjet
