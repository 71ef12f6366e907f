// ThreadSanitizer takes no note of what happens inside absl::Mutex, for that is annotated as a
// whole, and then wonders how one thread came by another's semaphore.
// NOLINTBEGIN(bugprone-reserved-identifier): the sanitizer's name
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() {
  return "race:synchronization_internal::Waiter::\n";
}
// NOLINTEND(bugprone-reserved-identifier)
