#include "mappedram/parallel.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace ramjet {
namespace {

void* ThreadMain(void* work) {
  (*static_cast<absl::FunctionRef<void()>*>(work))();
  return nullptr;
}

}  // namespace

unsigned ThreadCount(unsigned wanted) {
  constexpr unsigned kMaxThreads = 64;
  constexpr unsigned kEnough = 4;  // for any disk
  return wanted != 0 ? std::min(wanted, kMaxThreads)
                     : std::clamp(std::thread::hardware_concurrency(), 1u, kEnough);
}

void RunOnThreads(unsigned threads, absl::FunctionRef<void()> work) {
  std::vector<pthread_t> started;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (unsigned i = 1; i < threads; ++i) {
    pthread_t id;
    if (pthread_create(&id, nullptr, ThreadMain, &work) != 0) break;
    started.push_back(id);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  work();
  for (const pthread_t id : started) pthread_join(id, nullptr);
}

}  // namespace ramjet
