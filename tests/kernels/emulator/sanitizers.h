// What AddressSanitizer and ThreadSanitizer must be told about fibers, as functions that do nothing without them.
//
// ThreadSanitizer sees one thread of execution per CUDA thread. A switch orders nothing; only what orders memory on a
// GPU does: the start and the end of a launch, __syncthreads and __syncwarp. The emulator's own bookkeeping is Quiet.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#define EMULATOR_UNINSTRUMENTED __attribute__((noinline, no_sanitize("thread")))
#else
#define EMULATOR_UNINSTRUMENTED
#endif

namespace emulator {

#if defined(__SANITIZE_THREAD__)
constexpr bool RACES_ARE_WATCHED = true;
// ThreadSanitizer knows about 8,100 threads at a time, and a launch keeps all of its own: a reused one hides races.
constexpr long MOST_WATCHED_THREADS = 8000;
#else
constexpr bool RACES_ARE_WATCHED = false;
constexpr long MOST_WATCHED_THREADS = 0;
#endif

// While one lives, ThreadSanitizer overlooks this thread's reads and writes.
struct Quiet {
#if defined(__SANITIZE_THREAD__)
  Quiet() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Quiet() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
#else
  Quiet() {}
  ~Quiet() {}
#endif
};

// Everything done before release(place) by any thread is visible after acquire(place) by another.
inline void release([[maybe_unused]] void* place) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(place);
#endif
}
inline void acquire([[maybe_unused]] void* place) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(place);
#endif
}

inline void forbid([[maybe_unused]] void* from, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(from, bytes);
#endif
}
inline void allow([[maybe_unused]] void* from, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(from, bytes);
#endif
}

}  // namespace emulator
