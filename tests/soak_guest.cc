#include "tests/soak_guest.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "loader/snapshot_loader.h"
#include "tests/loader_testing.h"

namespace ramjet::soak {
namespace {

// The model is the memory's, so a sanitizer would be right to complain of a page that its owner
// writes at the same time; what it holds then is checked as far as it can be.
__attribute__((no_sanitize("thread"))) Word ReadRacing(const Word* word) {
  return *static_cast<const volatile Word*>(word);
}

}  // namespace

Guest::Guest(Vm& vm, unsigned number, uint64_t seed, Doing& doing)
    : vm_(vm),
      number_(number),
      random_(seed),
      doing_(doing),
      buffer_(WordsPerPage()),
      expected_(WordsPerPage()) {
  if (pipe2(pipe_, O_CLOEXEC) != 0) Die("no pipe");
  memfd_ = memfd_create("guest file", MFD_CLOEXEC);
  if (memfd_ < 0) Die("no memfd");
}

Guest::~Guest() {
  close(pipe_[0]);
  close(pipe_[1]);
  close(memfd_);
}

void Guest::Run(uint64_t ops) {
  doing_here = &doing_;
  for (uint64_t i = 0; i < ops; ++i) {
    Step();
    vm_.ops.fetch_add(1);
  }
  doing_here = nullptr;
}

void Guest::Step() {
  const size_t b = random_.Percent(60) ? 0 : random_.Below(vm_.blocks.size());
  Block& block = vm_.blocks[b];
  if (!block.ready.load()) return;
  const uint64_t page = random_.Below(block.model.size());
  const Extent& extent = block.extents[block.extent_of[page]];
  const bool by_kernel = vm_.ending == Ending::kAbandoned || random_.Percent(25) ||
                         vm_.storage.fate(b, page) != Fate::kSound;
  const uint64_t draw = random_.Below(100);
  if (extent.owner == kNobody) return CompareWhole(b, page, by_kernel);
  if (extent.owner != static_cast<int>(number_)) {
    if (!extent.exclusive) TouchForeign(b, page, by_kernel);
    return;
  }
  if (block.model[page].unmapped) return;
  if (draw < 40) {
    CompareWhole(b, page, by_kernel);
  } else if (draw < 75) {
    Write(b, page, by_kernel);
  } else if (draw < 98 || !extent.exclusive) {
    Discard(b, extent, page);
  } else {
    Unmap(b, extent, page);
  }
}

void Guest::CompareWhole(size_t b, uint64_t page, bool by_kernel) {
  const NowDoing doing(doing_, by_kernel ? "system call reads" : "read", b, page);
  const Block& block = vm_.blocks[b];
  const Word* memory = reinterpret_cast<const Word*>(block.ram->data(page));
  if (by_kernel) {
    if (!KernelRead(memory, buffer_.data(), HostPageBytes())) return CheckRefusal(b, page);
    memory = buffer_.data();
  }
  const PageModel& model = block.model[page];
  const PageWords words = WordsOf(b, page);
  if (vm_.storage.fate(b, page) == Fate::kBroken && model.base == kOriginal) {
    vm_.Fail(absl::StrCat("block ", b, ", page ", page,
                          " cannot be read from storage, but the guest can read it; first word ",
                          absl::Hex(memory[0])));
  }
  for (size_t i = 0; i < WordsPerPage(); ++i) expected_[i] = words.At(i, model.VersionOf(i));
  size_t differing = 0;
  size_t first = 0;
  for (size_t i = WordsPerPage(); i-- > 0;) {
    if (memory[i] != expected_[i]) ++differing, first = i;
  }
  TheTotals().bytes.fetch_add(HostPageBytes(), std::memory_order_relaxed);
  if (differing == 0) return;
  vm_.Fail(absl::StrCat(
      "block ", b, " (", block.ram->kind() == BlockMemory::kShared ? "shared" : "private",
      "), page ", page, ", differing bytes ", differing * sizeof(Word), ", first at byte ",
      first * sizeof(Word), ": ", absl::Hex(memory[first]), ", expected ",
      absl::Hex(expected_[first]),
      memory[first] == words.At(first, kOriginal) ? " (it is the snapshot's content)" : "",
      by_kernel ? ", read by a system call" : "", ", guest ", number_));
}

// A read or write of a page was refused by the kernel.
void Guest::CheckRefusal(size_t b, uint64_t page) {
  TheTotals().unreadable.fetch_add(1, std::memory_order_relaxed);
  if (vm_.abandoning.load()) return;
  const Block& block = vm_.blocks[b];
  const PageModel& model = block.model[page];
  const Fate fate = vm_.storage.fate(b, page);
  if (fate == Fate::kBroken && model.base == kOriginal) return;
  vm_.Fail(absl::StrCat("block ", b, ", page ", page, ": access refused (", std::strerror(errno),
                        "), fate ", static_cast<int>(fate), ", base ", absl::Hex(model.base),
                        ", guest ", number_));
}

void Guest::Write(size_t b, uint64_t page, bool by_kernel) {
  const NowDoing doing(doing_, by_kernel ? "system call writes" : "write", b, page);
  Block& block = vm_.blocks[b];
  PageModel& model = block.model[page];
  const PageWords words = WordsOf(b, page);
  const size_t words_per_slot = WordsPerPage() / kSlots;
  const bool whole = random_.Percent(20);
  const size_t slot = whole ? 0 : random_.Below(kSlots);
  const size_t from = slot * words_per_slot;
  const size_t count = whole ? WordsPerPage() : words_per_slot;
  ++version_;
  for (size_t i = 0; i < count; ++i) buffer_[i] = words.At(from + i, version_);
  Word* const memory = reinterpret_cast<Word*>(block.ram->data(page)) + from;
  if (by_kernel) {
    if (!KernelWrite(memory, buffer_.data(), count * sizeof(Word))) return CheckRefusal(b, page);
  } else {
    std::copy_n(buffer_.begin(), count, memory);
  }
  if (whole) {
    model.written.fill(version_);
  } else {
    model.written[slot] = version_;
  }
}

void Guest::Discard(size_t b, const Extent& extent, uint64_t page) {
  Block& block = vm_.blocks[b];
  const uint64_t longest = random_.Percent(80) ? 16 : 2000;
  uint64_t count = std::min(random_.Between(1, longest), extent.run.end() - page);
  for (uint64_t i = 1; i < count; ++i) {
    if (block.model[page + i].unmapped) count = i;
  }
  for (uint64_t i = 0; i < count; ++i) block.discarded[page + i].store(true);
  uint8_t* const start = block.ram->data(page);
  const uint64_t length = count * HostPageBytes();
  // Nobody may ask a loader for anything that is about to be destroyed.
  const bool may_ask = vm_.ending != Ending::kDestroyed;
  bool done;
  if (block.ram->kind() == BlockMemory::kPrivate) {
    const NowDoing doing(doing_, "MADV_DONTNEED", b, page);
    done = madvise(start, length, MADV_DONTNEED) == 0;
  } else if (may_ask && random_.Percent(50)) {
    const NowDoing doing(doing_, "Discard() and a hole in the file", b, page);
    vm_.loader->Discard(reinterpret_cast<uintptr_t>(start),
                        reinterpret_cast<uintptr_t>(start) + length);
    done = fallocate(block.ram->memfd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     static_cast<off_t>(page * HostPageBytes()), static_cast<off_t>(length)) == 0;
  } else {
    const NowDoing doing(doing_, "MADV_REMOVE", b, page);
    if (may_ask && random_.Percent(50)) {
      vm_.loader->Discard(reinterpret_cast<uintptr_t>(start),
                          reinterpret_cast<uintptr_t>(start) + length);
    }
    done = madvise(start, length, MADV_REMOVE) == 0;
  }
  if (!done) vm_.Fail(absl::StrCat("cannot discard: ", std::strerror(errno)));
  for (uint64_t i = 0; i < count; ++i) block.model[page + i] = {};
  TheTotals().discards.fetch_add(1, std::memory_order_relaxed);
}

void Guest::Unmap(size_t b, const Extent& extent, uint64_t page) {
  const NowDoing doing(doing_, "munmap", b, page);
  Block& block = vm_.blocks[b];
  uint64_t end = page;
  while (end < extent.run.end() && !block.model[end].unmapped) {
    block.model[end++].unmapped = true;
  }
  // Abandon() makes the whole range of a block inaccessible, whatever is mapped there by then.
  const bool reserve = vm_.ending == Ending::kAbandoned || random_.Percent(50);
  block.ram->Unmap({page, end - page}, reserve);
  TheTotals().unmaps.fetch_add(1, std::memory_order_relaxed);
}

// One word of a page that its owner may be changing right now.
void Guest::TouchForeign(size_t b, uint64_t page, bool by_kernel) {
  const NowDoing doing(doing_, by_kernel ? "system call reads another's" : "read another's", b,
                       page);
  const Block& block = vm_.blocks[b];
  const size_t i = random_.Below(WordsPerPage());
  const Word* const memory = reinterpret_cast<const Word*>(block.ram->data(page)) + i;
  Word word;
  if (by_kernel) {
    if (!KernelRead(memory, &word, sizeof(word))) {
      TheTotals().unreadable.fetch_add(1, std::memory_order_relaxed);
      if (vm_.abandoning.load() || vm_.storage.fate(b, page) != Fate::kSound) return;
      vm_.Fail(absl::StrCat("block ", b, ", page ", page, ": access refused to guest ", number_));
    }
  } else {
    word = ReadRacing(memory);
  }
  TheTotals().bytes.fetch_add(sizeof(word), std::memory_order_relaxed);
  const PageWords words = WordsOf(b, page);
  const auto version = static_cast<uint32_t>(word);
  // A word that is written is of this place; a zero is the file's, or somebody's discard.
  const bool plausible = word == 0 ? !vm_.layout.blocks[b].has[page] || block.discarded[page].load()
                         : version == kOriginal
                             ? vm_.layout.blocks[b].has[page] && word == words.At(i, version)
                             : version < kOriginal && version != 0 && word == words.At(i, version);
  if (plausible) return;
  vm_.Fail(absl::StrCat("block ", b, ", page ", page, ", differing bytes 8, at byte ",
                        i * sizeof(Word), ": ", absl::Hex(word), " never was there; guest ",
                        number_));
}

// Reads guest memory as the kernel does for a guest's I/O; false if it may not. Not through the
// C library, where a sanitizer would see a read of what another guest may be writing.
bool Guest::KernelRead(const void* addr, void* to, size_t length) {
  const auto bytes = static_cast<int64_t>(length);
  switch (random_.Below(3)) {
    case 0: {
      const iovec local{.iov_base = to, .iov_len = length};
      const iovec remote{.iov_base = const_cast<void*>(addr), .iov_len = length};
      return syscall(SYS_process_vm_readv, getpid(), &local, 1, &remote, 1, 0) == bytes;
    }
    case 1:
      return syscall(SYS_write, pipe_[1], addr, length) == bytes &&
             read(pipe_[0], to, length) == bytes;
    default:
      return syscall(SYS_pwrite64, memfd_, addr, length, 0) == bytes &&
             pread(memfd_, to, length, 0) == bytes;
  }
}

bool Guest::KernelWrite(void* addr, const void* from, size_t length) {
  const auto bytes = static_cast<int64_t>(length);
  switch (random_.Below(3)) {
    case 0: {
      const iovec local{.iov_base = const_cast<void*>(from), .iov_len = length};
      const iovec remote{.iov_base = addr, .iov_len = length};
      return syscall(SYS_process_vm_writev, getpid(), &local, 1, &remote, 1, 0) == bytes;
    }
    case 1: {
      if (write(pipe_[1], from, length) != bytes) Die("pipe");
      if (syscall(SYS_read, pipe_[0], addr, length) == bytes) return true;
      const int refused = errno;
      if (read(pipe_[0], expected_.data(), length) != bytes) Die("pipe");  // it is still there
      errno = refused;
      return false;
    }
    default:
      if (pwrite(memfd_, from, length, 0) != bytes) Die("memfd");
      return syscall(SYS_pread64, memfd_, addr, length, 0) == bytes;
  }
}

}  // namespace ramjet::soak
