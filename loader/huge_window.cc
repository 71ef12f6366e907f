#include "loader/huge_window.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "loader/page_buffer.h"
#include "uffd/mappings.h"

namespace ramjet {
namespace {

// Whether the host has transparent huge pages at all, for memory that asks for them.
bool HostHasHugePages() {
  std::array<char, 128> text{};
  const int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t length = read(fd, text.data(), text.size());
  close(fd);
  return length > 0 && std::string_view(text.data(), static_cast<size_t>(length)).find("[never]") ==
                           std::string_view::npos;
}

HugePages HugePagesFor(const RamBlock& block, const std::vector<RegisteredRange>& ranges) {
  for (const RegisteredRange& range : ranges) {
    if (block.host() < range.start || block.host() >= range.end) continue;
    switch (range.huge) {
      case HugeAdvice::kWanted:
        return HugePages::kWhereAnyContent;
      case HugeAdvice::kNone:
        return HugePages::kWhereHalfFull;
      case HugeAdvice::kUnwanted:
        return HugePages::kNever;
    }
  }
  return HugePages::kNever;
}

}  // namespace

uint64_t WindowPages(const RamBlock& block) {
  return std::max<uint64_t>(1, HugeStaging::kBytes / block.page_size());
}

PageRun WindowOf(const RamBlock& block, uint64_t page) {
  const uint64_t into = block.AddrOf(page) / block.page_size() % WindowPages(block);
  const uint64_t first = page - std::min(page, into);
  return {first, std::min(page - into + WindowPages(block), block.pages()) - first};
}

bool IsHugeWindow(const RamBlock& block, PageRun window, HugePages huge) {
  if (window.count < WindowPages(block)) return false;
  switch (huge) {
    case HugePages::kUndecided:
    case HugePages::kNever:
      return false;
    case HugePages::kWhereHalfFull:
      return block.CountNonzero(window) * 2 >= window.count;
    case HugePages::kWhereAnyContent:
      return block.CountNonzero(window) > 0;
  }
  return false;
}

std::function<HugePages(const RamBlock&)> AskForHugePages(uintptr_t start, uintptr_t end) {
  std::vector<RegisteredRange> ranges;  // where huge pages may be
  if (HostHasHugePages()) {
    absl::StatusOr<std::vector<RegisteredRange>> registered = RegisteredRanges(start, end);
    if (registered.ok()) ranges = *std::move(registered);
  }
  return
      [ranges = std::move(ranges)](const RamBlock& block) { return HugePagesFor(block, ranges); };
}

}  // namespace ramjet
