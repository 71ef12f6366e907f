#include "tools/bench/one_page_loader.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "uffd/uapi.h"

namespace ramjet::bench {
namespace {

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "one-page handler: %s: %s\n", what, std::strerror(errno));
  std::_Exit(1);
}

void Watch(int epoll, int fd) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) Die("epoll_ctl");
}

}  // namespace

absl::StatusOr<std::unique_ptr<OnePageLoader>> OnePageLoader::Start(int file,
                                                                    const SnapshotBlock& block,
                                                                    const PageBitmap& nonzero,
                                                                    absl::Span<uint8_t> memory,
                                                                    bool prefault) {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open();
  if (!uffd.ok()) return uffd.status();
  const auto abilities = uffd->Register(reinterpret_cast<uintptr_t>(memory.data()), memory.size());
  if (!abilities.ok()) return abilities.status();
  std::unique_ptr<OnePageLoader> loader(
      new OnePageLoader(file, block, nonzero, memory, prefault, *std::move(uffd)));
  loader->thread_ = std::thread(&OnePageLoader::Serve, loader.get());
  return loader;
}

OnePageLoader::OnePageLoader(int file, const SnapshotBlock& block, const PageBitmap& nonzero,
                             absl::Span<uint8_t> memory, bool prefault, Userfaultfd uffd)
    : file_(file),
      block_(block),
      nonzero_(nonzero),
      memory_(memory),
      prefault_(prefault),
      uffd_(std::move(uffd)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      loaded_(block.pages()),
      missing_(block.nonzero_pages),
      buffer_(block.page_size) {
  Watch(epoll_.get(), uffd_.fd());
  Watch(epoll_.get(), stop_.get());
}

OnePageLoader::~OnePageLoader() {
  eventfd_write(stop_.get(), 1);
  thread_.join();
}

void OnePageLoader::Serve() {
  uint64_t next = 0;
  while (!prefault_ || missing_ > 0) {
    epoll_event event = {};
    const int ready = epoll_wait(epoll_.get(), &event, 1, prefault_ ? 0 : -1);
    if (ready < 0 && errno != EINTR) Die("epoll_wait");
    if (ready > 0 && event.data.fd == stop_.get()) break;
    if (ready > 0) {
      TakeFault();
    } else if (prefault_) {
      while (loaded_[next] || !nonzero_.Test(next)) ++next;
      LoadPage(next);
    }
  }
  // Wakes who sleeps on a page that is zero.
  if (!uffd_.Unregister(reinterpret_cast<uintptr_t>(memory_.data()), memory_.size()).ok()) {
    Die("UFFDIO_UNREGISTER");
  }
  complete_.Notify();
}

void OnePageLoader::TakeFault() {
  uapi::Message message = {};
  const ssize_t got = read(uffd_.fd(), &message, sizeof(message));
  if (got < 0 && errno == EAGAIN) return;
  if (got != sizeof(message)) Die("read");
  if (message.event != uapi::kEventPageFault) return;
  const uint64_t page =
      (message.arg.pagefault.address - reinterpret_cast<uintptr_t>(memory_.data())) /
      block_.page_size;
  if (!nonzero_.Test(page)) {
    InstallZero(page);
  } else if (!loaded_[page]) {
    LoadPage(page);
    faulted_pages_.fetch_add(1, std::memory_order_relaxed);  // only a statistic
  }
}

void OnePageLoader::LoadPage(uint64_t page) {
  const uint64_t offset = page * block_.page_size;
  const auto wanted = static_cast<ssize_t>(block_.page_size);
  if (pread(file_, buffer_.data(), block_.page_size,
            static_cast<off_t>(block_.pages_offset + offset)) != wanted) {
    Die("pread");
  }
  uapi::Copy copy = {};
  copy.dst = reinterpret_cast<uintptr_t>(memory_.data()) + offset;
  copy.src = reinterpret_cast<uintptr_t>(buffer_.data());
  copy.len = block_.page_size;
  if (ioctl(uffd_.fd(), uapi::kIoctlCopy, &copy) != 0) Die("UFFDIO_COPY");
  loaded_[page] = true;
  --missing_;
}

// Two vCPUs may have met in it: the second finds it there, and needs no more than to be woken.
void OnePageLoader::InstallZero(uint64_t page) {
  uapi::ZeroPage zero = {};
  zero.range.start = reinterpret_cast<uintptr_t>(memory_.data()) + page * block_.page_size;
  zero.range.len = block_.page_size;
  if (ioctl(uffd_.fd(), uapi::kIoctlZeroPage, &zero) == 0) return;
  if (errno != EEXIST) Die("UFFDIO_ZEROPAGE");
  uffd_.Wake(zero.range.start, zero.range.len);
}

}  // namespace ramjet::bench
