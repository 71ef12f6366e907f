// Writes files for the fuzzer to begin with into the directory that is its argument.
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/snapshot_content.h"

namespace ramjet {
namespace {

SnapshotContent TinyContent() {
  SnapshotContent content;
  content.pages_alignment = 1024;
  content.blocks = {{.idstr = "ram", .used_length = 3 << 10, .page_size = 1024},
                    {.idstr = "rom", .used_length = 1 << 10, .page_size = 1024}};
  content.blocks[0].nonzero = {{1, 1}};
  content.devices = {{"timer", 0, 2, "tick tock"}, {"cpu", 1, 12, std::string(30, 'x')}};
  return content;
}

bool WriteSeeds(const std::string& directory) {
  SnapshotContent contents[5];
  for (SnapshotContent& content : contents) content = TinyContent();
  contents[1].vmdesc = false;
  contents[2].interrupted = true;
  contents[3].page_bits = 10;
  contents[3].uuid = "0123456789abcdef";
  contents[3].capabilities.push_back("x-ignore-shared");
  contents[3].blocks[0].ignored = true;
  contents[4].live = {{"dirty-bitmap", 0, 1, "live"}};
  contents[4].early_devices = {{"early", 0, 1, "bird"}};
  bool written = true;
  for (size_t i = 0; i < std::size(contents); ++i) {
    written &= WriteSnapshot(contents[i], absl::StrCat(directory, "/seed", i)).ok();
  }
  std::ofstream vmdesc(directory + "/vmdesc");
  vmdesc
      << R"({"page_size": 4096, "devices": [{"name": "cpu\u0041", "instance_id": 0, "version": 1,)"
      << R"( "fields": [{"name": "a", "array_len": 2, "type": "struct", "size": 8, "struct":)"
      << R"( {"fields": [{"size": -1.5e3}]}}], "subsections": [{"vmsd_name": "cpu/x",)"
      << R"( "fields": [{"size": 1}], "subsections": []}]}]})";
  return written && vmdesc.flush().good();
}

}  // namespace
}  // namespace ramjet

int main(int argc, char** argv) {
  if (argc == 2 && ramjet::WriteSeeds(argv[1])) return 0;
  fprintf(stderr, "fuzz_seeds DIRECTORY: cannot write there\n");
  return 1;
}
