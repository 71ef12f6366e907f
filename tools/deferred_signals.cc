#include "tools/deferred_signals.h"

#include <signal.h>

#include <initializer_list>

namespace ramjet {

sigset_t EndingSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction current = {};
    sigaction(signal, nullptr, &current);
    if (current.sa_handler != SIG_IGN) sigaddset(&signals, signal);
  }
  return signals;
}

DeferredSignals::DeferredSignals() : signals_(EndingSignals()) {
  pthread_sigmask(SIG_BLOCK, &signals_, &mask_before_);
}

DeferredSignals::~DeferredSignals() { pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr); }

bool DeferredSignals::Came() const {
  sigset_t pending;
  sigpending(&pending);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (sigismember(&pending, signal) == 1 && sigismember(&signals_, signal) == 1) return true;
  }
  return false;
}

}  // namespace ramjet
