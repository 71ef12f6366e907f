#include "loader/read_pacer.h"

#include <algorithm>
#include <ctime>

#include "absl/time/clock.h"

namespace ramjet {
namespace {

// Slower than this is a disk: the page cache gives 5 GB/s and more.
constexpr int64_t kDiskBytesPerNs = 2;

// How long a bulk read waits for the demand reads to end. A guest that faults without a pause needs
// the rest, too.
constexpr int kMaxGlances = 1;
constexpr int64_t kGlanceNs = 20'000;

}  // namespace

absl::Status ReadPacer::Demand::ReadPages(size_t block, uint64_t offset,
                                          absl::Span<uint8_t> buffer) const {
  pacer_.demands_begun_.fetch_add(1, std::memory_order_relaxed);
  pacer_.demand_reads_.fetch_add(1, std::memory_order_relaxed);
  absl::Status read = pacer_.source_.ReadPages(block, offset, buffer);
  pacer_.demand_reads_.fetch_sub(1, std::memory_order_relaxed);
  return read;
}

absl::Status ReadPacer::Bulk::ReadPages(size_t block, uint64_t offset,
                                        absl::Span<uint8_t> buffer) const {
  while (!buffer.empty()) {
    const uint64_t piece_bytes = pacer_.NextPieceBytes();
    const absl::Span<uint8_t> piece = buffer.first(std::min<uint64_t>(piece_bytes, buffer.size()));
    if (piece_bytes < kMaxPieceBytes && pacer_.slow_.load(std::memory_order_relaxed)) {
      pacer_.AwaitNoDemand();
    }
    absl::Status read = pacer_.ReadPiece(block, offset, piece);
    if (!read.ok()) return read;
    offset += piece.size();
    buffer.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

uint64_t ReadPacer::NextPieceBytes() {
  const uint64_t begun = demands_begun_.load(std::memory_order_relaxed);
  const bool faults_came = demands_seen_.exchange(begun, std::memory_order_relaxed) != begun;
  const uint64_t before = piece_bytes_.load(std::memory_order_relaxed);
  const uint64_t bytes = faults_came ? kMinPieceBytes : std::min(before * 2, kMaxPieceBytes);
  piece_bytes_.store(bytes, std::memory_order_relaxed);
  return bytes;
}

absl::Status ReadPacer::ReadPiece(size_t block, uint64_t offset, absl::Span<uint8_t> piece) {
  const int64_t begun_ns = absl::GetCurrentTimeNanos();
  absl::Status read = source_.ReadPages(block, offset, piece);
  const int64_t took_ns = absl::GetCurrentTimeNanos() - begun_ns;
  slow_.store(static_cast<int64_t>(piece.size()) < took_ns * kDiskBytesPerNs,
              std::memory_order_relaxed);
  return read;
}

void ReadPacer::AwaitNoDemand() const {
  for (int i = 0; i < kMaxGlances && demand_reads_.load(std::memory_order_relaxed) > 0; ++i) {
    const timespec glance{.tv_sec = 0, .tv_nsec = kGlanceNs};
    nanosleep(&glance, nullptr);
  }
}

}  // namespace ramjet
