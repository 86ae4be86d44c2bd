// One CUDA block at a time on one processor thread: its fibers, its barrier, its warps, its shared memory.
//
// A fiber runs until it waits (__syncthreads, or a warp collective) or ends; then the next one in the chosen order
// runs. When nobody can run, the block is stuck, which on a GPU would be a hang: that, and every other misuse the
// emulator sees, ends the launch with an exception that says which thread did what.
// Shared memory starts as 0xFF bytes (NaN as a float, -1 as an int), so that forgetting to set it shows.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace emulator {

constexpr int WARP_LANES = 32;
constexpr size_t SHARED_ALIGNMENT = 128;
constexpr size_t LARGEST_SHUFFLED = 16;  // bytes of a value that lanes exchange

enum class State { ready, at_block_barrier, at_warp_collective, done };

struct Thread {
  Fiber fiber;
  State state = State::ready;
  uint3 index{};
  int number = 0;  // within the block
  unsigned barriers = 0;  // passed
  unsigned char received[LARGEST_SHUFFLED] = {};
  int lane() const { return number % WARP_LANES; }
  int warp() const { return number / WARP_LANES; }
};

// One warp collective that some lanes have reached: what each brought, and which lane it wants to hear from.
struct Collective {
  const char* name;
  unsigned mask;
  char* memory_order = nullptr;  // for __syncwarp: a place for release and acquire
  unsigned arrived = 0;
  unsigned char value[WARP_LANES][LARGEST_SHUFFLED] = {};
  int source[WARP_LANES] = {};
};

struct Warp {
  std::vector<std::unique_ptr<Collective>> open;
  std::vector<std::unique_ptr<char>> memory_order;  // a place for every __syncwarp: one for two would order too much
};

struct SharedArray {
  const void* key;
  void* data;
};

struct Block {
  dim3 grid, size;
  uint3 index{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<SharedArray> shared;
  void* dynamic_shared = nullptr;
  const std::function<void()>* kernel = nullptr;
  Fiber main;
  int waiting = 0, done = 0;
  std::string failure;
  // Places for release and acquire at every other __syncthreads: a thread that already waits at the next one must not
  // seem ordered before those that only now leave this one.
  char barrier_order[2] = {};
};

inline thread_local Block* block = nullptr;
inline thread_local Thread* thread = nullptr;
inline char launch_begins = 0, launch_ends = 0;  // places for release and acquire: launches follow one another

inline void continue_main(bool over) { switch_fiber(thread->fiber, block->main, over); }

// Wait in this state until someone makes the thread ready again.
inline void wait(State why) {
  thread->state = why;
  continue_main(false);
}

// End the whole launch: the message reaches the caller of the kernel as an exception.
[[noreturn]] inline void fail(const std::string& what) {
  block->failure = "block (" + std::to_string(block->index.x) + ", " + std::to_string(block->index.y) + ", " +
                   std::to_string(block->index.z) + ") thread " + std::to_string(thread->number) + ": " + what;
  continue_main(true);
  std::abort();  // not reached: a failed block continues none of its fibers
}

inline void* new_shared(size_t bytes) {
  size_t room = (bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
  void* data = aligned_alloc(SHARED_ALIGNMENT, room);
  std::memset(data, 0xFF, room);
  forbid(static_cast<char*>(data) + bytes, room - bytes);
  return data;
}

inline void free_shared(Block& of) {
  for (SharedArray& array : of.shared) std::free(array.data);
  std::free(of.dynamic_shared);
}

// The block's array of this type; `key` is an address of its own for every declaration.
template <class Array>
Array& shared_array(const void* key) {
  Quiet quiet;
  for (SharedArray& array : block->shared)
    if (array.key == key) return *static_cast<Array*>(array.data);
  block->shared.push_back({key, new_shared(sizeof(Array))});
  return *static_cast<Array*>(block->shared.back().data);
}

inline void block_barrier() {
  Quiet quiet;
  Block& here = *block;
  char* const order = &here.barrier_order[thread->barriers++ % 2];
  release(order);
  if (++here.waiting == static_cast<int>(here.threads.size())) {
    here.waiting = 0;
    for (Thread& other : here.threads) other.state = State::ready;
  } else {
    wait(State::at_block_barrier);
  }
  acquire(order);
}

// What a fiber does from its first to its last instruction.
inline void run_thread() {
  arrive_first(block->main);
  acquire(&launch_begins);
  (*block->kernel)();
  release(&launch_ends);
  {
    Quiet quiet;
    thread->state = State::done;
    ++block->done;
  }
  continue_main(true);
  std::abort();  // not reached: a fiber that is done is not continued
}

inline std::string why_stuck(const Thread& stuck) {
  return "thread " + std::to_string(stuck.number) +
         (stuck.state == State::at_block_barrier
              ? " waits at __syncthreads, which not every thread of the block reaches"
              : " waits at a warp collective, which not every lane of its mask reaches");
}

// Continue ready fibers in `order`, round after round, until all are done or the block fails.
inline void run_fibers(Block& of, const std::vector<int>& order) {
  const int count = static_cast<int>(of.threads.size());
  while (of.done < count && of.failure.empty()) {
    bool progress = false;
    for (int number : order) {
      Thread& next = of.threads[number];
      if (next.state != State::ready) continue;
      progress = true;
      thread = &next;
      switch_fiber(of.main, next.fiber, false);
      thread = nullptr;
      if (!of.failure.empty()) return;
    }
    if (progress) continue;
    for (const Thread& stuck : of.threads)
      if (stuck.state != State::done) {
        of.failure = "block (" + std::to_string(of.index.x) + ", ...) is stuck: " + why_stuck(stuck);
        return;
      }
  }
}

}  // namespace emulator
