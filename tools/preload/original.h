// The function of libc, or of whichever library comes after ours, that one of ours stands before.
#ifndef RAMJET_TOOLS_PRELOAD_ORIGINAL_H_
#define RAMJET_TOOLS_PRELOAD_ORIGINAL_H_

#include <dlfcn.h>

#include <atomic>

namespace ramjet {

// Constant-initialized, because other libraries' constructors may call before ours has run.
template <typename Function>
class Original {
 public:
  constexpr explicit Original(const char* name) : name_(name) {}

  template <typename... Args>
  auto operator()(Args... args) {
    // relaxed: a thread that finds nothing looks it up, and finds the same.
    Function* const function = function_.load(std::memory_order_relaxed);
    return (function != nullptr ? function : Find())(args...);
  }

  // QEMU has a hundred libraries, all of which may have to be asked.
  Function* Find() {
    auto* const function = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name_));
    function_.store(function, std::memory_order_relaxed);
    return function;
  }

 private:
  const char* const name_;
  std::atomic<Function*> function_{nullptr};
};

template <typename... Functions>
void FindAll(Functions&... functions) {
  (functions.Find(), ...);
}

}  // namespace ramjet

#endif  // RAMJET_TOOLS_PRELOAD_ORIGINAL_H_
