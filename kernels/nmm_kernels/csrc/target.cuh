// One source, two targets: nvcc compiles the kernels for GPUs, g++ with -DNMM_EMULATED for the tests' execution model.
//
// Three words differ, and they stand here: SHARED and DYNAMIC_SHARED declare shared memory, LAUNCH starts a kernel.
// DEMAND states what a kernel cannot work without; the host never waits for the device, so a false one ends the kernel
// with a device-side assertion, as PyTorch's own indexing does.
#pragma once

#include <cstdint>

#if defined(NMM_EMULATED)
#include "execution_model.h"
#define DEMAND(condition, message) \
  do {                             \
    if (!(condition)) emulator::fail(message); \
  } while (0)
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cassert>
#define SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dynamic_shared)
#define LAUNCH(kernel, grid, size, shared_bytes, stream, ...) kernel<<<grid, size, shared_bytes, stream>>>(__VA_ARGS__)
#define DEMAND(condition, message)                                            \
  do {                                                                        \
    if (!(condition)) {                                                       \
      __assert_fail(message, __FILE__, __LINE__, __func__);                   \
      __builtin_unreachable(); /* spares keeping registers across the call */ \
    }                                                                         \
  } while (0)
#endif

namespace nmm::cuda {

constexpr int WARP = 32;
constexpr int BLOCK = 256;  // threads of a block, where the kernel has no reason for another number
constexpr int WARPS = BLOCK / WARP;
// Blocks of 256 threads that fill a multiprocessor of 2,048 threads, with 32 registers each, or of 1,536.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int FULL_OCCUPANCY = 6;
#else
constexpr int FULL_OCCUPANCY = 8;
#endif
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int64_t SHARED_BYTES = 48 * 1024;  // what every block gets without asking

__device__ __forceinline__ int lane_number() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp_number() { return threadIdx.x / WARP; }

// The number of this warp in the whole grid's x direction: one token, row or slice each. There are fewer than 2^31 of
// those, so half the registers of an int64 do; what is multiplied by a row's length becomes int64 before.
__device__ __forceinline__ unsigned warp_of_grid() { return blockIdx.x * (blockDim.x / WARP) + warp_number(); }

template <class Value>
__device__ __forceinline__ Value warp_sum(Value value) {
#pragma unroll
  for (int bits = WARP / 2; bits > 0; bits /= 2) value += __shfl_xor_sync(ALL_LANES, value, bits);
  return value;
}

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

}  // namespace nmm::cuda
