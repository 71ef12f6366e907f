// How fast a snapshot is written, next to what the machine allows in the same run.
//
//   bazel run //tests:writer_benchmark -- DIRECTORY [--rounds 5] [--threads N] [--direct]
//
// A GiB of memory, half of whose pages are zeros, in stretches of 64 pages. In turn, so that all
// meet the same machine: the memory looked through for zeros; a copy of what is not zero written to
// one file and synced, in 2 MiB pieces, direct ones by eight threads into room that the file has
// already, or else they would wait for each other; a snapshot of it written. Then 100 GiB of memory
// that was never touched, by one thread and by more.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "mappedram/aligned_buffer.h"
#include "mappedram/parallel.h"
#include "mappedram/ram_source.h"
#include "mappedram/snapshot_writer.h"
#include "mappedram/stream_parts.h"
#include "mappedram/zero_scan.h"

namespace ramjet {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPiece = 2 << 20;
constexpr uint64_t kMemory = 1 << 30;
constexpr uint64_t kSparse = uint64_t{100} << 30;

struct Settings {
  std::string path;
  int rounds = 5;
  unsigned threads = 2;
  bool direct = false;
};

double Seconds(const std::function<void()>& step) {
  const auto begin = std::chrono::steady_clock::now();
  step();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "writer_benchmark: %s\n", what.c_str());
  std::exit(1);
}

uint64_t CountZeroPages(absl::Span<const uint8_t> memory, unsigned threads) {
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> zeros{0};
  RunOnThreads(threads, [&] {
    for (uint64_t at; (at = next.fetch_add(kPiece)) < memory.size();) {
      uint64_t found = 0;
      for (uint64_t page = 0; page < kPiece; page += kPage) {
        found += IsZero(memory.subspan(at + page, kPage)) ? 1 : 0;
      }
      zeros += found;
    }
  });
  return zeros;
}

void WritePlain(const Settings& settings, absl::Span<const uint8_t> bytes) {
  unlink(settings.path.c_str());
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | (settings.direct ? O_DIRECT : 0);
  const int fd = open(settings.path.c_str(), flags, 0600);
  std::atomic<uint64_t> next{0};
  std::atomic<bool> good{fd >= 0};
  const auto length = static_cast<off_t>(bytes.size());
  if (settings.direct && posix_fallocate(fd, 0, length) != 0) good = false;
  RunOnThreads(settings.direct ? 8 : settings.threads, [&] {
    for (uint64_t at; good && (at = next.fetch_add(kPiece)) < bytes.size();) {
      if (pwrite(fd, bytes.data() + at, kPiece, static_cast<off_t>(at)) != kPiece) good = false;
    }
  });
  if (!good || fdatasync(fd) != 0) Die(settings.path + " cannot be written");
  close(fd);
}

void WriteSnapshotOf(const Settings& settings, absl::Span<const uint8_t> memory) {
  const MemorySource source(memory);
  SnapshotWriter writer(
      *EncodeStream({}),
      {{.idstr = "ram", .used_length = memory.size(), .page_size = kPage, .source = &source}},
      {.threads = settings.threads, .direct = settings.direct});
  const absl::Status written = writer.Write(settings.path);
  if (!written.ok()) Die(std::string(written.message()));
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Run(const Settings& settings) {
  AlignedBuffer half_zero(kMemory);
  const absl::Span<uint8_t> memory = half_zero.first(kMemory);
  AlignedBuffer not_zero(kMemory / 2);
  const absl::Span<uint8_t> content = not_zero.first(kMemory / 2);
  constexpr uint64_t kStretch = 64 * kPage;
  for (uint64_t at = 0; at < kMemory; at += 2 * kStretch) {
    std::memset(memory.data() + at, 0, kStretch);
    for (uint64_t page = 0; page < kStretch; page += kPage) {
      std::memset(memory.data() + at + kStretch + page, static_cast<int>(page / kPage | 1), kPage);
    }
    std::memcpy(content.data() + at / 2, memory.data() + at + kStretch, kStretch);
  }
  std::printf("%u threads, %s writes, zeros found by %s\n", settings.threads,
              settings.direct ? "direct" : "buffered", ZeroScans().back().name);
  std::vector<double> ratios;
  for (int round = 0; round < settings.rounds; ++round) {
    uint64_t zeros = 0;
    const double scan = Seconds([&] { zeros = CountZeroPages(memory, settings.threads); });
    if (zeros != kMemory / kPage / 2) Die("zero pages were not found");
    const double disk = Seconds([&] { WritePlain(settings, content); });
    unlink(settings.path.c_str());
    const double written = Seconds([&] { WriteSnapshotOf(settings, memory); });
    unlink(settings.path.c_str());
    ratios.push_back(std::max(scan, disk) / written);
    std::printf("scan %.3f s  disk %.3f s  snapshot %.3f s  ratio %.2f\n", scan, disk, written,
                ratios.back());
  }
  std::printf("median ratio %.2f (bar: 0.8)\n", Median(ratios));

  std::vector<unsigned> threads = {1};
  if (settings.threads > 1) threads.push_back(settings.threads);
  for (int round = 0; round < settings.rounds; ++round) {
    for (const unsigned count : threads) {
      // Anew each time, for once it is read it is mapped.
      void* const sparse = mmap(nullptr, kSparse, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (sparse == MAP_FAILED) Die("there is no room for 100 GiB of untouched memory");
      madvise(sparse, kSparse, MADV_HUGEPAGE);  // as VMMs do
      Settings alone = settings;
      alone.threads = count;
      const double seconds = Seconds([&] {
        WriteSnapshotOf(alone, {static_cast<const uint8_t*>(sparse), kSparse});
      });
      munmap(sparse, kSparse);
      unlink(settings.path.c_str());
      std::printf("100 GiB of zeros, %u threads: %.2f s\n", count, seconds);
    }
  }
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  ramjet::Settings settings;
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: writer_benchmark DIRECTORY [--rounds N] [--threads N] [--direct]\n");
    return 2;
  }
  settings.path = absl::StrCat(argv[1], "/writer_benchmark.", getpid(), ".mr");
  for (int i = 2; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--rounds" && i + 1 < argc) settings.rounds = std::atoi(argv[++i]);
    if (arg == "--threads" && i + 1 < argc) {
      settings.threads = static_cast<unsigned>(std::atoi(argv[++i]));
    }
    if (arg == "--direct") settings.direct = true;
  }
  setlinebuf(stdout);
  ramjet::Run(settings);
  return 0;
}
