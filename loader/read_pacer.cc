#include "loader/read_pacer.h"

#include <algorithm>
#include <mutex>

#include "absl/time/clock.h"

namespace ramjet {
namespace {

// Slower than this is a disk: what the page cache has comes at 5 GB/s and more.
constexpr int64_t kDiskBytesPerNs = 4;

// A guest that faults more often than this does little else than wait for pages.
constexpr int64_t kFaultIntervalNs = 500'000;

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
    const uint64_t piece_bytes = pacer_.NextPieceBytes();
    const absl::Span<uint8_t> piece = buffer.first(std::min<uint64_t>(piece_bytes, buffer.size()));
    std::unique_lock<std::mutex> turn(pacer_.turn_, std::defer_lock);
    if (piece_bytes < kMaxPieceBytes && pacer_.slow_.load(std::memory_order_relaxed)) turn.lock();
    absl::Status read = pacer_.ReadPiece(block, offset, piece);
    if (!read.ok()) return read;
    offset += piece.size();
    buffer.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

uint64_t ReadPacer::NextPieceBytes() {
  const uint64_t begun = demands_begun_.load(std::memory_order_relaxed);
  const auto faults =
      static_cast<int64_t>(begun - demands_seen_.exchange(begun, std::memory_order_relaxed));
  const int64_t now_ns = absl::GetCurrentTimeNanos();
  const int64_t passed_ns = now_ns - last_piece_ns_.exchange(now_ns, std::memory_order_relaxed);
  uint64_t bytes = piece_bytes_.load(std::memory_order_relaxed);
  if (faults * kFaultIntervalNs > passed_ns) {
    bytes = kMinPieceBytes;
  } else if (faults == 0) {
    bytes = std::min(bytes * 2, kMaxPieceBytes);
  }
  piece_bytes_.store(bytes, std::memory_order_relaxed);
  return bytes;
}

absl::Status ReadPacer::ReadPiece(size_t block, uint64_t offset, absl::Span<uint8_t> piece) {
  const int64_t begun_ns = absl::GetCurrentTimeNanos();
  absl::Status read = bulk_source_.ReadPages(block, offset, piece);
  const int64_t took_ns = absl::GetCurrentTimeNanos() - begun_ns;
  slow_.store(static_cast<int64_t>(piece.size()) < took_ns * kDiskBytesPerNs,
              std::memory_order_relaxed);
  return read;
}

}  // namespace ramjet
