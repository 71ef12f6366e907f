#include "loader/huge_page_policy.h"

#include <algorithm>
#include <cstdint>
#include <functional>

namespace ramjet {

void HugePagePolicy::Add(const RamBlock& block, HugePages huge) {
  absl::MutexLock lock(&mu_);
  added_.push_back(&block);
  of_[block.index()].store(huge);
}

bool HugePagePolicy::DecideIsHuge(const RamBlock& block, PageRun window) {
  if (of(block) == HugePages::kUndecided) DecideAll();
  return IsHuge(block, window);
}

void HugePagePolicy::DecideAll() {
  absl::MutexLock one_asks(&asking_);
  std::vector<const RamBlock*> undecided;
  uintptr_t start = UINTPTR_MAX;
  uintptr_t end = 0;
  {
    absl::MutexLock lock(&mu_);
    for (const RamBlock* block : added_) {
      if (of(*block) != HugePages::kUndecided) continue;
      undecided.push_back(block);
      start = std::min(start, block->host());
      end = std::max(end, block->host() + block->length());
    }
  }
  if (undecided.empty()) return;
  const std::function<HugePages(const RamBlock&)> answer = AskForHugePages(start, end);
  for (const RamBlock* block : undecided) of_[block->index()].store(answer(*block));
}

}  // namespace ramjet
