// Lets a command that has something to clear up finish before Ctrl-C ends it.
#ifndef RAMJET_TOOLS_DEFERRED_SIGNALS_H_
#define RAMJET_TOOLS_DEFERRED_SIGNALS_H_

#include <signal.h>

namespace ramjet {

// SIGINT, SIGTERM and SIGHUP, but for those that nohup or a script has switched off.
sigset_t EndingSignals();

// While it lives, the signals that would end us wait, in this thread and in those started later.
// One that came takes effect when this is destroyed, so that the shell sees a death by signal.
class DeferredSignals {
 public:
  DeferredSignals();
  ~DeferredSignals();
  DeferredSignals(const DeferredSignals&) = delete;
  DeferredSignals& operator=(const DeferredSignals&) = delete;

  // Whether one came, and we should come to an end. Threads: any that has them blocked.
  bool Came() const;

 private:
  const sigset_t signals_;
  sigset_t mask_before_;
};

}  // namespace ramjet

#endif  // RAMJET_TOOLS_DEFERRED_SIGNALS_H_
