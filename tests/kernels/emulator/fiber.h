// A fiber is a stack of its own and a place to continue on it: what one CUDA thread is here.
//
// A switch saves the six registers that a called function must keep, exchanges the stack pointer, and returns: tens of
// nanoseconds, where ucontext takes hundreds (it asks the kernel for the signal mask) and threads take thousands.
// x86-64, System V. Floating-point control words are left alone: kernels do not change them.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "sanitizers.h"

#if !defined(__x86_64__)
#error "the emulator's stack switch is written for x86-64; add one for this processor in fiber.h"
#endif

extern "C" void emulator_switch_stack(void** save, void* load);
asm(R"(
  .pushsection .text
  .weak emulator_switch_stack
  .type emulator_switch_stack, @function
emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulator_switch_stack, .-emulator_switch_stack
  .popsection
)");

namespace emulator {

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr size_t GUARD_BYTES = 4096;  // below each stack: a fiber that outgrows it faults instead of writing next door

struct Fiber {
  void* stack_pointer = nullptr;
  const void* stack = nullptr;  // lowest address
  size_t stack_bytes = 0;
  void* address_sanitizer = nullptr;  // its frames on the sanitizer's own stack
  void* thread_sanitizer = nullptr;
};

// Stop `from`, continue `to`. `over` says that `from` never continues.
EMULATOR_UNINSTRUMENTED inline void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool over) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(over ? nullptr : &from.address_sanitizer, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.thread_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  emulator_switch_stack(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.address_sanitizer, nullptr, nullptr);
#endif
}

// The first thing a fiber does, before it touches its stack: tells the sanitizer where it came from.
inline void arrive_first([[maybe_unused]] Fiber& came_from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &came_from.stack, &came_from.stack_bytes);
#endif
}

#if defined(__SANITIZE_THREAD__)
// ThreadSanitizer's side of fibers is dear to make, so launches share it; within one launch none serves twice, for a
// second block's thread would seem to come after the first block's, and a race between the two would be missed.
inline thread_local std::vector<void*> watched;
inline thread_local size_t watched_in_launch = 0;
inline void* next_watched() {
  if (watched_in_launch == watched.size()) watched.push_back(__tsan_create_fiber(0));
  return watched[watched_in_launch++];
}
inline void forget_watched() { watched_in_launch = 0; }
#else
inline void forget_watched() {}
#endif

// Make `fiber` start `entry` (which never returns) on the stack at `stack`.
inline void prepare(Fiber& fiber, char* stack, void (*entry)()) {
  allow(stack, STACK_BYTES);
  fiber.stack = stack;
  fiber.stack_bytes = STACK_BYTES;
  void** top = reinterpret_cast<void**>(stack + STACK_BYTES);
  *--top = nullptr;  // the return address of entry: none
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#if defined(__SANITIZE_THREAD__)
  fiber.thread_sanitizer = next_watched();
#endif
}

inline void note_own_fiber([[maybe_unused]] Fiber& fiber) {
#if defined(__SANITIZE_THREAD__)
  fiber.thread_sanitizer = __tsan_get_current_fiber();
#endif
}

// The stacks of one block after another: mapped once, and mapped anew under ThreadSanitizer, which remembers who wrote.
class Stacks {
 public:
  ~Stacks() { unmap(); }
  char* stack(size_t number) { return base_ + number * SPACING + GUARD_BYTES; }
  void make_room(size_t count) {
    if (count <= count_ && !RACES_ARE_WATCHED) return;
    unmap();
    void* mapped = mmap(nullptr, count * SPACING, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
      std::perror("emulator: mmap of the fibers' stacks");
      std::abort();
    }
    base_ = static_cast<char*>(mapped);
    count_ = count;
    if (RACES_ARE_WATCHED) return;  // a system call a fiber and block: too slow, and the other builds have the guards
    for (size_t i = 0; i < count; ++i) mprotect(base_ + i * SPACING, GUARD_BYTES, PROT_NONE);
  }

 private:
  static constexpr size_t SPACING = STACK_BYTES + GUARD_BYTES;
  void unmap() {
    if (base_ != nullptr) munmap(base_, count_ * SPACING);
    base_ = nullptr;
    count_ = 0;
  }
  char* base_ = nullptr;
  size_t count_ = 0;
};

}  // namespace emulator
