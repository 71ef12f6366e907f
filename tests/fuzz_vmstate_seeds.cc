// Writes inputs for fuzz_vmstate to begin with: each device of a real file, and one of every form.
//
//   fuzz_vmstate_seeds corpus/microvm.extents DIRECTORY
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "mappedram/file.h"
#include "mappedram/snapshot.h"
#include "mappedram/vmdesc.h"
#include "mappedram/vmstate/device.h"
#include "nlohmann/json.hpp"
#include "tests/corpus_file.h"
#include "tests/vmstate_everything.h"

namespace ramjet {
namespace {

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
  const std::string sparse = directory + "/sparse";
  if (absl::Status made = WriteFromExtents(extents_path, sparse); !made.ok()) return made;
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
