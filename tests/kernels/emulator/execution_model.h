// CUDA's execution model on the host: with this header g++ compiles the very kernels that nvcc compiles, and they run.
//
// Here stand the words a kernel uses; what they do is in block.h (threads, barrier, shared memory), warp.h
// (collectives) and launch.h (grid, order). NVIDIA's own headers give the vector types and the bfloat16, half and fp8
// conversions.
// Compile with -DNMM_EMULATED -fno-strict-aliasing (kernels look at rows of one type as words of another) and with
// CUDA's include folder; no GPU, driver or CUDA library is needed.
// It cannot show: speed, coalescing, bank conflicts, misuse of streams, errors of the compiler, or code that
// depends on several warps running at the very same time (spin waits), which the kernels therefore avoid.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "block.h"
#include "launch.h"
#include "warp.h"

#undef __global__
#undef __device__
#undef __shared__  // a kernel says SHARED: the host has no memory class for it
#undef __launch_bounds__
#undef __forceinline__
#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (emulator::thread->index)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->size)
#define gridDim (emulator::block->grid)

#define SHARED(type, name, ...)         \
  static const char name##_key = 0;     \
  using name##_array = type __VA_ARGS__; \
  name##_array& name = emulator::shared_array<name##_array>(&name##_key)
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(emulator::block->dynamic_shared)
#define LAUNCH(kernel, grid, size, shared_bytes, stream, ...) \
  emulator::launch(dim3(grid), dim3(size), shared_bytes, [=] { kernel(__VA_ARGS__); })

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::warp_barrier(mask); }

template <class Value>
Value __shfl_sync(unsigned mask, Value value, int source) {
  return emulator::shuffle("__shfl_sync", mask, value, source & 31);
}
template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int bits) {
  return emulator::shuffle("__shfl_xor_sync", mask, value, emulator::thread->lane() ^ bits);
}
template <class Value>
Value __shfl_up_sync(unsigned mask, Value value, int distance) {
  const int lane = emulator::thread->lane();
  return emulator::shuffle("__shfl_up_sync", mask, value, lane >= distance ? lane - distance : lane);
}
template <class Value>
Value __shfl_down_sync(unsigned mask, Value value, int distance) {
  const int lane = emulator::thread->lane();
  return emulator::shuffle("__shfl_down_sync", mask, value, lane + distance < 32 ? lane + distance : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulator::lanes_where("__ballot_sync", mask, predicate, false);
}
template <class Value>
unsigned __match_any_sync(unsigned mask, Value value) {
  return emulator::lanes_where("__match_any_sync", mask, value, true);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
inline long long __double_as_longlong(double value) { return __builtin_bit_cast(long long, value); }

template <class Integer>
Integer atomicAdd(Integer* place, std::type_identity_t<Integer> value) {
  static_assert(std::is_integral_v<Integer>, "a float sum by atomicAdd depends on the order of threads; avoid it");
  return __atomic_fetch_add(place, value, __ATOMIC_RELAXED);
}

using std::max;
using std::min;
