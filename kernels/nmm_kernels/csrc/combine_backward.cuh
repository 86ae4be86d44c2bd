// combine_backward: both gradients of combine in one pass over the rows. A block takes one token.
//
// grad_y[row] = probability * grad[t] and grad_probabilities[t, k] = <grad[t], y[row]>.
// Shapes: grad [T, H], y [R, H], row_map and probabilities [T, K], grad_y [R, H], grad_probabilities [T, K];
// mapped [R] bytes, zero before.
// Bytes: (1 + 2 K) rows a token, the minimum as long as the token's own row (14 KiB at H 7,168 in bf16) stays in the
// first-level cache, from where it is read K times. Two passes (rows, then probabilities) would move 2 + 3 K.
// The dot product ends in one sum over the block's warps in a fixed order: no atomics, the same bits every time.
// Blocks have 64 to 256 threads, as many as give each lane about four vectors of the row.
#pragma once

#include "clear_rows.cuh"
#include "row_map.cuh"

namespace nmm::cuda {

// Blocks of 256 a multiprocessor: up to 40 registers and 75 % occupancy, for at 32 the fp16 kernel spills on sm_90 and
// sm_100. Each thread keeps two rows on their way, which hides latency as well as full occupancy with one.
constexpr int BACKWARD_OCCUPANCY = 6;

// This thread's share of grad_y's row, and of the dot product, which is returned.
template <int N, class T>
__device__ __forceinline__ Wide<T> scale_and_dot(const T* grad, const T* y, T* grad_y, Wide<T> weight, int columns) {
  Wide<T> dot = 0;
  for (int column = threadIdx.x * N; column < columns; column += blockDim.x * N) {
    const Elements<T, N> g = load<N>(grad + column);
    const Elements<T, N> v = load<N>(y + column);
    Elements<T, N> scaled;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      dot += widen(g.value[i]) * widen(v.value[i]);
      scaled.value[i] = narrow<T>(weight * widen(g.value[i]));
    }
    store<N>(grad_y + column, scaled);
  }
  return dot;
}

template <class T, int N>
__global__ void __launch_bounds__(BLOCK, BACKWARD_OCCUPANCY)
    combine_backward_kernel(const T* __restrict__ grad, const T* __restrict__ y, const int* __restrict__ row_map,
                            const Wide<T>* __restrict__ probabilities, T* __restrict__ grad_y,
                            Wide<T>* __restrict__ grad_probabilities, uint8_t* __restrict__ mapped, int rows,
                            int top_k, int columns) {
  SHARED(Wide<T>, part, [WARP][WARPS]);
  const unsigned token = blockIdx.x;
  check_rows_of(row_map, token, top_k, rows);
  for (int begin = 0; begin < top_k; begin += WARP) {
    const int mine = row_of_lane(row_map, token, top_k, begin);
    const Wide<T> my_weight = mine >= 0 ? probabilities[int64_t(token) * top_k + begin + lane_number()] : Wide<T>(0);
    if (warp_number() == 0 && mine >= 0) mapped[mine] = 1;
    const int choices = min(WARP, top_k - begin);
#pragma unroll 1
    for (int choice = 0; choice < choices; ++choice) {
      const int row = __shfl_sync(ALL_LANES, mine, choice);
      const Wide<T> weight = __shfl_sync(ALL_LANES, my_weight, choice);
      Wide<T> dot = 0;
      if (row >= 0)
        dot = scale_and_dot<N>(grad + int64_t(token) * columns, y + int64_t(row) * columns,
                               grad_y + int64_t(row) * columns, weight, columns);
      dot = warp_sum(dot);
      if (lane_number() == 0) part[choice][warp_number()] = dot;
    }
    __syncthreads();
    if (int(threadIdx.x) < choices) {
      Wide<T> sum = 0;
      for (int warp = 0; warp < int(blockDim.x) / WARP; ++warp) sum += part[threadIdx.x][warp];
      grad_probabilities[int64_t(token) * top_k + begin + threadIdx.x] = sum;
    }
    __syncthreads();  // the next batch of choices writes `part` again
  }
}

template <class T>
void combine_backward(const T* grad, const T* y, const int* row_map, const Wide<T>* probabilities, T* grad_y,
                      Wide<T>* grad_probabilities, uint8_t* mapped, unsigned tokens, int rows, int top_k,
                      int columns, cudaStream_t stream) {
  if (tokens != 0 && top_k != 0) {
    const unsigned blocks = tokens;
    const bool vectors = widest_word(columns * int64_t(sizeof(T)), grad, y, grad_y) == VECTOR_BYTES;
    const int64_t lanes = divide_up(columns, 4 * (vectors ? VECTOR<T> : 1));
    const int threads = int(divide_up(lanes < 64 ? 64 : lanes > BLOCK ? BLOCK : lanes, WARP)) * WARP;
    if (vectors)
      LAUNCH((combine_backward_kernel<T, VECTOR<T>>), blocks, threads, 0, stream, grad, y, row_map, probabilities,
             grad_y, grad_probabilities, mapped, rows, top_k, columns);
    else
      LAUNCH((combine_backward_kernel<T, 1>), blocks, threads, 0, stream, grad, y, row_map, probabilities, grad_y,
             grad_probabilities, mapped, rows, top_k, columns);
  }
  if (columns != 0) clear_rows(mapped, grad_y, columns * int64_t(sizeof(T)), nullptr, 0, rows, stream);
}

}  // namespace nmm::cuda
