// combine: each token sums its K expert rows, weighted. A warp gathers one run of a token's columns from its K rows.
//
// Shapes: y [R, H], row_map [T, K] int32, probabilities [T, K] in the dtype of sums, or none; out [T, H].
// Bytes: (1 + K) rows a token, the minimum, and 8 K a warp for rows and probabilities.
// A lane holds one 16-byte vector (8 bf16) as wide sums and adds choices in order k = 0..K-1, so the result does not
// depend on timing; nothing is added atomically. It is also permute's gradient, without probabilities.
// Where H is not a multiple of the vector, or a row not aligned, a lane holds one element (N = 1).
#pragma once

#include "elements.cuh"
#include "row_map.cuh"

namespace nmm::cuda {

template <class T, int N>
__global__ void __launch_bounds__(BLOCK, FULL_OCCUPANCY)
    combine_kernel(const T* __restrict__ y, const int* __restrict__ row_map, const Wide<T>* __restrict__ probabilities,
                   T* __restrict__ out, unsigned tokens, int rows, int top_k, int columns) {
  const unsigned token = warp_of_grid();
  if (token >= tokens) return;
  check_rows_of(row_map, token, top_k, rows);
  const int column = (blockIdx.y * WARP + lane_number()) * N;
  const bool inside = column < columns;
  Wide<T> sum[N] = {};
  int mine = -1;
  Wide<T> my_weight = 1;
#pragma unroll(sizeof(T) == 2 ? 2 : 1)  // two loads in flight where 32 registers allow it
  for (int choice = 0; choice < top_k; ++choice) {
    if (choice % WARP == 0) {
      mine = row_of_lane(row_map, token, top_k, choice);
      const int64_t place = int64_t(token) * top_k + choice + lane_number();
      if (probabilities != nullptr && mine >= 0) my_weight = probabilities[place];
    }
    const int row = __shfl_sync(ALL_LANES, mine, choice % WARP);
    const Wide<T> weight = __shfl_sync(ALL_LANES, my_weight, choice % WARP);
    if (row < 0 || !inside) continue;
    const Elements<T, N> part = load<N>(y + int64_t(row) * columns + column);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += weight * widen(part.value[i]);
  }
  if (!inside) return;
  Elements<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.value[i] = narrow<T>(sum[i]);
  store<N>(out + int64_t(token) * columns + column, result);
}

template <class T>
void combine(const T* y, const int* row_map, const Wide<T>* probabilities, T* out, unsigned tokens, int rows,
             int top_k, int columns, cudaStream_t stream) {
  if (tokens == 0 || columns == 0) return;
  const unsigned blocks = unsigned(divide_up(tokens, WARPS));
  if (widest_word(columns * int64_t(sizeof(T)), y, out) == VECTOR_BYTES) {
    const dim3 grid(blocks, unsigned(divide_up(columns, WARP * VECTOR<T>)));
    LAUNCH((combine_kernel<T, VECTOR<T>>), grid, BLOCK, 0, stream, y, row_map, probabilities, out, tokens, rows,
           top_k, columns);
  } else {
    const dim3 grid(blocks, unsigned(divide_up(columns, WARP)));
    LAUNCH((combine_kernel<T, 1>), grid, BLOCK, 0, stream, y, row_map, probabilities, out, tokens, rows,
           top_k, columns);
  }
}

}  // namespace nmm::cuda
