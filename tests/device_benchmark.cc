// How long devices take whose loading is a wait for the device: all at once, against one after
// another, in one run, in turn.
//
//   bazel run //tests:device_benchmark -- [--rounds 5] [--cold]
//
// Four devices of 100 MB that take 250 ms each, spread over the pieces of 1 MiB that they get. Both
// read the same file. "serial" is the loop that a VMM has: for each device, for each piece, read it
// and give it to the device. "buffers" and "whole" are LoadDevices(), by load_buffer(), which reads
// ahead, and by load(), which reads and waits in turn.
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loader/device_loader.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/snapshot_description.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

constexpr int kDevices = 4;
constexpr uint64_t kDeviceBytes = 100'000'000;
constexpr uint64_t kPieceBytes = 1 << 20;
constexpr absl::Duration kDeviceTime = absl::Milliseconds(250);

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "device_benchmark: %s\n", status.ToString().c_str());
  std::exit(1);
}

// What a device does with a piece: it takes it, and its time.
void Give(uint64_t bytes) {
  absl::SleepFor(kDeviceTime * static_cast<double>(bytes) / static_cast<double>(kDeviceBytes));
}

std::unique_ptr<Snapshot> MakeSnapshot(const std::string& path) {
  SnapshotContent content;
  content.blocks = {{.idstr = "ram", .used_length = 1 << 20, .page_size = 4096}};
  for (uint32_t i = 0; i < kDevices; ++i) {
    content.devices.push_back({.name = "vfio",
                               .instance_id = i,
                               .payload = std::string(kDeviceBytes, static_cast<char>('a' + i))});
  }
  Check(WriteSnapshot(content, path));
  absl::StatusOr<File> file = File::Open(path);
  Check(file.status());
  auto snapshot = Snapshot::Open(*std::move(file));
  Check(snapshot.status());
  return *std::move(snapshot);
}

// A state in pieces, each read and given to the device in turn.
absl::Status ReadAndGive(const File& file, const DeviceSection& section) {
  std::vector<uint8_t> piece(kPieceBytes);
  for (uint64_t offset = 0; offset < section.size; offset += piece.size()) {
    piece.resize(std::min(kPieceBytes, section.size - offset));
    absl::Status read = file.ReadAt(section.offset + offset, absl::MakeSpan(piece));
    if (!read.ok()) return read;
    Give(piece.size());
  }
  return absl::OkStatus();
}

void LoadSerially(const Snapshot& snapshot) {
  for (const DeviceSection& section : snapshot.description().devices) {
    Check(ReadAndGive(snapshot.file(), section));
  }
}

void LoadInParallel(const Snapshot& snapshot, bool in_buffers) {
  std::vector<DeviceLoader> loaders;
  for (const DeviceSection& section : snapshot.description().devices) {
    DeviceLoader loader{.device = {section.name, section.instance_id}, .buffer_bytes = kPieceBytes};
    if (in_buffers) {
      loader.load_buffer = [](const DeviceState&, uint64_t, absl::Span<const uint8_t> bytes) {
        Give(bytes.size());
        return absl::OkStatus();
      };
    } else {
      loader.load = [&snapshot](const DeviceState& state) {
        return ReadAndGive(snapshot.file(), state.section());
      };
    }
    loaders.push_back(std::move(loader));
  }
  Check(LoadDevices(snapshot, loaders));
}

struct Way {
  const char* name;
  void (*load)(const Snapshot& snapshot);
  std::vector<double> seconds = {};
};

int Main(int rounds, bool cold) {
  const std::string path = absl::StrCat("/tmp/device_benchmark.", getpid(), ".mr");
  const std::unique_ptr<Snapshot> snapshot = MakeSnapshot(path);
  unlink(path.c_str());
  Check(fsync(snapshot->file().fd()) == 0 ? absl::OkStatus() : absl::InternalError("fsync"));
  utsname system{};
  uname(&system);
  std::printf("%d devices of %llu bytes, %s each; Linux %s, %u CPUs; %s cache; %d rounds\n",
              kDevices, static_cast<unsigned long long>(kDeviceBytes),
              absl::FormatDuration(kDeviceTime).c_str(), system.release,
              std::thread::hardware_concurrency(), cold ? "cold" : "warm", rounds);

  Way ways[] = {{"serial", LoadSerially},
                {"buffers", [](const Snapshot& file) { LoadInParallel(file, true); }},
                {"whole", [](const Snapshot& file) { LoadInParallel(file, false); }}};
  for (int round = 0; round < rounds; ++round) {
    for (Way& way : ways) {
      if (cold) posix_fadvise(snapshot->file().fd(), 0, 0, POSIX_FADV_DONTNEED);
      const absl::Time start = absl::Now();
      way.load(*snapshot);
      way.seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
    }
  }
  std::printf("%-8s  %8s  %8s  %8s  of serial\n", "", "median s", "min", "max");
  double serial = 0;
  for (Way& way : ways) {
    std::sort(way.seconds.begin(), way.seconds.end());
    const double median = way.seconds[way.seconds.size() / 2];
    if (serial == 0) serial = median;
    std::printf("%-8s  %8.3f  %8.3f  %8.3f  %.3f\n", way.name, median, way.seconds.front(),
                way.seconds.back(), median / serial);
  }
  return 0;
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  int rounds = 5;
  bool cold = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--cold") == 0) {
      cold = true;
    } else if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
      rounds = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "usage: device_benchmark [--rounds N] [--cold]\n");
      return 2;
    }
  }
  return ramjet::Main(rounds, cold);
}
