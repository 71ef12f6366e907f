// Writes inputs for fuzz_vmstate to begin with: each device of a real file, and one of every form.
//
//   fuzz_vmstate_seeds corpus/microvm.extents DIRECTORY
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/vmdesc.h"
#include "mappedram/vmstate/device.h"
#include "nlohmann/json.hpp"
#include "tests/vmstate_everything.h"

namespace ramjet {
namespace {

uint64_t BigEndianAt(const std::string& bytes, size_t at, size_t length) {
  uint64_t value = 0;
  for (size_t i = 0; i < length; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

// The sparse file of which `extents` is: see corpus/make_extents.py.
void WriteSparse(const std::string& extents, const std::string& path) {
  std::ofstream out(path, std::ios::binary);
  for (size_t at = 8; at < extents.size();) {
    const uint64_t length = BigEndianAt(extents, at + 8, 8);
    out.seekp(static_cast<std::streamoff>(BigEndianAt(extents, at, 8)));
    out << extents.substr(at + 16, length);
    at += 16 + length;
  }
}

absl::Status WriteDescribed(const std::string& snapshot, const std::string& directory) {
  const absl::StatusOr<File> file = File::Open(snapshot);
  if (!file.ok()) return file.status();
  const absl::StatusOr<SnapshotDescription> description = Snapshot::Describe(*file);
  if (!description.ok()) return description.status();
  const auto vmdesc = FindVmdesc(*file, 0);
  if (!vmdesc.ok()) return vmdesc.status();
  const auto devices = nlohmann::ordered_json::parse(vmdesc->value_or("{}"))["devices"];
  for (size_t i = 0; i < devices.size(); ++i) {
    const std::string text = nlohmann::ordered_json{{"devices", {devices[i]}}}.dump();
    const DeviceSection& device = description->devices[i];
    std::string payload(device.size, '\0');
    absl::Status read = file->ReadAt(
        device.offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(payload.data()), payload.size()));
    if (!read.ok()) return read;
    vmstate::Writer length("seed");
    length.WriteBigEndian(text.size(), 4);
    std::ofstream(absl::StrCat(directory, "/device", i), std::ios::binary)
        << '\1' << length.bytes() << text << payload;
  }
  return absl::OkStatus();
}

absl::Status WriteEverything(const std::string& directory) {
  Everything everything = NewEverything();
  everything.flag = true;
  everything.bits_count = 2;
  everything.bits = {true, false};
  everything.leaves.resize(2);
  everything.list.resize(2);
  everything.list.back().number = 5;
  everything.numbers = {1, 2};
  everything.pointers.push_back(std::make_unique<Leaf>());
  everything.tree[1].name = "one";
  everything.set = {1, 2};
  everything.extra = 3;
  const auto bytes = vmstate::Encode(kEverything, everything);
  if (!bytes.ok()) return bytes.status();
  std::ofstream(directory + "/everything", std::ios::binary) << '\0' << *bytes;
  return absl::OkStatus();
}

absl::Status WriteSeeds(const std::string& extents_path, const std::string& directory) {
  std::ifstream in(extents_path, std::ios::binary);
  const std::string extents{std::istreambuf_iterator<char>(in), {}};
  if (extents.size() < 8) return absl::NotFoundError(absl::StrCat(extents_path, ": no extents"));
  const std::string sparse = directory + "/sparse";
  WriteSparse(extents, sparse);
  absl::Status written = WriteDescribed(sparse, directory);
  (void)remove(sparse.c_str());
  written.Update(WriteEverything(directory));
  return written;
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: fuzz_vmstate_seeds EXTENTS DIRECTORY\n");
    return 2;
  }
  const absl::Status written = ramjet::WriteSeeds(argv[1], argv[2]);
  if (written.ok()) return 0;
  fprintf(stderr, "fuzz_vmstate_seeds: %s\n", written.ToString().c_str());
  return 1;
}
