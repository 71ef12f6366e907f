// Whether two paths lead to one file.
#ifndef RAMJET_TOOLS_SAME_FILE_H_
#define RAMJET_TOOLS_SAME_FILE_H_

#include <string>
#include <vector>

namespace ramjet {

// By whatever names: relative, through symbolic links, or as hard links. Also of a file that is not
// there yet.
bool SameFile(const std::string& a, const std::string& b);

// A file that a command reads or writes, and what the user calls it: "IN", "--base".
struct NamedFile {
  std::string name = {};
  std::string path = {};  // empty: there is none
};

// What is wrong if one of `outputs` is one of `inputs`, or another output; empty if none is.
std::string WhichIsReplaced(const std::vector<NamedFile>& outputs,
                            const std::vector<NamedFile>& inputs);

}  // namespace ramjet

#endif  // RAMJET_TOOLS_SAME_FILE_H_
