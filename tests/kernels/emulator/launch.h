// A launch runs the blocks of its grid one after another, blocks and threads in the order that the test chose.
//
// Whatever the order, a correct kernel gives the same result: forward, backward, or shuffled anew for every launch.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>

#include "block.h"

namespace emulator {

enum class Order { forward = 0, backward = 1, shuffled = 2 };

inline Order chosen_order = Order::forward;
inline std::mt19937 shuffler(1);

inline std::vector<int> numbers_in_order(size_t count) {
  std::vector<int> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0);
  if (chosen_order == Order::backward) std::reverse(numbers.begin(), numbers.end());
  if (chosen_order == Order::shuffled) std::shuffle(numbers.begin(), numbers.end(), shuffler);
  return numbers;
}

inline void check_limits(dim3 grid, dim3 size, size_t dynamic_shared_bytes) {
  auto refuse = [](const std::string& what) { throw std::runtime_error("emulator: a launch " + what); };
  if (size_t(size.x) * size.y * size.z - 1 >= 1024) refuse("has 1 to 1,024 threads a block");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) refuse("has at least one block");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) refuse("has at most 2^31 - 1, 65,535, 65,535 blocks");
  if (dynamic_shared_bytes > 48 * 1024) refuse("gets at most 48 KiB of shared memory without asking for more");
  if (RACES_ARE_WATCHED && long(grid.x) * grid.y * grid.z * size.x * size.y * size.z > MOST_WATCHED_THREADS)
    refuse("has at most 8,000 threads under ThreadSanitizer; use a smaller shape");
}

inline void run_block(dim3 grid, dim3 size, long number, size_t dynamic_shared_bytes,
                      const std::function<void()>& kernel) {
  static thread_local Stacks stacks;
  // On the heap: freeing it makes ThreadSanitizer forget its places, which would order this block before the next.
  const auto owner = std::make_unique<Block>();
  Block& here = *owner;
  here.grid = grid;
  here.size = size;
  here.index = make_uint3(number % grid.x, number / grid.x % grid.y, number / (long(grid.x) * grid.y));
  here.kernel = &kernel;
  here.threads.resize(size.x * size.y * size.z);
  here.warps.resize((here.threads.size() + WARP_LANES - 1) / WARP_LANES);
  if (dynamic_shared_bytes != 0) here.dynamic_shared = new_shared(dynamic_shared_bytes);
  stacks.make_room(here.threads.size());
  note_own_fiber(here.main);
  for (size_t i = 0; i < here.threads.size(); ++i) {
    Thread& one = here.threads[i];
    one.number = static_cast<int>(i);
    one.index = make_uint3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    prepare(one.fiber, stacks.stack(i), run_thread);
  }
  block = &here;
  run_fibers(here, numbers_in_order(here.threads.size()));
  block = nullptr;
  free_shared(here);
  if (!here.failure.empty()) throw std::runtime_error("emulator: " + here.failure);
}

// kernel<<<grid, size, dynamic_shared_bytes>>>(...), where `kernel` is the call with its arguments bound by value.
inline void launch(dim3 grid, dim3 size, size_t dynamic_shared_bytes, const std::function<void()>& kernel) {
  release(&launch_begins);
  {
    Quiet quiet;
    forget_watched();
    check_limits(grid, size, dynamic_shared_bytes);
    for (int number : numbers_in_order(size_t(grid.x) * grid.y * grid.z))
      run_block(grid, size, number, dynamic_shared_bytes, kernel);
  }
  acquire(&launch_ends);
}

}  // namespace emulator

// For tests through ctypes: 0 forward, 1 backward, 2 shuffled from this seed.
extern "C" __attribute__((weak, visibility("default"))) void emulator_set_order(int order, unsigned seed) {
  emulator::chosen_order = static_cast<emulator::Order>(order);
  emulator::shuffler.seed(seed);
}
