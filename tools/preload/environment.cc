#include "tools/preload/environment.h"

#include <dlfcn.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "tools/preload/settings.h"

namespace ramjet {
namespace {

// What the dynamic linker needs to know of a program. Zeros where the program says nothing.
class DynamicSection {
 public:
  explicit DynamicSection(const dl_phdr_info& program) : base_(program.dlpi_addr) {
    for (const auto& segment : absl::MakeSpan(program.dlpi_phdr, program.dlpi_phnum)) {
      if (segment.p_type != PT_DYNAMIC) continue;
      entries_ = reinterpret_cast<const Entry*>(base_ + segment.p_vaddr);
    }
  }

  uint64_t Number(int64_t tag) const {
    for (const auto* entry = entries_; entry != nullptr && entry->d_tag != DT_NULL; ++entry) {
      if (entry->d_tag == tag) return entry->d_un.d_val;
    }
    return 0;
  }
  // glibc has added the base to addresses where it may write to the section.
  uint64_t Address(int64_t tag) const {
    const uint64_t address = Number(tag);
    return address != 0 && address < base_ ? base_ + address : address;
  }

 private:
  using Entry = ElfW(Dyn);
  const uint64_t base_;
  const Entry* entries_ = nullptr;
};

struct Imports {
  bool preadv = false;
  bool mlockall = false;
};

// Of the relocations, as the symbol table does not always tell its length. Those without a symbol,
// nearly all, come first and are left out.
Imports ImportsOf(const DynamicSection& program) {
  const auto* const symbols = reinterpret_cast<const ElfW(Sym)*>(program.Address(DT_SYMTAB));
  const auto* const names = reinterpret_cast<const char*>(program.Address(DT_STRTAB));
  Imports imports;
  const auto look = [&](uint64_t table, uint64_t bytes, uint64_t skipped) {
    const absl::Span<const ElfW(Rela)> relocations(reinterpret_cast<const ElfW(Rela)*>(table),
                                                   bytes / sizeof(ElfW(Rela)));
    for (const auto& relocation : relocations.subspan(skipped)) {
      const ElfW(Sym)& symbol = symbols[ELF64_R_SYM(relocation.r_info)];
      if (symbol.st_shndx != SHN_UNDEF) continue;
      const absl::string_view name(names + symbol.st_name);
      imports.preadv = imports.preadv || name == "preadv64" || name == "preadv";
      imports.mlockall = imports.mlockall || name == "mlockall";
    }
  };
  if (symbols == nullptr || names == nullptr) return imports;
  look(program.Address(DT_RELA), program.Number(DT_RELASZ), program.Number(DT_RELACOUNT));
  look(program.Address(DT_JMPREL), program.Number(DT_PLTRELSZ), 0);
  return imports;
}

}  // namespace

bool MayBeEmulator() {
  Imports imports;
  dl_iterate_phdr(
      [](dl_phdr_info* program, size_t, void* result) {
        *static_cast<Imports*>(result) = ImportsOf(DynamicSection(*program));
        return 1;  // the program itself comes first
      },
      &imports);
  return imports.preadv && imports.mlockall;
}

void LeaveEnvironment() {
  for (const char* const variable : kAllVariables) unsetenv(variable);
  const char* const preload = std::getenv("LD_PRELOAD");
  Dl_info self;
  if (preload == nullptr || dladdr(reinterpret_cast<void*>(&LeaveEnvironment), &self) == 0) return;
  const auto base_name = [](absl::string_view path) { return path.substr(path.rfind('/') + 1); };
  std::string others;
  for (const absl::string_view entry :
       absl::StrSplit(preload, absl::ByAnyChar(": "), absl::SkipEmpty())) {
    if (base_name(entry) == base_name(self.dli_fname)) continue;
    absl::StrAppend(&others, others.empty() ? "" : ":", entry);
  }
  if (others.empty()) {
    unsetenv("LD_PRELOAD");
  } else {
    setenv("LD_PRELOAD", others.c_str(), 1);
  }
}

}  // namespace ramjet
