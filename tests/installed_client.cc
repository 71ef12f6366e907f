// A VMM in C++ as its author would write it, built against what tools/install has installed: two
// blocks of RAM, one of them shared, vCPUs that are threads, and a guest that ends while it is
// being loaded. Exit status: 0 all as promised; 77 this machine lets nobody serve page faults.
#include <ramjet.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kPages = 2048;
constexpr std::uint64_t kLength = kPages * kPageBytes;

// The library is C, and does not mind that its user is not.
class Error : public std::runtime_error {
 public:
  Error(int line, std::int64_t result)
      : std::runtime_error("installed_client.cc:" + std::to_string(line) + ": " +
                           std::to_string(result) + ": " + ramjet_error()) {}
};
#define EXPECT_RESULT(expected, call)                        \
  do {                                                       \
    const std::int64_t actual = (call);                      \
    if (actual != (expected)) throw Error(__LINE__, actual); \
  } while (false)

struct Close {
  void operator()(ramjet_load* load) const { ramjet_close(load); }
};
using Load = std::unique_ptr<ramjet_load, Close>;

class Memory {
 public:
  explicit Memory(bool shared) : shared_(shared) {
    const int fd = shared ? memfd_create("guest", 0) : -1;
    if (shared && ftruncate(fd, kLength) != 0) throw std::runtime_error("ftruncate");
    void* const memory = mmap(nullptr, kLength, PROT_READ | PROT_WRITE,
                              shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("mmap");
    if (shared) close(fd);
    bytes_ = static_cast<unsigned char*>(memory);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { munmap(bytes_, kLength); }

  unsigned char* bytes() const { return bytes_; }
  bool shared() const { return shared_; }

 private:
  const bool shared_;
  unsigned char* bytes_;
};

unsigned char ContentOf(std::uint64_t page) {
  return static_cast<unsigned char>(page % 3 == 0 ? 0 : page % 250 + 1);
}

void Save(const std::string& path) {
  const Memory memory(false);
  for (std::uint64_t i = 0; i < kLength; ++i) memory.bytes()[i] = ContentOf(i / kPageBytes);
  std::vector<ramjet_save_block> blocks;
  for (const char* const idstr : {"private", "shared"}) {
    blocks.push_back({idstr, memory.bytes(), kLength});
  }
  EXPECT_RESULT(0, ramjet_save(path.c_str(), blocks.data(), blocks.size(), nullptr, 0));
}

Load Open(const std::string& path) {
  ramjet_options options = RAMJET_OPTIONS_INIT;
  options.eager_threads = 1;
  ramjet_load* load = nullptr;
  const int result = ramjet_open(path.c_str(), &options, &load);
  if (result == -EPERM || result == -ENOSYS) {
    std::printf("SKIPPED: %s\n", ramjet_error());
    std::exit(77);
  }
  EXPECT_RESULT(0, result);
  return Load(load);
}

void Attach(const Load& load, const char* idstr, const Memory& memory) {
  ramjet_block block = RAMJET_BLOCK_INIT;
  block.idstr = idstr;
  block.host = memory.bytes();
  block.length = kLength;
  block.memory = memory.shared() ? RAMJET_SHARED : RAMJET_PRIVATE;
  EXPECT_RESULT(0, ramjet_attach(load.get(), &block));
}

// One vCPU: reads every byte of its share of the pages.
void Run(const Memory& memory, std::uint64_t first, std::uint64_t step, bool* right) {
  for (std::uint64_t page = first; page < kPages; page += step) {
    for (std::uint64_t i = 0; i < kPageBytes; ++i) {
      if (memory.bytes()[page * kPageBytes + i] != ContentOf(page)) return;
    }
  }
  *right = true;
}

void RestoreWhileGuestRuns(const std::string& path) {
  const Memory own(false), shared(true);
  const Load load = Open(path);
  Attach(load, "private", own);
  Attach(load, "shared", shared);
  bool right[3] = {};
  std::vector<std::thread> vcpus;
  vcpus.emplace_back(Run, std::cref(own), 0, 2, &right[0]);
  vcpus.emplace_back(Run, std::cref(own), 1, 2, &right[1]);
  vcpus.emplace_back(Run, std::cref(shared), 0, 1, &right[2]);
  EXPECT_RESULT(0, ramjet_start_eager(load.get()));
  EXPECT_RESULT(0, ramjet_wait(load.get(), -1));
  for (std::thread& vcpu : vcpus) vcpu.join();
  if (!right[0] || !right[1] || !right[2]) throw std::runtime_error("a vCPU read a wrong byte");
}

void EndGuestWhileItIsLoaded(const std::string& path) {
  const Memory memory(false);
  const Load load = Open(path);
  Attach(load, "private", memory);
  EXPECT_RESULT(-ETIMEDOUT, ramjet_wait(load.get(), 1));
  EXPECT_RESULT(0, ramjet_abandon(load.get()));
  EXPECT_RESULT(-ECANCELED, ramjet_wait(load.get(), -1));
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::fprintf(stderr, "usage: installed_client DIRECTORY\n");
    return 2;
  }
  const std::string path = std::string(argv[1]) + "/guest.mr";
  Save(path);
  RestoreWhileGuestRuns(path);
  EndGuestWhileItIsLoaded(path);
  std::printf("ramjet %s\n", ramjet_version());
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
