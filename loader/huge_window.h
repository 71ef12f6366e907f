// Which stretches of a block may arrive as transparent huge pages.
#ifndef RAMJET_LOADER_HUGE_WINDOW_H_
#define RAMJET_LOADER_HUGE_WINDOW_H_

#include <cstdint>
#include <functional>

#include "loader/ram_block.h"
#include "mappedram/page_bitmap.h"

namespace ramjet {

// Where a block may arrive as transparent huge pages, which also bring memory for the pages of
// zeros among them.
enum class HugePages {
  kUndecided,        // perhaps: what its owner and the host want is still to be asked
  kNever,            // not private anonymous memory of small pages, or the kernel cannot move them
  kWhereHalfFull,    // in ranges of which at least half has content
  kWhereAnyContent,  // wherever a plain read into the memory would have made one: memory for which
                     // the host or its owner wants them
};

// The pages of a whole window; 1 if one is larger.
uint64_t WindowPages(const RamBlock& block);

// The window around `page`: what its block has of the host's huge page there.
PageRun WindowOf(const RamBlock& block, uint64_t page);

// Whether `window` is to arrive as a huge page: it is a whole one, and has the content for it.
bool IsHugeWindow(const RamBlock& block, PageRun window, HugePages huge);

// Asks the host and /proc/self/smaps, which takes a while; answers for blocks of private memory of
// small pages that lie in [start, end). The lower its end, the fewer mappings have to be read.
std::function<HugePages(const RamBlock&)> AskForHugePages(uintptr_t start, uintptr_t end);

}  // namespace ramjet

#endif  // RAMJET_LOADER_HUGE_WINDOW_H_
