// Kernels that are wrong on purpose: a harness that misses one of them proves nothing about the right ones.
//
//   wrong_kernels NAME    exit status 0: nothing noticed; 3: the emulator refused it; 4: the result is wrong.
// Each is caught by the emulator itself, by AddressSanitizer and UBSan, or by ThreadSanitizer; test_wrong_kernels.py
// says which. Two right kernels stand beside them, which nothing may refuse.
#include <cstdio>
#include <vector>

#include "target.cuh"

namespace {

// A barrier that some threads never reach: on a GPU the block hangs, or goes on half-synchronised.
__global__ void barrier_in_a_branch(int* out) {
  if (threadIdx.x < 100) __syncthreads();
  out[threadIdx.x] = 1;
}

// Half of the lanes named in the mask are elsewhere.
__global__ void mask_of_absent_lanes(int* out) {
  int value = threadIdx.x;
  if (threadIdx.x % 2 == 1) value = __shfl_xor_sync(0xffffffffu, value, 2);
  out[threadIdx.x] = value;
}

// Lanes that ended cannot be met any more.
__global__ void lanes_that_left(int* out) {
  if (threadIdx.x % 32 >= 16) return;
  out[threadIdx.x] = __shfl_sync(0xffffffffu, int(threadIdx.x), 0);
}

// The value of a lane outside the mask is undefined.
__global__ void source_outside_the_mask(int* out) {
  int value = threadIdx.x;
  if (threadIdx.x % 32 < 16) value = __shfl_sync(0x0000ffffu, value, 20);
  out[threadIdx.x] = value;
}

// One half of a warp votes while the other shuffles, under one mask.
__global__ void two_collectives_at_once(int* out) {
  if (threadIdx.x % 32 < 16)
    out[threadIdx.x] = int(__ballot_sync(0xffffffffu, 1));
  else
    out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}

// Half of the array is never set.
__global__ void shared_never_set(int* out) {
  SHARED(int, values, [64]);
  if (threadIdx.x < 32) values[threadIdx.x] = 7;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x % 64];
}

// Whoever comes last wins: the result is the order of threads.
__global__ void last_writer_wins(int* out) { out[0] = threadIdx.x; }

__global__ void shared_out_of_bounds(int* out) {
  SHARED(int, values, [100]);
  values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[0];
}

__global__ void dynamic_shared_out_of_bounds(int* out) {
  DYNAMIC_SHARED(int, values);
  values[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = values[1];
}

__global__ void global_out_of_bounds(int* out) { out[threadIdx.x + 1] = 1; }

// 16 bytes from an address that is a multiple of 4 only.
__global__ void misaligned_vector(int* out) {
  const uint4 four = *reinterpret_cast<const uint4*>(out + 1);
  out[threadIdx.x] = int(four.x);
}

__global__ void missing_block_barrier(int* out) {
  SHARED(int, values, [256]);
  values[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = values[255 - threadIdx.x];
}

// Shuffles exchange values; they do not order memory.
__global__ void missing_warp_barrier(int* out) {
  SHARED(int, values, [256]);
  values[threadIdx.x] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 1);
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

// The next round overwrites what a slower warp still reads.
__global__ void missing_barrier_at_the_end_of_a_loop(int* out) {
  SHARED(int, value, [1]);
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) value[0] = round;
    __syncthreads();
    out[threadIdx.x] = value[0];
  }
}

__global__ void sum_across_blocks_without_atomic(int* out) {
  if (threadIdx.x == 0) out[0] += 1;
}

// Barriers order the threads of a block, and nothing between blocks.
__global__ void barriers_between_blocks(int* out) {
  __syncthreads();
  if (threadIdx.x == 0) out[0] += 1;
  __syncthreads();
}

// Right: a sum over the block, then over blocks.
__global__ void right_sum(int* out) {
  SHARED(int, part, [8]);
  const int sum = nmm::cuda::warp_sum(1);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 0; warp < 8; ++warp) atomicAdd(&out[0], part[warp]);
}

// Right: lanes of a warp read what their neighbours wrote before a __syncwarp; two halves shuffle apart.
__global__ void right_warps(int* out) {
  DYNAMIC_SHARED(int, values);
  values[threadIdx.x] = threadIdx.x;
  __syncwarp();
  int value = values[threadIdx.x ^ 1];
  if (threadIdx.x % 32 < 16)
    value = __shfl_xor_sync(0x0000ffffu, value, 1);
  else
    value = __shfl_xor_sync(0xffff0000u, value, 1);
  if (blockIdx.x == 0) out[threadIdx.x] = value;
}

struct Trial {
  const char* name;
  void (*kernel)(int*);
  unsigned blocks;
  bool (*right)(const std::vector<int>&);
};

bool anything(const std::vector<int>&) { return true; }
bool all_seven(const std::vector<int>& out) { return out == std::vector<int>(256, 7); }
bool eight_times_256(const std::vector<int>& out) { return out[0] == 8 * 256; }
bool own_number(const std::vector<int>& out) {
  for (int i = 0; i < 256; ++i)
    if (out[i] != i) return false;
  return true;
}

#define TRIAL(name, blocks, right) {#name, name, blocks, right}
const Trial TRIALS[] = {
    TRIAL(barrier_in_a_branch, 1, anything),
    TRIAL(mask_of_absent_lanes, 1, anything),
    TRIAL(lanes_that_left, 1, anything),
    TRIAL(source_outside_the_mask, 1, anything),
    TRIAL(two_collectives_at_once, 1, anything),
    TRIAL(shared_never_set, 1, all_seven),
    TRIAL(last_writer_wins, 1, anything),
    TRIAL(shared_out_of_bounds, 1, anything),
    TRIAL(dynamic_shared_out_of_bounds, 1, anything),
    TRIAL(global_out_of_bounds, 1, anything),
    TRIAL(misaligned_vector, 1, anything),
    TRIAL(missing_block_barrier, 1, anything),
    TRIAL(missing_warp_barrier, 1, anything),
    TRIAL(missing_barrier_at_the_end_of_a_loop, 1, anything),
    TRIAL(sum_across_blocks_without_atomic, 8, anything),
    TRIAL(barriers_between_blocks, 8, anything),
    TRIAL(right_sum, 8, eight_times_256),
    TRIAL(right_warps, 2, own_number),
};

// Runs the kernel in three orders: 0 when every result is right and all are equal.
int run(const Trial& trial) {
  std::vector<int> first;
  for (int order = 0; order < 3; ++order) {
    emulator_set_order(order, 1);
    std::vector<int> out(256, 0);
    int* const place = out.data();
    void (*const kernel)(int*) = trial.kernel;
    LAUNCH(kernel, trial.blocks, 256, 256 * sizeof(int), nullptr, place);
    if (order == 0) first = out;
    if (!trial.right(out)) return std::printf("the result is wrong\n"), 4;
    if (out != first) return std::printf("the result depends on the order of threads\n"), 4;
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  for (const Trial& trial : TRIALS) {
    if (count == 1) std::printf("%s\n", trial.name);
    if (count == 1 || std::string(words[1]) != trial.name) continue;
    try {
      return run(trial);
    } catch (const std::exception& refused) {
      std::printf("%s\n", refused.what());
      return 3;
    }
  }
  return count == 1 ? 0 : 2;
}
