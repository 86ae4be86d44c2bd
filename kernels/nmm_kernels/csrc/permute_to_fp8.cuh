// permute_to_fp8: permute and cast to 8 bits in one pass, one fp32 scale for every 128 values.
//
// Shapes: x [T, H] bf16, fp16 or fp32; values [R, H] e4m3, scales [R, G = ceil(H / 128)] fp32, mapped [R] bytes.
// Bytes: a row read and K rows of H + H / 32 written, the minimum; a cast beside a bf16 permute moves (1 + K) bf16 rows
// more or less twice over. Eight lanes hold a group, 16 values each, so that what a lane writes is one 16-byte access.
// The scale is largest / 448, at least the smallest normal number (a smaller one's reciprocal overflows), and 1 for a
// group of zeros. Magnitudes are compared as integers: a NaN is the largest and reaches the scale.
// Where H is not a multiple of 16, or a row not aligned, values move one at a time (VECTORS false).
#pragma once

#include "clear_rows.cuh"
#include "row_map.cuh"

namespace nmm::cuda {

constexpr int FP8_GROUP = 128;
constexpr int FP8_LANE = 16;  // values a lane holds
constexpr int FP8_LANES = FP8_GROUP / FP8_LANE;
constexpr int FP8_TILE = FP8_LANE * WARP;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
constexpr int FP8_OCCUPANCY = 4;  // GPUs without 8-bit floats convert in software, which takes up to 64 registers
#else
constexpr int FP8_OCCUPANCY = FULL_OCCUPANCY;
#endif
constexpr float FP8_LARGEST = 448.0f;
constexpr float SMALLEST_SCALE = 1.17549435e-38f;  // 2^-126

template <bool VECTORS, class T>
__device__ __forceinline__ void load_lane(const T* row, int first, int columns, float (&value)[FP8_LANE]) {
  constexpr int N = VECTORS ? VECTOR<T> : 1;
#pragma unroll
  for (int i = 0; i < FP8_LANE; i += N) {
    if (first + i < columns) {
      const Elements<T, N> part = load<N>(row + first + i);
#pragma unroll
      for (int j = 0; j < N; ++j) value[i + j] = widen(part.value[j]);
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) value[i + j] = 0.0f;
    }
  }
}

// The scale of the group that this lane and its seven neighbours hold.
__device__ __forceinline__ float group_scale(const float (&value)[FP8_LANE]) {
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < FP8_LANE; ++i) largest = max(largest, __float_as_uint(value[i]) & 0x7fffffffu);
#pragma unroll
  for (int bits = FP8_LANES / 2; bits > 0; bits /= 2) largest = max(largest, __shfl_xor_sync(ALL_LANES, largest, bits));
  if (largest == 0) return 1.0f;
  const float scale = __uint_as_float(largest) / FP8_LARGEST;
  return scale < SMALLEST_SCALE ? SMALLEST_SCALE : scale;
}

__device__ __forceinline__ Elements<uint8_t, FP8_LANE> to_fp8(const float (&value)[FP8_LANE], float factor) {
  Elements<uint8_t, FP8_LANE> out;
#pragma unroll
  for (int i = 0; i < FP8_LANE; i += 2) {
    const float2 two = make_float2(value[i] * factor, value[i + 1] * factor);
    const unsigned pair = __nv_cvt_float2_to_fp8x2(two, __NV_SATFINITE, __NV_E4M3);
    out.value[i] = uint8_t(pair);
    out.value[i + 1] = uint8_t(pair >> 8);
  }
  return out;
}

template <bool VECTORS>
__device__ __forceinline__ void store_lane(uint8_t* row, int first, int columns,
                                           const Elements<uint8_t, FP8_LANE>& value) {
  if constexpr (VECTORS) {
    if (first < columns) store<FP8_LANE>(row + first, value);
  } else {
#pragma unroll
    for (int i = 0; i < FP8_LANE; ++i)
      if (first + i < columns) row[first + i] = value.value[i];
  }
}

template <class T, bool VECTORS>
__global__ void __launch_bounds__(BLOCK, FP8_OCCUPANCY)
    permute_to_fp8_kernel(const T* __restrict__ x, const int* __restrict__ row_map, uint8_t* __restrict__ values,
                          float* __restrict__ scales, uint8_t* __restrict__ mapped, unsigned tokens, int rows,
                          int top_k, int columns, int groups) {
  const unsigned token = warp_of_grid();
  if (token >= tokens) return;
  check_rows_of(row_map, token, top_k, rows);
  const int first = blockIdx.y * FP8_TILE + lane_number() * FP8_LANE;
  float value[FP8_LANE];
  load_lane<VECTORS>(x + int64_t(token) * columns, first, columns, value);
  const float scale = group_scale(value);
  const Elements<uint8_t, FP8_LANE> small = to_fp8(value, 1.0f / scale);
  const bool writes_scale = first % FP8_GROUP == 0 && first < columns;
  int mine = -1;
#pragma unroll 1
  for (int choice = 0; choice < top_k; ++choice) {
    if (choice % WARP == 0) {
      mine = row_of_lane(row_map, token, top_k, choice);
      if (blockIdx.y == 0 && mine >= 0) mapped[mine] = 1;
    }
    const int row = __shfl_sync(ALL_LANES, mine, choice % WARP);
    if (row < 0) continue;
    store_lane<VECTORS>(values + int64_t(row) * columns, first, columns, small);
    if (writes_scale) scales[int64_t(row) * groups + first / FP8_GROUP] = scale;
  }
}

template <class T>
void permute_to_fp8(const T* x, const int* row_map, uint8_t* values, float* scales, uint8_t* mapped, unsigned tokens,
                    int rows, int top_k, int columns, cudaStream_t stream) {
  if (columns == 0) return;
  const int groups = int(divide_up(columns, FP8_GROUP));
  const dim3 grid(unsigned(divide_up(tokens, WARPS)), unsigned(divide_up(columns, FP8_TILE)));
  const bool vectors = columns % FP8_LANE == 0 && widest_word(0, x, values) == VECTOR_BYTES;
  if (tokens != 0 && top_k != 0) {
    if (vectors)
      LAUNCH((permute_to_fp8_kernel<T, true>), grid, BLOCK, 0, stream, x, row_map, values, scales, mapped, tokens,
             rows, top_k, columns, groups);
    else
      LAUNCH((permute_to_fp8_kernel<T, false>), grid, BLOCK, 0, stream, x, row_map, values, scales, mapped, tokens,
             rows, top_k, columns, groups);
  }
  clear_rows(mapped, values, columns, scales, groups, rows, stream);
}

}  // namespace nmm::cuda
