#include "tools/same_file.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace ramjet {

bool SameFile(const std::string& a, const std::string& b) {
  std::error_code error;
  if (std::filesystem::equivalent(a, b, error)) return true;
  const auto place = [&](const std::string& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error);
  };
  return place(a) == place(b);
}

std::string WhichIsReplaced(const std::vector<NamedFile>& outputs,
                            const std::vector<NamedFile>& inputs) {
  for (auto output = outputs.begin(); output != outputs.end(); ++output) {
    if (output->path.empty()) continue;
    std::vector<NamedFile> others = inputs;
    others.insert(others.end(), outputs.begin(), output);
    for (const NamedFile& other : others) {
      if (other.path.empty() || !SameFile(output->path, other.path)) continue;
      return absl::StrCat(output->name, " ", output->path, " would replace ", other.name, " ",
                          other.path, ": they are one file");
    }
  }
  return "";
}

}  // namespace ramjet
